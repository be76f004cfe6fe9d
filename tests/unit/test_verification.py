"""Verification against a shell: plan's own read comes first, and a question of several proofs is asked once."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import pytest

from provision import testing
from provision.artifacts.store import Store
from provision.command import Answer, Run
from provision.events import ignore
from provision.inventory import Connection, Host, Inventory
from provision.plan.role_interface import Entry
from provision.report import verify as report
from provision.rollout.waves import Rollout
from provision.runs.context import Context
from provision.ssh.host_paths import HostPaths
from provision.steps.base import Check, Fact, UnreadableError
from provision.steps.live import asked_once, read_once
from provision.steps.speed import Speed
from provision.steps.system.file import File
from provision.testing import ShellHost
from provision.verify import backend as live
from provision.verify import neighbours
from provision.verify.checks import Verification
from provision.verify.failure import describe
from provision.verify.pytest_plugin import verify

from .local import SETTINGS
from .test_host_run import Note, Notes

ROLES = frozenset({"docker"})


@dataclass(frozen=True)
class Proved(Note):
    """A note in the wanted state, with proofs of a test."""

    def want(self, facts, have):
        return have


@dataclass(frozen=True)
class Looks(Proved):
    """A step whose proof asks a shared question and a question of its own."""

    def check(self, live):
        shared = asked_once(live, "echo look >>%s; wc -l <%s", f"{self.path}.looks", f"{self.path}.looks").stdout
        own = live.run("echo own >>%s; wc -l <%s", f"{self.path}.own", f"{self.path}.own").stdout
        yield Check("looks", shared.strip(), "1")
        yield Check("asks itself", own.strip() >= "1", True)


@dataclass(frozen=True)
class Breaks(Proved):
    """A step with an unreadable proof."""

    def check(self, live):
        yield Check("number", int(live.run("echo garbled").stdout), 1)


@dataclass(frozen=True)
class Named(Looks):
    """A step with a name of its own that looks at the same files."""

    name: str = ""

    @property
    def id(self):
        return f"note:{self.name}"


@dataclass(frozen=True)
class Unreadable(Proved):
    """A step with an unreadable state and a good proof."""

    def fact(self):
        def parse(answer):
            raise UnreadableError("the host talks nonsense")

        return Fact(super().fact().command, parse)


@dataclass(frozen=True)
class Reads(Proved):
    """A step whose proof needs a read of plan, and a further read."""

    def check(self, live):
        read = read_once(live, self.fact().command)
        yield Check("read", read.text, "as read by plan")
        other = Run(("sh", "-s", "--", "an argument"), b'echo asked >>%s; echo "$1"' % f"{self.path}.asked".encode())
        yield Check("asked now", [read_once(live, other).text for _ in range(2)], ["an argument\n"] * 2)


@dataclass(frozen=True)
class Copy(Proved):
    """A file that must have the same content on every host; the first check differs on every copy."""

    compared_as = "copy:x"

    def check(self, live):
        yield Check("path", self.path, self.path)
        digest = live.run("cat %s", self.path).stdout
        yield Check("digest", digest, digest, compared=True)


@pytest.fixture
def verified(tmp_path):
    """A function that verifies steps on a host, and returns the result of the host."""

    def build(
        *things,
        dead=frozenset(),
        last=(),
        roles=ROLES,
        settings=MappingProxyType(SETTINGS),
        deep=False,
        **options,
    ):
        entries = tuple(
            Entry(role, thing) for role, group in (("docker", things), ("balancer", last)) for thing in group
        )
        session = ShellHost(HostPaths(run=f"{tmp_path}/run", state=f"{tmp_path}/state"), lost_at=dead)
        setup = testing.setup(
            tmp_path,
            lambda *_: session,
            steps=lambda host, inventory: entries,
            owned=[("docker", Notes(str(tmp_path)))],
        )
        host = Host(name="h", connection=Connection(address="192.0.2.1"), settings=settings)
        inventory, store = Inventory(path="", hosts=(host,)), Store(tmp_path / "s")
        context = Context("run", inventory, roles, ignore, store, setup=setup)
        verification = Verification(Rollout(context, [(host, roles)], None, 4), deep=deep)
        [result] = verify(verification, **{"quiet": True, **options})
        result.scripts = session.scripts
        return result

    return build


def failed(result):
    """Return the failed checks of every step as (name, got, expected)."""
    found = {step.step: [(c.name, c.got, c.expected) for c in step.checks if not c.passed] for step in result.steps}
    return {step: checks for step, checks in found.items() if checks}


def test_a_shared_question_is_asked_once_and_other_questions_every_time(verified, tmp_path):
    steps = [Named(str(tmp_path / "a"), name=str(number)) for number in range(12)]
    result = verified(*steps)
    assert (result.result, [one.step for one in result.steps]) == ("passed", [step.id for step in steps])
    assert (tmp_path / "a.looks").read_text() == "look\n"
    assert (tmp_path / "a.own").read_text() == "own\n" * 12


def test_copies_that_differ_from_the_majority_fail_and_a_missing_copy_does_not(verified, tmp_path):
    for name, text in (("a", "1"), ("b", "2"), ("c", "1"), ("absent", "")):
        (tmp_path / name).write_text(text)
    copies = [Copy(str(tmp_path / name)) for name in ("a", "b", "c", "absent")]
    check = ("digest of h note:b is that of the other hosts", "2", "1")
    assert failed(verified(*copies)) == {"note:b": [check]}
    assert failed(verified(*copies[:1], *copies[2:])) == {}


def test_a_single_copy_is_compared_with_nothing(verified, tmp_path):
    (tmp_path / "a").write_text("1")
    result = verified(Copy(str(tmp_path / "a")))
    assert [check.name for step in result.steps for check in step.checks] == ["as declared", "path", "digest"]


@dataclass(frozen=True)
class Paced(Named):
    """A step that measures a speed."""

    compared_as = "speed"
    rate: float = 0.0
    what: str = "m on L40S"

    def check(self, live):
        yield Check("made tokens", True, True, speed=Speed(self.what, self.rate) if self.rate else None)


def paced(folder, *rates, **more):
    return [Paced(str(folder / "a"), name=str(number), rate=rate, **more) for number, rate in enumerate(rates)]


def test_a_speed_far_below_the_median_fails_its_step(verified, tmp_path):
    (tmp_path / "a").write_text("")
    usual = "not more than 4 times slower than the median"
    figures = "10.0 tokens per second, and the median of 4 instances is 59.5"
    assert failed(verified(*paced(tmp_path, 60.0, 10.0, 59.0, 61.0))) == {
        "note:1": [("speed of m on L40S", figures, usual)]
    }
    assert failed(verified(*paced(tmp_path, 60.0, 20.0, 59.0, 61.0))) == {}


def test_speeds_of_few_instances_are_not_compared(verified, tmp_path):
    (tmp_path / "a").write_text("")
    other = paced(tmp_path, 0.0, 0.0, 9.0, what="n on L40S")[2:]
    result = verified(*paced(tmp_path, 60.0, 1.0), *other)
    assert result.result == "passed"
    said = [check.name for step in result.steps for check in step.checks if check.name.startswith("not asked")]
    assert said == [
        "not asked: whether m on L40S is slow: 2 of at least 3 comparable instances were measured",
        "not asked: whether n on L40S is slow: 1 of at least 3 comparable instances were measured",
    ]


def test_a_fleet_without_a_measured_speed_passes(verified, tmp_path):
    (tmp_path / "a").write_text("")
    assert verified(*paced(tmp_path, 0.0)).result == "passed"


@dataclass(frozen=True)
class Measures(Paced):
    """A slow measurement of a speed, with a note in a file."""

    def check(self, live):
        live.run("sleep 0.2; echo measured >> %s", f"{self.path}.order")
        yield from super().check(live)


@dataclass(frozen=True)
class Routes(Named):
    """A router of requests, with a note in a file."""

    routes = True

    def check(self, live):
        live.run("echo routed >> %s", f"{self.path}.order")
        yield Check("routed", True, True)


@pytest.mark.parametrize("at_once", [1, 4])
def test_requests_of_routing_steps_wait_for_the_speeds_of_all_hosts(tmp_path, at_once):
    (tmp_path / "a").write_text("")
    entries = (
        Entry("docker", Measures(str(tmp_path / "a"), name="speed", rate=60.0)),
        Entry("docker", Routes(str(tmp_path / "a"), name="router")),
    )
    setup = testing.setup(
        tmp_path,
        lambda *_: ShellHost(HostPaths(run=f"{tmp_path}/run", state=f"{tmp_path}/state")),
        steps=lambda host, inventory: entries,
        owned=(),
    )
    hosts = [
        Host(name=name, connection=Connection(address=f"192.0.2.{place}"), settings=SETTINGS)
        for place, name in enumerate(("first", "second"), 1)
    ]
    inventory, store = Inventory(path="", hosts=tuple(hosts)), Store(tmp_path / "s")
    context = Context("run", inventory, ROLES, ignore, store, setup=setup)
    results = verify(Verification(Rollout(context, [(host, ROLES) for host in hosts], None, at_once)), quiet=True)
    assert [result.result for result in results] == ["passed", "passed"]
    assert (tmp_path / "a.order").read_text().split() == ["measured", "measured", "routed", "routed"]


def test_the_next_verification_asks_again(verified, tmp_path):
    step = Looks(str(tmp_path / "a"))
    assert verified(step).result == "passed"
    assert failed(verified(step)) == {step.id: [("looks", "2", "1")]}


def test_a_proof_uses_a_read_of_plan_without_asking_again(verified, tmp_path):
    (tmp_path / "a").write_text("as read by plan")
    result = verified(Reads(str(tmp_path / "a")))
    assert failed(result) == {}
    assert (tmp_path / "a.asked").read_text() == "asked\n"


def test_a_proof_takes_the_host_facts_of_plan_with_any_time_limit(verified, tmp_path):
    path = tmp_path / "a"
    path.write_text("13")
    step = File(path=str(path), content=lambda facts: str(facts.systemd).encode())
    result = verified(step, settings={"nvidia_toolkit": SimpleNamespace(smi_timeout="2m")})
    assert any("sha256" in check.name for check in result.steps[0].checks)
    assert sum(b"# clock" in script for script in result.scripts) == 1


def test_a_broken_proof_fails_its_step_alone(verified, tmp_path):
    result = verified(Looks(str(tmp_path / "a")), Breaks(str(tmp_path / "b")))
    assert [one.passed for one in result.steps] == [True, False]
    assert "ValueError" in result.steps[1].problem


def test_a_step_that_plan_would_change_fails_with_both_states(verified, tmp_path):
    (tmp_path / "a").write_text("by hand")
    steps = Note(str(tmp_path / "a")), Note(str(tmp_path / "b")), Note(str(tmp_path / "c"))
    (tmp_path / "c").write_text("wanted")
    result = verified(*steps)
    assert result.result == "failed"
    assert failed(result) == {
        "note:a": [("text as declared", "by hand", "wanted")],
        "note:b": [("on the host", "absent", "present")],
    }
    assert [step.drifted for step in result.steps] == [True, True, False]
    assert describe(result.steps[0]) == "differs from the inventory: text differs\n  text: by hand -> wanted"


def test_verify_changes_nothing(verified, tmp_path):
    (tmp_path / "a").write_text("by hand")
    (tmp_path / "x.ours").write_text("an orphan")
    verified(Note(str(tmp_path / "a")), Note(str(tmp_path / "b")))
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {
        "a": "by hand",
        "x.ours": "an orphan",
    }


def test_an_orphan_fails_the_host(verified, tmp_path):
    (tmp_path / "x.ours").write_text("")
    result = verified(Looks(str(tmp_path / "a")))
    assert result.result == "failed"
    assert failed(result) == {"note:x.ours": [("on the host", "present", "absent: no longer declared")]}


def test_a_hostile_name_of_an_orphan_is_shown_escaped(verified, tmp_path, capfd):
    (tmp_path / "\x1b[31m.ours").write_text("")
    verified(Looks(str(tmp_path / "a")), quiet=False)
    assert "\x1b" not in capfd.readouterr().out


def test_a_step_behind_a_differing_step_is_skipped_and_names_the_cause(verified, tmp_path, capfd):
    base = tmp_path / "base"
    result = verified(Note(str(base)), Note(str(tmp_path / "a"), base=str(base)), quiet=False)
    said = capfd.readouterr().out
    assert (result.result, [step.waits_for for step in result.steps]) == ("failed", ["", "note:base"])
    assert not result.steps[1].passed
    assert result.steps[1].problem == "known after note:base"
    assert "1 failed, 1 skipped" in said


def test_the_table_names_the_cause_once_and_ends_with_the_next_command(verified, tmp_path, capfd):
    base = tmp_path / "base"
    result = verified(Note(str(base)), *(Note(str(tmp_path / name), base=str(base)) for name in "abc"))
    report.text([result], "provision deploy -i prod.yaml")
    rows = capfd.readouterr().out.splitlines()
    assert rows[2].split()[:4] == ["h", "FAILED", "2", "1"]
    assert rows[2].endswith("note:base; 3 steps not checked because of note:base")
    assert rows[-1] == "1 of 5 checks passed on 1 host · next: provision deploy -i prod.yaml"


def test_an_unreadable_step_fails_with_the_reason_and_the_rest_is_asked(verified, tmp_path):
    result = verified(Unreadable(str(tmp_path / "a")), Looks(str(tmp_path / "b")))
    assert (result.result, result.error) == ("failed", None)
    assert "the host talks nonsense" in result.steps[0].problem
    assert [check.name for check in result.steps[1].checks] == ["looks", "asks itself"]


@pytest.mark.parametrize(("verbose", "listed"), [(False, 0), (True, 3)])
def test_passes_are_counted_and_listed_only_on_request(verified, tmp_path, capfd, verbose, listed):
    verified(*(Named(str(tmp_path / "a"), name=str(n)) for n in range(3)), quiet=False, verbose=verbose)
    said = capfd.readouterr().out
    assert said.count("PASSED") == listed
    assert "3 passed" in said


def test_an_unreachable_host_is_one_line(verified, tmp_path, capfd):
    result = verified(*(Named(str(tmp_path / "a"), name=str(n)) for n in range(9)), dead=frozenset({1}), quiet=False)
    said = capfd.readouterr().out
    assert (result.result, result.steps) == ("unreachable", [])
    assert said.count("the connection was lost") == 1
    assert "1 failed" in said


def test_a_connection_lost_later_fails_the_host_and_every_step(verified, tmp_path):
    result = verified(*(Named(str(tmp_path / "a"), name=str(n)) for n in range(9)), dead=frozenset(range(2, 99)))
    assert (result.result, len(result.steps)) == ("unreachable", 9)
    assert {one.problem for one in result.steps} == {"the connection was lost"}


class Held:
    """A session whose first execs, one for every channel, wait for an event."""

    def __init__(self):
        self.sizes, self.let_go = [], threading.Event()

    def batch(self, commands, *, stop):
        self.sizes.append(len(commands))
        if len(self.sizes) <= live.CHANNELS:
            self.let_go.wait(120)
        return [Answer(0, command.words[-1].encode()) for command in commands]


def test_questions_asked_while_all_channels_are_taken_share_an_exec():
    session = Held()
    backend = live.Backend(session, "h")
    with ThreadPoolExecutor(20) as pool:
        first = []
        for number in range(live.CHANNELS):
            first.append(pool.submit(backend.run, f"first {number}"))
            while len(session.sizes) <= number:
                time.sleep(0.01)
        rest = [pool.submit(backend.run, f"rest {n}") for n in range(live.TOGETHER + 1)]
        while len(backend._waiting) < len(rest):
            time.sleep(0.01)
        session.let_go.set()
        assert [one.result().stdout for one in first] == [f"first {n}" for n in range(live.CHANNELS)]
        assert [one.result().stdout for one in rest] == [f"rest {n}" for n in range(live.TOGETHER + 1)]
    assert sorted(session.sizes) == [1] * (live.CHANNELS + 1) + [live.TOGETHER]


def test_a_neighbour_that_reaches_an_instance_fails_the_host_of_the_instance(tmp_path):
    """Two hosts stand for this machine. The instance of the first is open, the instance of the second closed."""
    setup = testing.setup(
        tmp_path, steps=lambda host, inventory: (Entry("ollama", Proved(str(tmp_path / "a"))),), owned=()
    )
    first, second = (
        Host(name=name, groups=("gpu",), connection=Connection(address=address), settings=SETTINGS)
        for name, address in (("first", "192.0.2.1"), ("second", "192.0.2.2"))
    )
    roles = frozenset({"ollama"})
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"first": server.getsockname()[1], "second": other.getsockname()[1]}
        other.close()

        def places(host, inventory, facts):
            return (neighbours.Place(host.name, "ollama1", "127.0.0.1", ports[host.name], (), frozenset()),)

        inventory, store = Inventory(path="", hosts=(first, second)), Store(tmp_path / "s")
        context = Context("run", inventory, roles, ignore, store, setup=setup)
        rollout = Rollout(context, [(first, roles), (second, roles)], None, 4)
        results = verify(Verification(rollout, places), quiet=True)
    assert {result.host: failed(result) for result in results} == {
        "first": {"neighbour:ollama1": [(f"127.0.0.1:{ports['first']} is closed to second", "open", "closed")]},
        "second": {},
    }


@dataclass(frozen=True)
class Guarded(Looks):
    """A guard that refuses the instance `two`, or a part of an instance."""

    part: str = ""

    @property
    def id(self):
        return f"note:{self.part or 'guard'}"

    @property
    def part_of(self):
        return self.part

    def refused(self, facts):
        return {} if self.part else {"two": "two cannot run: GPU 1 (GPU-1) is missing"}


def test_a_refused_instance_fails_once_and_the_rest_is_proved(verified, tmp_path):
    path = str(tmp_path / "a")
    result = verified(Guarded(path), Guarded(path, part="one"), Guarded(path, part="two"))
    found = {step.step: (step.passed, step.waits_for) for step in result.steps}
    assert found == {
        "note:guard": (True, ""),
        "note:one": (True, ""),
        "note:two": (False, "require:cards"),
        "require:cards": (False, ""),
    }
    problem = next(step.problem for step in result.steps if step.step == "require:cards")
    assert (result.result, problem.startswith("two cannot run: GPU 1 (GPU-1) is missing")) == ("failed", True)


def test_steps_left_unread_behind_an_unreadable_step_do_not_count_as_declared(verified, tmp_path):
    path = str(tmp_path / "a")
    things = Guarded(path), Guarded(path, part="two")
    last = Unreadable(path), Named(path, name="service")
    result = verified(*things, last=last, roles=ROLES | {"balancer"})
    found = {step.step: step for step in result.steps}
    assert found["require:cards"].problem.startswith("two cannot run: GPU 1 (GPU-1) is missing")
    assert found["note:two"].waits_for == "require:cards"
    assert "the host talks nonsense" in found["note:a"].problem
    assert [check.name for check in found["note:service"].checks] == ["looks", "asks itself"]
