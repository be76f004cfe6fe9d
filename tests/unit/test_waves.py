"""Runs across hosts: a bad host does not stop the rest, and every host has a result."""

import dataclasses
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from provision import actions, testing
from provision.actions import exit_code
from provision.artifacts.store import Store
from provision.command import Obtain, run
from provision.errors import CommandError, FactError, LockedError, RefusedError, UnreachableError, UsageError
from provision.events import ignore
from provision.inventory import Connection, Host, Inventory
from provision.plan.role_interface import Entry, serving
from provision.report import plan as report_plan
from provision.rollout import fleet
from provision.rollout.outcome import NO_LIMIT, Pace, selection
from provision.rollout.waves import Rollout
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.testing import ShellHost
from tests.shell import sh

from .ctrl_c import pressed
from .local import SETTINGS, deployed
from .test_host_run import Note, Upstream

ROLES = frozenset({"docker"})


@pytest.fixture
def make(tmp_path):
    """A function that makes a Rollout; every host is a folder of the test."""
    dead = {}

    def connect(connection, become_password, paths):
        return ShellHost(paths, dead.get(connection.address, frozenset()))

    def entries_of(host, inventory):
        return host.variables["entries"]

    setup = testing.setup(tmp_path, connect, steps=entries_of, owned=())

    def build(
        hosts,
        *,
        unreachable=(),
        stop=None,
        forks=4,
        pace=None,
        role="docker",
        steps_of=None,
        listen=ignore,
        clock=time.time,
    ):
        groups, roles = ((role,) if role == "balancer" else ()), frozenset({role})
        made = []
        for name, how in hosts.items():
            (tmp_path / name).mkdir()
            dead[name] = frozenset({1}) if name in unreachable else frozenset()
            note = Note(str(tmp_path / name / "a"), how=how)
            steps = steps_of(name, note) if steps_of else (note,)
            connection, variables = Connection(address=name), {"entries": tuple(Entry(role, one) for one in steps)}
            kinds = ("gpu",) if name.startswith("gpu") else groups
            made.append(Host(name=name, groups=kinds, connection=connection, settings=SETTINGS, variables=variables))
        inventory = Inventory(path="", hosts=tuple(made))
        context = Context(
            "run-1",
            inventory,
            roles,
            listen,
            Store(tmp_path / "store"),
            stop or threading.Event(),
            setup=dataclasses.replace(setup, clock=clock),
        )
        return Rollout(context, [(host, roles) for host in made], None, forks, pace or Pace())

    return build


def test_a_failed_host_does_not_stop_the_rest(make):
    outcomes = make({"good": (), "bad": (run("false"),), "gone": ()}, unreachable=["gone"]).deploy()
    assert {outcome.host: outcome.result for outcome in outcomes} == {
        "good": "changed",
        "bad": "failed",
        "gone": "unreachable",
    }
    assert outcomes[1].error.step == "note:a"


class Refusing(Note):
    """A note that refuses the instance `two`."""

    def refused(self, facts):
        return {"two": "two cannot run: GPU 1 (GPU-1) is missing"}


class Ill(Note):
    """The server of the instance `two`, which does not serve."""

    part_of = "two"
    serves = True


def refusing(host, note):
    """Return the steps of a host; on gpu-01 the instance `two` is refused, and does not serve."""
    if host != "gpu-01":
        return (note,)
    return Refusing(note.path, how=note.how), Ill(f"{note.path}-two")


def test_a_host_with_a_refused_instance_fails_after_its_changes(make):
    made = make({"gpu-01": (), "gpu-02": ()}, steps_of=refusing)
    seen = []
    made._last_wave = lambda: seen.append(made.fleet())
    one, other = made.deploy()
    assert (one.result, one.changed, other.result) == ("failed", ["note:a"], "changed")
    assert (one.error.exit_code, one.error.message) == (3, "two cannot run: GPU 1 (GPU-1) is missing")
    (known,) = seen
    assert (known.failed, known.not_ready) == (frozenset(), {"gpu-01/two"}), (
        "the balancers leave out the refused instance alone"
    )
    assert made.guarded == ""


def test_a_host_with_a_refused_instance_does_not_count_for_max_fail(make):
    made = make({"gpu-01": (), "gpu-02": ()}, pace=Pace(max_fail=0), steps_of=refusing)
    assert results(made) == {"gpu-01": "failed", "gpu-02": "changed"}
    assert made.guarded == ""


def test_a_plan_shows_the_other_changes_of_a_host_with_a_refused_instance(make, capsys):
    made = make({"gpu-01": ()}, steps_of=refusing)
    outcomes = made.plan()
    report_plan.text(outcomes, made.context.inventory, report_plan.Detail(diff=False))
    said = capsys.readouterr().out
    assert "two cannot run: GPU 1 (GPU-1) is missing" in said
    assert "+ note:a" in said
    assert not actions.Plan(made.context.inventory, outcomes, 3).is_none, "there is something to deploy"


def test_a_plan_counts_changes_and_changes_nothing(make, tmp_path):
    outcomes = make({"one": (), "two": ()}).plan()
    assert [len(outcome.plan.changes) for outcome in outcomes] == [1, 1]
    assert not list((tmp_path / "one").iterdir())


def test_a_second_deploy_changes_nothing_with_one_exec_a_host(make):
    first = make({"one": ()})
    first.deploy()
    again = Rollout(first.context, [(member.run.host, ROLES) for member in first.members], None, 4)
    assert [outcome.result for outcome in again.deploy()] == ["ok"]
    assert [member.run.session.execs for member in again.members] == [1]


def test_fewer_threads_than_hosts_reach_every_host(make):
    outcomes = make({f"host-{n}": () for n in range(9)}, forks=2).deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"] * 9


def test_an_artifact_for_four_hosts_is_made_on_one_host(make, tmp_path):
    count = tmp_path / "count"
    text = 'echo made >>"$1"; sleep 0.3; head -c 1000 /dev/urandom >"$2"'

    def how(name):
        tar, note = str(tmp_path / name / "tar"), str(tmp_path / name / "a")
        made = Obtain("key", tar, (sh(text, str(count), tar, title="make it"),))
        return made, run("sh", "-c", 'printf wanted >"$1"', "sh", note)

    names = [f"host-{n}" for n in range(4)]
    outcomes = make({name: how(name) for name in names}).deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"] * 4
    assert count.read_text() == "made\n"
    assert len({(tmp_path / name / "tar").read_bytes() for name in names}) == 1


def test_a_stopped_run_leaves_the_other_hosts_alone_and_reports_them(make):
    stop = threading.Event()
    stop.set()
    assert [outcome.result for outcome in make({"one": ()}, stop=stop).deploy()] == ["stopped"]


def test_the_first_interrupt_cuts_only_hosts_without_a_lock(make):
    made = make({"read": (), "changed": ()})
    closed = []
    for member in made.members:
        member.run.session.close = lambda name=member.outcome.host: closed.append(name)
    made.members[1].run._lease.held = True
    made.interrupt(now=False)
    assert closed == ["read"]
    made.interrupt(now=True)
    assert closed == ["read", "read", "changed"]


def test_the_connection_of_a_host_closes_with_its_work(make):
    made = make({"one": ()})
    closed = []
    made.members[0].run.session.close = lambda: closed.append("one")
    made.plan()
    assert closed == ["one"]


@pytest.fixture
def inventory():
    def host(name, *groups):
        return Host(name=name, groups=groups, connection=Connection(address=name))

    return Inventory(path="", hosts=(host("gpu-01", "gpu"), host("gpu-02", "gpu"), host("lb-01", "balancer")))


def test_a_limited_run_includes_the_balancers_that_send_to_its_hosts(inventory):
    chosen = selection(inventory, inventory.select(["gpu-01"]), frozenset({"ollama", "balancer"}))
    assert [(host.name, set(roles)) for host, roles in chosen] == [
        ("gpu-01", {"ollama", "balancer"}),
        ("lb-01", {"balancer"}),
    ]


def test_an_included_balancer_that_is_a_gpu_host_runs_the_balancer_role_alone():
    both = Host(name="both", groups=("gpu", "balancer"), connection=Connection(address="both"))
    one = Host(name="one", groups=("gpu",), connection=Connection(address="one"))
    inventory = Inventory(path="", hosts=(both, one))
    chosen = selection(inventory, [one], frozenset({"docker", "ollama", "balancer"}))
    assert [(host.name, len(roles)) for host, roles in chosen] == [("both", 1), ("one", 3)]


def test_a_run_without_the_balancer_role_includes_no_balancer(inventory):
    chosen = selection(inventory, inventory.select(["gpu-01"]), frozenset({"ollama"}))
    assert [host.name for host, _ in chosen] == ["gpu-01"]


def test_a_limit_without_a_match_is_a_usage_error(inventory):
    with pytest.raises(UsageError, match="did you mean gpu"):
        inventory.select(["gpu-9"])


class Part(Note):
    """A note that is part of the instance `ollama1`."""

    part_of = "ollama1"


def results(made):
    return {outcome.host: outcome.result for outcome in made.deploy()}


BAD = (run("false"),)


def test_a_failed_canary_keeps_the_other_hosts_untouched(make, tmp_path):
    made = make({"one": BAD, "two": (), "three": ()}, pace=Pace(canary=True))
    assert results(made) == {"one": "failed", "two": "stopped", "three": "stopped"}
    assert made.guarded == "one, which went first, failed"
    assert not list((tmp_path / "two").iterdir())


def test_a_gpu_host_is_the_canary(make):
    made = make({"lb-01": (), "gpu-01": BAD, "gpu-02": ()}, pace=Pace(canary=True))
    assert results(made) == {"lb-01": "stopped", "gpu-01": "failed", "gpu-02": "stopped"}


def test_after_a_good_canary_the_other_hosts_follow(make):
    made = make({"one": (), "two": BAD, "three": ()}, pace=Pace(canary=True))
    assert results(made) == {"one": "changed", "two": "failed", "three": "changed"}
    assert made.guarded == ""


def test_more_failures_than_allowed_stop_the_run(make):
    hosts = {"one": BAD, "two": BAD, "three": (), "four": ()}
    made = make(hosts, pace=Pace(serial=2, max_fail=1))
    assert results(made) == {"one": "failed", "two": "failed", "three": "stopped", "four": "stopped"}
    assert made.guarded == "2 hosts failed, and --max-fail allows 1"
    assert "--max-fail allows 1" in made.members[2].outcome.error.message


def test_unreachable_hosts_count_for_max_fail(make):
    made = make({"one": (), "two": ()}, unreachable=["one"], pace=Pace(serial=1, max_fail=0))
    assert results(made) == {"one": "unreachable", "two": "stopped"}


def test_as_many_failures_as_allowed_stop_nothing(make):
    made = make({"one": BAD, "two": ()}, pace=Pace(serial=1, max_fail=1))
    assert results(made) == {"one": "failed", "two": "changed"}


def test_serial_bounds_the_hosts_at_a_time(make, tmp_path):
    busy = 'mkdir "$1/$2"; sleep 0.7; ls "$1" | wc -l >>"$1.count"; rmdir "$1/$2"; printf wanted >"$3"'
    (tmp_path / "busy").mkdir()

    def how(name):
        return (sh(busy, str(tmp_path / "busy"), name, str(tmp_path / name / "a"), title="count"),)

    names = [f"host-{n}" for n in range(6)]
    made = make({name: how(name) for name in names}, forks=6, pace=Pace(serial=2))
    assert set(results(made).values()) == {"changed"}
    assert max(map(int, (tmp_path / "busy.count").read_text().split())) <= 2


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("25%", 2), ("1%", 1), ("100%", 10), ("", NO_LIMIT)])
def test_serial_is_a_number_or_a_percentage(text, number):
    assert actions.Pace(serial=text).counted(10).serial == number


@pytest.mark.parametrize("text", ["0", "-1", "many", "150%", "1.5"])
def test_a_wrong_number_of_hosts_is_a_usage_error(text):
    with pytest.raises(UsageError, match="--serial must be"):
        actions.Pace(serial=text).counted(10)


@pytest.mark.parametrize("names", [("lb-01", "lb-02", "lb-03"), ("gpu-01", "gpu-02", "gpu-03")])
def test_balancers_are_changed_one_at_a_time(make, tmp_path, names):
    """The rule also holds for gpu hosts that balance over their own instances."""
    said = []

    def steps_of(name, note):
        return (note, Upstream("server 127.0.0.1:3001;")) if name.startswith("gpu") else (note,)

    how = {name: (sh('sleep 0.1; printf wanted >"$1"', str(tmp_path / name / "a"), title="write"),) for name in names}
    made = make(how, role="balancer", steps_of=steps_of, listen=lambda event: said.append(event.kind))
    assert results(made) == dict.fromkeys(names, "changed")
    assert [kind for kind in said if kind in ("changing", "changed")] == ["changing", "changed"] * len(names)


def test_after_a_failed_balancer_the_other_balancers_stay_unchanged(make, tmp_path):
    made = make({"lb-01": BAD, "lb-02": BAD, "lb-03": BAD}, role="balancer")
    found = results(made)
    assert sorted(found.values()) == ["failed", "stopped", "stopped"]
    (bad,) = (name for name, result in found.items() if result == "failed")
    assert made.guarded == f"the balancer {bad} failed"


def test_after_a_locked_balancer_the_other_balancers_are_changed(make):
    made = make({"lb-01": (), "lb-02": ()}, role="balancer")

    def locked(roles, fleet):
        raise LockedError("locked by somebody")

    made.members[0].run.deploy = locked
    outcomes = made.deploy()
    assert {outcome.host: outcome.result for outcome in outcomes} == {"lb-01": "locked", "lb-02": "changed"}
    assert exit_code.of_run(made, outcomes) == 6


@pytest.mark.parametrize(("groups", "held"), [(("balancer",), True), ((), False)])
def test_a_balancer_stays_locked_until_the_run_ends(make, tmp_path, groups, held):
    made = make({"one": ()})
    (member,) = made.members
    member.run.host = dataclasses.replace(member.run.host, groups=groups)
    made._read(member)
    deployed(made._deploy(member))
    assert (tmp_path / "run" / "lock").exists() == held
    made._finish()
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize(("error", "left"), [(UnreachableError("lost"), True), (CommandError("no"), False)])
def test_a_lost_host_keeps_its_lock_and_a_failed_host_does_not(make, tmp_path, error, left):
    made = make({"one": ()})

    (member,) = made.members
    deploy = member.run.deploy

    def work(*args):
        yield from deploy(*args)
        member.run.session.batch([member.run._lease.acquire()], stop=False)
        raise error

    member.run.deploy = work
    made.deploy()
    assert made.context.cut_off == ({"one"} if left else set())
    assert (tmp_path / "run" / "lock").exists() == left


def test_a_bug_on_one_host_does_not_stop_the_rest(make):
    made = make({"one": (), "two": (), "three": ()}, forks=2)

    def broken(*args):
        raise KeyError("a bug")

    made.members[0].run.deploy = broken
    assert results(made) == {"one": "failed", "two": "changed", "three": "changed"}


@pytest.mark.parametrize("unreachable", [False, True])
def test_no_host_waits_for_the_build_of_a_failed_host(make, unreachable):
    how = (Obtain("key", "/nowhere", (run("true"),), host="builder", title="nginx"),)
    made = make({"builder": (), "waits": how}, unreachable=["builder"] if unreachable else [])
    if not unreachable:
        made.members[0].run.plan = broken_plan
    outcomes = made.deploy()
    assert "only builder may make the artifact, and builder failed" in outcomes[1].error.message


def broken_plan(*args):
    raise RefusedError("two names for one instance")


def test_a_failed_balancer_does_not_stop_gpu_hosts(make):
    made = make({"lb-01": BAD}, role="balancer")
    assert results(made) == {"lb-01": "failed"}
    assert made.guarded == ""


@pytest.mark.parametrize(
    ("error", "keeps"),
    [
        (RefusedError("lb-01 cannot be reached"), True),
        (CommandError("no such registry"), True),
        (FactError("what?"), False),
        (UnreachableError("no route"), False),
    ],
)
def test_a_failed_host_keeps_its_marks_if_its_state_is_known(make, error, keeps):
    made = make({"gpu-01": ()})
    made.members[0].fail(error, made.context)
    known = made.fleet()
    assert (known.unaffected, known.failed) == ((frozenset({"gpu-01"}), frozenset())[:: 1 if keeps else -1])


@pytest.mark.parametrize(
    ("error", "roles", "unclear"),
    [
        (Stopped("halted"), serving(), True),
        (LockedError("somebody"), serving(), True),
        (None, {"ollama"}, True),
        (None, serving(), False),
        (None, {"docker"}, False),
    ],
)
def test_new_instances_of_an_unfinished_host_may_not_serve_yet(make, error, roles, unclear):
    made = make({"gpu-01": ()})
    (member,) = made.members
    member.run.roles = frozenset(roles)
    member.outcome.error = error
    assert fleet.keeps_marks(member) is unclear


def test_the_second_interrupt_sets_cut(make):
    made = make({"one": ()})
    made.interrupt(now=False)
    assert not made.context.cut.is_set()
    made.interrupt(now=True)
    assert made.context.cut.is_set()


def test_ctrl_c_during_the_release_of_locks_changes_nothing_and_a_second_ctrl_c_cuts(make):
    made = make({"one": ()})
    (member,) = made.members
    finishing, closed = threading.Event(), []

    def finish(result, error):
        member.run.session.close = lambda: closed.append(made.context.cut.is_set())
        finishing.set()
        assert made.context.cut.wait(60)

    member.run.finish = finish
    with pressed(made.interrupt, finishing, made.context.stop):
        outcomes = made.deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"]
    assert closed == [True], "only the second Ctrl-C cuts the return of a lock"
    assert made.interrupted, "locks may be left"


def test_ctrl_c_after_the_last_step_changes_nothing(make):
    made = make({"one": ()})
    (member,) = made.members
    finishing = threading.Event()

    def finish(result, error):
        finishing.set()
        assert made.context.stop.wait(60)

    member.run.finish = finish
    with pressed(made.interrupt, finishing):
        outcomes = made.deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"]
    assert not made.interrupted


def test_ctrl_c_interrupts_no_code():
    seen = []
    before = signal.getsignal(signal.SIGINT)
    with interrupt.at_ctrl_c(lambda *, now: seen.append(now)):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen == [False, True, True]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_under_way_names_every_host_and_balancer_that_may_be_locked(make):
    made = make({"gpu-1": (), "gpu-2": ()})
    markers = [SimpleNamespace(host=SimpleNamespace(name=name), locked=False) for name in ("lb-1", "lb-2")]
    made.roll.pools._pools.update({one.host.name: one for one in markers})
    assert made.under_way() == []
    made.members[1].run._lease.held = markers[1].locked = True
    assert made.under_way() == ["gpu-2", "lb-2"]


def test_an_error_at_the_first_ctrl_c_does_not_disable_the_second():
    heard, seen = threading.Event(), []

    def interrupt(*, now):
        seen.append(now)
        heard.set()
        raise KeyError("a bug")

    second = threading.Event()
    with pressed(interrupt, second, heard):
        second.set()
        deadline = time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen == [False, True]


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.at_ctrl_c(lambda *, now: None):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Counted(ShellHost):
    """A connection that counts itself while it is open."""

    open_now: set[int] = set()  # noqa: RUF012 - for a single test
    most = 0

    def exec(self, *args, **kwargs):
        self.open_now.add(id(self))
        Counted.most = max(Counted.most, len(self.open_now))
        return super().exec(*args, **kwargs)

    def close(self):
        self.open_now.discard(id(self))
        super().close()


@pytest.mark.parametrize("pace", [Pace(), Pace(serial=3)])
def test_open_connections_are_bounded_by_forks(make, pace):
    made = make({f"gpu-{n}": () for n in range(6)}, forks=2, pace=pace)
    Counted.most = 0
    sessions = []
    for part in made.members:
        session = Counted()
        part.run.session = part.run.reader.session = part.run._lease.session = part.run._performer.session = session
        sessions.append(session)
    assert set(results(made).values()) == {"changed"}
    assert Counted.most <= 2
    assert not Counted.open_now


def test_a_failed_change_of_the_whole_host_costs_the_host_its_marks(make):
    made = make({"gpu-01": BAD})
    made.deploy()
    assert made.fleet().failed == {"gpu-01"}, "nobody knows what a note concerns"


def test_a_failed_change_of_one_instance_leaves_the_marks_of_the_other_instances(make):
    made = make({"gpu-01": BAD}, steps_of=lambda host, note: (Part(note.path, how=note.how),))
    made.roll.pools.of = lambda host: []  # no balancer sends to it
    made.deploy()
    known = made.fleet()
    assert (known.unaffected, known.failed) == ({"gpu-01"}, frozenset())
