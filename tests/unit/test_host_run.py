"""One host of a run, against a shell: read, lock, change, read again."""

from dataclasses import dataclass, replace

import pytest

from provision import testing
from provision.apply import host_run
from provision.apply.host_run import HostRun
from provision.artifacts.store import Store
from provision.command import Answer, Obtain, Put, Run, run
from provision.errors import CommandError, HostError, LockedError, NotConvergedError, UnreachableError
from provision.inventory import Connection, Host, Inventory
from provision.plan.role_interface import Entry
from provision.runs.context import Context, Stopped
from provision.runs.setup import Timings
from provision.steps.base import BlockedError, Check, Fact, Owned, Step
from provision.steps.fleet_state import FleetState
from provision.steps.nginx.upstream import FILE
from provision.steps.system.file_scan import Content
from provision.testing import ShellHost
from tests.shell import sh

from .local import SETTINGS, deployed

ROLES = frozenset({"docker"})


def text_of(answer: Answer):
    return {"text": answer.text} if answer.exit == 0 else None


@dataclass(frozen=True)
class Note(Step):
    """A file with a text in it; `how` makes it with other commands, `base` is a note that must be there first."""

    path: str
    text: str | None = "wanted"
    how: tuple = ()
    base: str = ""

    @property
    def id(self):
        return f"note:{self.path.rsplit('/', 1)[-1]}"

    def fact(self):
        def parse(answer):
            if answer.exit == 9:
                raise BlockedError(f"note:{self.base.rsplit('/', 1)[-1]}")
            return text_of(answer)

        script = 'if [ -n "$2" ] && [ ! -f "$2" ]; then exit 9; fi; cat "$1" 2>/dev/null'
        return Fact(sh(script, self.path, self.base, title="cat"), parse)

    def want(self, facts, have):
        return None if self.text is None else {"text": self.text}

    def commands(self, have, want):
        if want is None:
            return [run("rm", self.path)]
        return self.how or [Put(self.path, want["text"].encode(), owner="")]

    def check(self, live):
        yield Check("is", 1, 1)


@dataclass(frozen=True)
class Upstream(Step):
    """The upstream of a balancer, as read: a step that never changes anything.

    Args:
        text: the text of the upstream.
    """

    text: str
    routes = True

    @property
    def id(self):
        return "config:upstream"

    def fact(self):
        return Fact(run("true"), lambda answer: {"files": {FILE: Content(self.text.encode())}})

    def want(self, facts, have):
        return have

    def commands(self, have, want):
        return []

    def check(self, live):
        yield Check("is", 1, 1)


@dataclass(frozen=True)
class Notes(Owned):
    folder: str

    def fact(self):
        def parse(answer):
            return {f"note:{name}": {"text": ""} for name in answer.text.split()}

        return Fact(sh('cd "$1"; ls *.ours 2>/dev/null || :', self.folder, title="ls"), parse)

    def step(self, step_id):
        return Note(f"{self.folder}/{step_id.split(':')[1]}", None)


@pytest.fixture
def make(tmp_path):
    """Makes a HostRun for steps of a test, with everything in the test's own folder."""
    (tmp_path / "host").mkdir()
    setup = testing.setup(
        tmp_path,
        steps=lambda host, inventory: host.variables["entries"],
        owned=[("docker", Notes(str(tmp_path / "host")))],
    )
    events = []

    def build(*things, session=None, store=None, stop=False, roles=ROLES, run_id="run-1", timings=None, **more):
        entries = tuple(Entry("docker", thing) for thing in things)
        address, groups = Connection(address="192.0.2.1"), more.pop("groups", ())
        variables = {"entries": entries}
        host = Host(name="h", groups=groups, connection=address, settings=SETTINGS, variables=variables)
        inventory = Inventory(path="", hosts=(host,))
        own = replace(setup, timings=timings or Timings())
        listen = more.pop("listen", events.append)
        context = Context(run_id, inventory, roles, listen, store or Store(tmp_path / "store"), setup=own)
        if stop:
            context.stop.set()
        made = HostRun(host, session or ShellHost(setup.paths), context, **more)
        made.read()
        return made

    build.events = events
    build.folder = tmp_path / "host"
    return build


def note(make, name="a", **kwargs):
    return Note(str(make.folder / name), **kwargs)


def test_a_host_without_changes_costs_one_exec_and_no_lock(make, tmp_path):
    (make.folder / "a").write_text("wanted")
    host = make(note(make))
    deployed(host.deploy(ROLES))
    host.finish()
    assert (host.session.execs, host.changed) == (1, [])
    assert not (tmp_path / "run").exists()


def test_a_change_is_made_and_the_lock_given_back(make, tmp_path):
    host = make(note(make), note(make, "b"))
    deployed(host.deploy(ROLES))
    host.finish()
    assert host.changed == ["note:a", "note:b"]
    assert (make.folder / "b").read_text() == "wanted"
    assert not (tmp_path / "run" / "lock").exists()


def test_a_rollback_restores_the_past_state_of_a_step(make):
    (make.folder / "a").write_text("wanted")
    (make.folder / "b").write_text("added")
    past = (Entry("docker", note(make), {"text": "of then"}), Entry("docker", note(make, "b"), None))
    host = make(note(make), note(make, "b"), past=past)
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a", "note:b"]
    assert {path.name: path.read_text() for path in make.folder.iterdir()} == {"a": "of then"}
    assert [change.reason for change in host.plans[0].changes] == ["text differs", "was not there before"]


def test_a_blocking_step_is_changed_first_and_the_blocked_step_is_read_again(make):
    host = make(note(make), note(make, "b", base=str(make.folder / "a")))
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a", "note:b"]


def test_a_blocked_step_that_proves_right_is_not_changed(make):
    (make.folder / "b").write_text("wanted")
    host = make(note(make), note(make, "b", base=str(make.folder / "a")))
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a"]


def test_orphans_are_removed_and_declared_steps_stay(make):
    (make.folder / "x.ours").write_text("")
    (make.folder / "y.ours").write_text("wanted")
    host = make(note(make, "y.ours"))
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:x.ours"]
    assert [path.name for path in make.folder.iterdir()] == ["y.ours"]


def test_a_change_without_effect_is_a_failure(make):
    with pytest.raises(NotConvergedError, match="still differs"):
        deployed(make(note(make, how=(run("true"),))).deploy(ROLES))


def test_a_failing_command_carries_its_evidence_and_stops_the_host(make):
    broken = sh("echo no space left on device >&2; exit 7", title="write it")
    host = make(note(make, how=(broken, run("touch", str(make.folder / "never")))), note(make, "b"))
    with pytest.raises(CommandError) as error:
        deployed(host.deploy(ROLES))
    found = error.value
    assert (found.step, found.command, found.exit_status) == ("note:a", "write it", 7)
    assert "no space left" in found.stderr
    assert not list(make.folder.iterdir())


def test_a_failed_job_fails_the_host_and_its_output_is_streamed(make):
    long = sh("echo step one; exit 5", title="long", job=True, progress=lambda line: line.upper())
    with pytest.raises(CommandError) as error:
        deployed(make(note(make, how=(long,))).deploy(ROLES))
    assert error.value.exit_status == 5
    assert "STEP ONE" in [event.text for event in make.events if event.kind == "progress"]


def test_the_lock_of_another_run_is_respected_and_named(make):
    other = make(note(make), run_id="run-0")
    other._lock(other.plan(ROLES), ROLES, None)
    with pytest.raises(LockedError, match="run-0"):
        deployed(make(note(make)).deploy(ROLES))
    assert not list(make.folder.iterdir())


def test_after_a_wait_for_a_lock_the_host_is_planned_again(make):
    other = make(note(make), note(make, "b"), run_id="run-0")
    other._lock(other.plan(ROLES), ROLES, None)

    def listen(event):
        make.events.append(event)
        if "waiting: locked by" in event.text:
            (make.folder / "a").write_text("wanted")
            other.finish()

    host = make(note(make), note(make, "b"), listen=listen, timings=Timings(lock_poll=0.0))
    host.context = replace(host.context, lock_wait=60.0)
    planned = host.plan(ROLES)
    deployed(host.deploy(ROLES))
    assert [change.step.id for change in planned.changes] == ["note:a", "note:b"]
    assert host.changed == ["note:b"]
    assert any("waiting: locked by" in event.text for event in make.events)


def test_lock_wait_bounds_the_wait_for_a_lock(make):
    other = make(note(make), run_id="run-0")
    other._lock(other.plan(ROLES), ROLES, None)
    host = make(note(make), timings=Timings(lock_poll=0.1))
    host.context = replace(host.context, lock_wait=0.05)
    with pytest.raises(LockedError, match="run-0"):
        deployed(host.deploy(ROLES))
    assert not list(make.folder.iterdir())


def test_an_expired_lock_is_taken_over(make):
    other = make(note(make), run_id="run-0", timings=Timings(lease=-1.0, renewal=-1.0))
    other._lock(other.plan(ROLES), ROLES, None)
    host = make(note(make))
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a"]


def test_a_host_that_changed_since_its_plan_is_left_alone(make):
    host = make(note(make))
    planned = host.plan(ROLES)
    (make.folder / "a").write_text("by somebody else")
    with pytest.raises(HostError, match="changed while"):
        host._lock(planned, ROLES, None)


def test_only_the_confirmed_plan_is_carried_out(make):
    host = make(note(make))
    (make.folder / "a").write_text("wanted")
    host.read()
    host.context.confirmed["h"] = host.plan(ROLES)
    (make.folder / "a").write_text("by somebody else")
    host.read()
    with pytest.raises(HostError, match="the plan has changes that nobody agreed to"):
        deployed(host.deploy(ROLES))
    assert host.changed == []
    host.context.confirmed["h"] = host.plan(ROLES)
    (make.folder / "a").write_text("by somebody else again")
    host.read()
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a"]


def test_a_step_that_became_right_does_not_stop_the_host(make):
    host = make(note(make), note(make, "b"))
    planned = host.plan(ROLES)
    (make.folder / "a").write_text("wanted")
    assert [change.step.id for change in host._lock(planned, ROLES, None).changes] == ["note:b"]


def test_a_host_stops_between_two_steps(make):
    with pytest.raises(host_run.Stopped):
        deployed(make(note(make), stop=True).deploy(ROLES))
    assert not list(make.folder.iterdir())


@pytest.mark.parametrize("dead", [2, 3, 4])
def test_a_lost_connection_at_any_exec_is_unreachable_and_a_second_run_converges(make, dead):
    host = make(note(make), note(make, "b"), session=ShellHost(lost_at=frozenset({dead})))
    with pytest.raises(UnreachableError):
        deployed(host.deploy(ROLES))
    again = make(note(make), note(make, "b"), run_id="run-1")
    deployed(again.deploy(ROLES))
    assert {path.name: path.read_text() for path in make.folder.iterdir()} == {"a": "wanted", "b": "wanted"}


def test_a_connection_lost_between_two_changes_names_the_next_step(make):
    (make.folder / "b").write_text("old")
    turns_out_right = note(make, "b", how=(run("false"),))
    session = ShellHost(
        lost_at=frozenset({4})
    )  # read; lock and read again; the first change; the read before the second
    host = make(
        note(
            make,
            how=(sh('printf wanted >"$1"; printf wanted >"$2"', *(str(make.folder / n) for n in "ab"), title="x"),),
        ),
        turns_out_right,
        note(make, "c"),
        session=session,
    )
    with pytest.raises(UnreachableError) as error:
        deployed(host.deploy(ROLES))
    assert error.value.step == "note:c"


def test_large_files_have_an_exec_of_their_own(make):
    text = "x" * 200_000
    host = make(note(make, text=text))
    deployed(host.deploy(ROLES))
    assert (make.folder / "a").read_text() == text


def test_an_artifact_is_made_once_and_then_uploaded(make, tmp_path):
    store = Store(tmp_path / "store")
    count, tar = tmp_path / "count", make.folder / "tar"
    built = sh('echo made >>"$1"; printf bytes >"$2"', str(count), str(tar), title="make it")
    wanted = Obtain("key", str(tar), (built,))
    for name in ("a", "b"):
        how = (wanted, Run(("cp", str(tar), str(make.folder / name))), Run(("rm", str(tar))))
        deployed(make(note(make, name, text="bytes", how=how), store=store).deploy(ROLES))
    assert count.read_text() == "made\n"
    assert (make.folder / "b").read_text() == "bytes"


def test_a_corrupt_artifact_is_made_again(make, tmp_path):
    store = Store(tmp_path / "store")
    with store.adding("key") as path:
        path.write_bytes(b"bytes")
    store.find("key").write_bytes(b"other")
    assert store.find("key") is None


def test_a_failed_first_command_is_no_lost_connection():
    answers = ShellHost().batch([sh("exit 75", title="x"), run("true")], stop=True)
    assert [answer.exit for answer in answers] == [75]


def test_a_lock_lost_between_two_changes_is_reported_with_its_new_holder(make, tmp_path):
    steal = sh('printf "other 99999999 1 thief\\n\\n" >"$1"', str(tmp_path / "run" / "lock"), title="steal")
    host = make(note(make, how=(steal, Put(str(make.folder / "a"), b"wanted", owner=""))), note(make, "b"))
    with pytest.raises(LockedError, match="thief"):
        deployed(host.deploy(ROLES))
    assert host.changed == ["note:a"]


def test_an_incomplete_upload_replaces_no_file(tmp_path):
    import subprocess

    from provision.ssh.transport import RECEIVE

    words = ["sh", "-c", RECEIVE, "receive", str(tmp_path / "file"), "0644", "", "10"]
    assert subprocess.run(words, input=b"half", check=False).returncode == 1
    assert list(tmp_path.iterdir()) == []
    assert subprocess.run(words, input=b"0123456789", check=False).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_no_host_waits_for_an_artifact_of_a_host_outside_the_run(make):
    wanted = Obtain("key", str(make.folder / "tar"), (run("true"),), host="builder", title="nginx")
    with pytest.raises(HostError, match="only builder may make the artifact, and builder is not in this run"):
        deployed(make(note(make, how=(wanted,))).deploy(ROLES))


def test_a_locked_host_is_read_again_before_its_next_change(make):
    host = make(note(make), note(make, "b"), roles=ROLES | {"balancer"})
    deployed(host.deploy(ROLES))
    (make.folder / "a").unlink()
    host.read()
    (make.folder / "a").write_text("wanted")
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a", "note:b"]


def test_each_change_costs_one_exec_and_the_last_exec_releases_the_lock(make, tmp_path):
    host = make(note(make), note(make, "b"))
    deployed(host.deploy(ROLES))
    assert host.session.execs == 4  # read; lock and read again; a, and what b is; b, everything, and the lock
    assert not (tmp_path / "run" / "lock").exists()
    host.finish()
    assert host.session.execs == 4


@pytest.mark.parametrize("cut", [False, True])
def test_the_lease_of_a_cut_off_host_is_left_to_expire(make, tmp_path, cut):
    host = make(note(make), roles=ROLES | {"balancer"})
    deployed(host.deploy(ROLES))
    if cut:
        host.context.cut.set()
    host.finish("unreachable", Stopped("stopped at once") if cut else UnreachableError("lost"))
    assert (tmp_path / "run" / "lock").exists()


def test_the_lock_is_kept_until_the_last_wave(make, tmp_path):
    host = make(note(make), roles=ROLES | {"balancer"})
    deployed(host.deploy(ROLES))
    assert (tmp_path / "run" / "lock").exists()
    deployed(host.deploy(frozenset({"balancer"}), FleetState()))
    host.finish()
    assert not (tmp_path / "run" / "lock").exists()


@dataclass(frozen=True)
class Codename(Note):
    """A note that depends on the host."""

    def want(self, facts, have):
        return {"text": f"of {facts.codename}"}


@pytest.mark.parametrize(("kind", "execs"), [(Note, 4), (Codename, 5)])
def test_host_facts_are_read_again_after_a_change_only_for_a_step_that_reads_facts(make, kind, execs):
    host = make(note(make), kind(str(make.folder / "b")))
    deployed(host.deploy(ROLES))
    assert (host.changed, host.session.execs) == (["note:a", "note:b"], execs)


def test_a_later_step_sees_the_effect_of_an_earlier_change(make):
    both = (run("touch", str(make.folder / "a")), run("sh", "-c", 'printf wanted >"$1"', "sh", str(make.folder / "b")))
    host = make(Note(str(make.folder / "a"), "", both), note(make, "b"))
    deployed(host.deploy(ROLES))
    assert host.changed == ["note:a"]
    assert ("ok", "note:b") in [(event.kind, event.step) for event in make.events]


def test_the_lock_is_renewed_during_a_silent_job(make):
    (make.folder / "a").write_text("")
    silent = sh('sleep 0.6; printf wanted >"$1"', str(make.folder / "a"), title="long", job=True)
    host = make(note(make, how=(silent,)), timings=Timings(renewal=0.0, keeper_look=0.05))
    deployed(host.deploy(ROLES))
    renewals = [text for text in host.session.scripts if b"flock" in text and b"begin 1" not in text]
    assert host.changed == ["note:a"]
    assert len(renewals) >= 2
