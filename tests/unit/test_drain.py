"""`provision drain` and `undrain`: the changes on each balancer, the refusals, and the report of every outcome."""

import dataclasses
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest

from provision import actions, testing
from provision.actions.draining import Draining
from provision.artifacts.store import Store
from provision.cli import execute
from provision.cli.caller import Caller
from provision.errors import GuardError, UnreachableError, UsageError
from provision.events import ignore
from provision.inventory import Connection, Host, Inventory, Secret
from provision.plan import role_interface
from provision.rollout.roll import Roll
from provision.runs import log
from provision.runs.context import Context
from provision.ssh.host_paths import HostPaths
from provision.steps.nginx.upstream import Drained, Member
from tests.unit.ctrl_c import pressed
from tests.unit.fake_balancer import FakeBalancer
from tests.unit.fake_roll import FakePool, FakeSession, balancer, gpu

ONE, TWO = "a/ollama1", "a/ollama2"


class Fake(FakePool):
    """A balancer that keeps the drained instances."""

    made: dict[str, "Fake"] = {}  # noqa: RUF012 - reset by every test

    def __init__(self, host: Host, *_: Any) -> None:
        super().__init__(host)
        self.listed = {ONE: 3001, TWO: 3002}
        self.records: dict[str, Drained] = {}
        self.left = 0
        """The number of open streams."""
        self.cut = False
        self.told = lambda: None
        self.session = SimpleNamespace(close=self.close)
        Fake.made[host.name] = self

    def update(self, *, drain: Any = MappingProxyType({}), undrain: Any = (), **_: Any) -> bool:
        if not self.taken:
            self.locked = True
            self.told()
        changed = super().update(drain=drain, undrain=undrain)
        self.records |= drain
        return changed

    def close(self) -> None:
        self.cut = True

    def add(self, members: dict[str, Member]) -> None:
        """Add instances to the upstream."""
        self.listed |= {label: member.port for label, member in members.items()}
        self.drained |= {label for label, member in members.items() if member.drained}
        self.down |= {label for label, member in members.items() if member.down and not member.drained}

    def wait_idle(self, addresses: Any, deadline: float, waiting: Callable[[int], None]) -> tuple[int, bool]:
        self.awaited.append(list(addresses))
        while self.left and time.monotonic() < deadline:
            waiting(self.left)
            time.sleep(0.01)
        return self.left, True


@pytest.fixture
def instances() -> FakeSession:
    """The connection to the gpu host, whose instances prove themselves."""
    return FakeSession()


@pytest.fixture
def make(tmp_path: Path, instances: FakeSession) -> Any:
    """A function that makes a Draining of words, over two balancers."""
    setup = testing.setup(tmp_path, lambda *_: cast(Any, instances))

    def build(*words: str, forks: int = 8, **variables: Any) -> Draining:
        balancers = (balancer(name) for name in ("lb-1", "lb-2"))
        one = gpu("a")
        hosts = (Host(**{**vars(one), "variables": variables}), gpu("b"), *balancers)
        context = Context("run", Inventory(path="", hosts=hosts), frozenset(), ignore, Store(tmp_path), setup=setup)
        made = Draining(context, None, words, forks=forks)
        made._roll = Roll.of(context, make=Fake)  # type: ignore[arg-type]
        made._roll.pools.of(hosts[0])
        return made

    return build


def drained() -> list[set[str]]:
    return [set(Fake.made[name].drained) for name in ("lb-1", "lb-2")]


def test_a_drain_marks_the_instances_on_every_balancer(make: Any) -> None:
    found = make("a").drain("for a new fan", 0.0)
    assert [(one.host, one.labels, one.changed, one.error) for one in found] == [
        (name, (ONE, TWO), True, None) for name in ("lb-1", "lb-2")
    ]
    assert drained() == [{ONE, TWO}] * 2
    assert Fake.made["lb-1"].records[ONE].why == "for a new fan"


def test_a_drain_may_name_a_single_instance(make: Any) -> None:
    make("a/ollama2").drain("", 0.0)
    assert drained() == [{TWO}] * 2


def test_a_secret_in_a_reason_is_masked(make: Any) -> None:
    make("a", password=Secret("hunter2-hunter2")).drain("its password is hunter2-hunter2", 0.0)
    assert "hunter2" not in Fake.made["lb-1"].records[ONE].why


def test_streams_left_after_the_timeout_are_reported_and_the_mark_stays(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-2"].left = 3
    found = made.drain("", 0.0)
    assert [one.error and one.error.message for one in found] == [None, "lb-2: 3 streams still run"]
    assert drained() == [{ONE}] * 2


def test_a_locked_balancer_does_not_stop_the_drain_on_the_next(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-1"].taken = True
    found = made.drain("", 0.0)
    assert [one.error is None for one in found] == [False, True]
    assert drained() == [set(), {ONE}]


def test_an_instance_outside_every_upstream_cannot_be_drained(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-1"].listed = {}
    found = made.drain("", 0.0)
    assert "none of the instances is in the upstream" in found[0].error.message


def test_only_instances_that_pass_their_test_are_undrained(make: Any, instances: FakeSession) -> None:
    make("a").drain("", 0.0)
    before = set(Fake.made["lb-1"].drained)
    instances.ill.add("ollama1")
    made = make("a")
    for fake in Fake.made.values():
        fake.drained = set(before)
    found = made.undrain()
    assert [(one.host, one.labels, one.error is None) for one in found] == [
        ("a", (ONE,), False),
        ("lb-1", (TWO,), True),
        ("lb-2", (TWO,), True),
    ]
    assert drained() == [{ONE}] * 2


def test_ctrl_c_stops_a_drain_before_the_next_balancer(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-1"].told = lambda: made.interrupt(now=False)
    found = made.drain("", 60.0)
    assert [(one.host, one.changed, one.result) for one in found] == [
        ("lb-1", True, "stopped"),
        ("lb-2", False, "stopped"),
    ]
    assert drained() == [{ONE}, set()]
    assert made.interrupted
    assert [Fake.made[name].cut for name in ("lb-1", "lb-2")] == [False, True], "a changed balancer is not cut"


def test_ctrl_c_during_the_wait_for_streams_is_reported_and_the_mark_stays(make: Any) -> None:
    made, waiting = make("a/ollama1"), threading.Event()
    Fake.made["lb-1"].left = 3
    made.context = dataclasses.replace(made.context, listen=lambda event: waiting.set())
    with pressed(made.interrupt, waiting):
        found = made.drain("", 60.0)
    assert [one.result for one in found] == ["stopped", "stopped"]
    assert "nothing new is sent to them" in found[0].error.message
    assert drained() == [{ONE}] * 2


def test_the_second_ctrl_c_cuts_the_connections_at_once(make: Any) -> None:
    made, waiting = make("a/ollama1"), threading.Event()
    fake = Fake.made["lb-1"]

    def wait_idle(*_: Any) -> tuple[int, bool]:
        waiting.set()
        while not fake.cut:
            made.context.cut.wait(60)
        raise UnreachableError("the connection was lost")

    fake.wait_idle = wait_idle  # type: ignore[method-assign]
    with pressed(made.interrupt, waiting, made.context.stop):
        found = made.drain("", 60.0)
    assert [one.result for one in found] == ["stopped", "stopped"]
    assert found[0].error.message == "stopped at once: its connection was cut"


def test_ctrl_c_during_the_return_of_the_locks_is_too_late_and_cuts_nothing(make: Any) -> None:
    made, finishing, pressed_it = make("a/ollama1"), threading.Event(), threading.Event()

    def finish() -> None:
        finishing.set()
        assert pressed_it.wait(60)

    def interrupt(*, now: bool) -> None:
        made.interrupt(now=now)
        pressed_it.set()

    Fake.made["lb-1"].finish = finish  # type: ignore[method-assign]
    with pressed(interrupt, finishing):
        found = made.drain("", 0.0)
    assert [one.result for one in found] == ["changed", "changed"]
    assert not made.interrupted
    assert not any(Fake.made[name].cut for name in ("lb-1", "lb-2"))


@pytest.mark.parametrize(("forks", "most"), [(1, 1), (2, 2)])
def test_an_undrain_tests_as_many_hosts_at_once_as_forks_allow(
    make: Any, instances: FakeSession, forks: int, most: int
) -> None:
    running, seen, both = [], [], threading.Event()

    def testing(name: str) -> None:
        running.append(name)
        seen.append(len(running))
        if len(running) == most:
            both.set()
        assert both.wait(60)
        running.remove(name)

    instances.testing = testing
    make("a/ollama1", "b/ollama1", forks=forks).undrain()
    assert (len(seen), max(seen)) == (2, most)


def test_ctrl_c_during_the_test_of_an_instance_admits_no_instance(make: Any, instances: FakeSession) -> None:
    made = make("a")

    def interrupt(name: str) -> None:
        made.interrupt(now=False)
        assert instances.closed.is_set(), "the connection to a host that is only read is cut at once"
        raise UnreachableError("the connection was lost")

    instances.testing = interrupt
    found = made.undrain()
    assert [(one.host, one.labels, one.result) for one in found] == [
        ("a", (ONE,), "stopped"),
        ("a", (TWO,), "stopped"),
    ]


def test_an_instance_tested_before_ctrl_c_stays_drained(make: Any, instances: FakeSession) -> None:
    make("a/ollama1").drain("", 0.0)
    before = set(Fake.made["lb-1"].drained)
    made = make("a/ollama1")
    for fake in Fake.made.values():
        fake.drained = set(before)
    instances.testing = lambda name: made.interrupt(now=False)
    assert [(one.host, one.labels, one.result) for one in made.undrain()] == [
        ("lb-1", (ONE,), "stopped"),
        ("lb-2", (ONE,), "stopped"),
    ]
    assert drained() == [{ONE}] * 2


INVENTORY = """
gpu: {hosts: {a: {ansible_host: 10.0.0.1, ollama: {models: [m], instances: [{gpus: [0]}, {gpus: [1]}]}}}}
balancer: {hosts: {lb-1: {ansible_host: 10.0.0.5}}}
all: {vars: {ansible_become_password: hunter2-hunter2, nginx: {accept_known_vulnerabilities: true}}}
"""
MANY = f"""
all: {{vars: {{nginx: {{accept_known_vulnerabilities: true}}}}}}
gpu:
  hosts:
    a: {{ansible_host: 10.0.0.1, ollama: {{models: [m], instances: [{{gpus: [0]}}, {{gpus: [1]}}]}}}}
    b: {{ansible_host: 10.0.0.2, ollama: {{instances: [{", ".join(f"{{gpus: [{n}]}}" for n in range(22))}]}}}}
balancer: {{hosts: {{lb-1: {{ansible_host: 10.0.0.5}}}}}}
"""


class Place:
    """An inventory with one balancer, and the command line that reaches it.

    Args:
        path: where the inventory is written.
        text: the inventory.
    """

    def __init__(self, path: Path, text: str) -> None:
        path.write_text(text)
        self.path = str(path)
        self.balancer = FakeBalancer.of(role_interface.load(self.path), "lb-1")
        self.setup = testing.setup(path.parent, self._connect)

    def _connect(self, connection: Connection, become_password: str | None, paths: HostPaths) -> Any:
        return self.balancer if connection.address == "10.0.0.5" else FakeSession()

    def execute(self, *words: str, **caller: Any) -> int:
        return execute([*words, "-i", self.path], Caller(self.setup, **caller))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Both instances of a model on one host."""
    return Place(tmp_path / "inventory.yaml", INVENTORY)


@pytest.fixture
def many(tmp_path: Path) -> Place:
    """The same, and a host of many instances without a model."""
    return Place(tmp_path / "inventory.yaml", MANY)


def locked(balancer: FakeBalancer) -> None:
    """Another run has the lock."""
    balancer.locked = True


def interrupted(balancer: FakeBalancer) -> None:
    """The operator presses Ctrl-C while the upstream is read, and that cuts the connection."""

    def press(script: str) -> None:
        if script == "nginx/read-generation" and not balancer.closes:
            os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + 60
            while not balancer.closes and time.monotonic() < deadline:
                time.sleep(0.01)

    balancer.before = press


@pytest.mark.parametrize(
    ("happens", "code", "said"),
    [
        (lambda balancer: None, 0, r"lb-1  a/ollama1  drained\n1 changed of 1 · run \S+$"),
        (locked, 6, r"lb-1  a/ollama1  LOCKED"),
        (interrupted, 130, r"lb-1  a/ollama1  STOPPED"),
    ],
)
def test_every_outcome_of_a_drain_has_a_log_and_a_recap(
    place: Place, capsys: pytest.CaptureFixture[str], happens: Callable[[FakeBalancer], None], code: int, said: str
) -> None:
    begun: list[Any] = []
    happens(place.balancer)
    before = place.balancer.before

    def look(script: str) -> None:
        before(script)
        begun.extend(logs.find(path.stem) for path in logs.folder.glob("*.running") if not begun)

    logs, place.balancer.before = log.Logs(log.default_folder()), look
    assert place.execute("drain", ONE, "-m", "hunter2-hunter2 it is", "--timeout", "1m", "--force") == code
    out = capsys.readouterr().out
    assert re.search(said, out, re.MULTILINE), out
    again = f"again: provision drain {ONE} -i {place.path} -m '[secret] it is' --timeout 1m --force"
    assert (again in out) is bool(code), out
    (record,) = begun
    assert (record.command, record.exit, record.is_dead) == (f"drain {ONE}", None, False)
    after = logs.find(record.run)
    assert after is not None
    assert (after.exit, dict(after.hosts)) == (code, {"lb-1": said.split()[2].lower() if code else "changed"})


DOWN, HAND = Member("10.0.0.2", 3001, down=True), Member("10.0.0.2", 3001, down=True, drained=True)
UP = Member("10.0.0.2", 3001, down=False)


@pytest.mark.parametrize(
    ("words", "others", "last"),
    [
        (["a"], {}, {"m": (ONE, TWO)}),
        (["a"], {"b/ollama1": DOWN, "b/ollama2": HAND}, {"m": (ONE, TWO)}),
        (["a"], {"b/ollama1": DOWN, "b/ollama2": UP}, {}),
        (["a", "b"], {"b/ollama1": DOWN, "b/ollama2": UP}, {"m": (ONE, TWO, "b/ollama2")}),
        (["a", "b/ollama1"], {"b/ollama2": UP}, {}),
        ([ONE], {}, {}),
        ([ONE], {TWO: DOWN}, {"m": (ONE,)}),
        (["a"], {ONE: HAND, TWO: DOWN}, {}),
    ],
)
def test_the_last_instances_of_a_model_are_known_before_the_drain(
    make: Any, words: list[str], others: dict[str, Member], last: dict[str, tuple[str, ...]]
) -> None:
    made = make(*words)
    for fake in Fake.made.values():
        fake.add(others)
    assert made.last() == last
    assert [fake.touched for fake in Fake.made.values()] == [False, False]


def test_one_balancer_without_another_instance_is_enough(make: Any) -> None:
    made = make("a")
    Fake.made["lb-1"].add({"b/ollama1": UP})
    assert made.last() == {"m": (ONE, TWO)}


def test_an_instance_that_moved_during_the_question_is_awaited_at_its_new_address(make: Any) -> None:
    made = make("a/ollama1")
    made.last()
    for fake in Fake.made.values():
        fake.listed = {ONE: 3009}
    made.drain("", 0.0)
    assert [fake.awaited for fake in Fake.made.values()] == [[["10.0.0.1:3009"]]] * 2


def test_a_balancer_that_cannot_be_reached_is_reported_by_the_drain(make: Any) -> None:
    made = make("a")

    def lost() -> dict[str, Member]:
        raise UnreachableError("no route")

    Fake.made["lb-2"].members = lost  # type: ignore[method-assign]
    assert made.last() == {"m": (ONE, TWO)}
    assert [one.result for one in made.drain("", 0.0)] == ["changed", "unreachable"]


NAMES = sorted(f"b/ollama{number}" for number in range(1, 23))
SAID = (
    f"{', '.join(NAMES[:20])} and 2 more are the last without a declared model that get requests; "
    "a/ollama1, a/ollama2 are the last that serve m"
)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_without_a_terminal_the_guard_names_model_and_instances(
    many: Place, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert many.execute("drain", "a", "b", *words) == 7
    said = capsys.readouterr()
    assert f"error: {SAID}\n  -> drain fewer instances, or use --force" in said.err
    assert (many.balancer.drained, many.balancer.closes) == ([], 1)
    assert not words or json.loads(said.out)["error"]["message"] == SAID
    assert not log.default_folder().exists(), "a run that does not begin has no log"


@pytest.mark.parametrize("words", [["--all"], ["-l", "gpu"], ["gpu"], ["~."], ["all/ollama*"]])
def test_the_guard_holds_for_all_instances_and_for_patterns(place: Place, words: list[str]) -> None:
    assert place.execute("drain", *words) == 7
    assert place.balancer.drained == []
    assert place.execute("drain", *words, "--force") == 0
    assert place.balancer.drained == [ONE, TWO]


def test_force_drains_without_a_question(place: Place) -> None:
    assert place.execute("drain", "a", "--force") == 0
    assert place.balancer.drained == [ONE, TWO]


@pytest.mark.parametrize(("agrees", "code", "drained"), [(True, 0, [ONE, TWO]), (False, 130, [])])
def test_on_a_terminal_a_drain_of_the_last_instances_asks(
    place: Place, capsys: pytest.CaptureFixture[str], agrees: bool, code: int, drained: list[str]
) -> None:
    def confirm(question: str) -> bool:
        assert question == "Drain them all the same?"
        return agrees

    assert place.execute("drain", "a", can_answer=lambda: True, confirm=confirm) == code
    assert "a/ollama1, a/ollama2 are the last that serve m" in capsys.readouterr().err
    assert place.balancer.drained == drained
    assert place.balancer.closes


@pytest.mark.parametrize("word", ["c", "lb-1", "a/ollama9", ""])
def test_an_unknown_host_or_instance_is_a_usage_error(make: Any, word: str) -> None:
    with pytest.raises(UsageError, match=r"no such gpu host|has no instance"):
        make(word)


@pytest.mark.parametrize(
    "words",
    [["a", "-m", "two\nlines"], ["a", "-m", "x" * 201], ["a", "--timeout", "soon"], ["a", "--lock-wait", "-1"], []],
)
def test_wrong_options_of_drain_are_usage_errors(words: list[str]) -> None:
    assert execute(["drain", *words]) == 2


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_hooks_run_around_drain_and_undrain_and_get_the_instances(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for name in ("pre-deploy", "post-deploy"):
        hook(tmp_path, name)
    assert place.execute(command, ONE, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("pre-deploy", "post-deploy"))
    assert (before["command"], before["hosts"], before["instances"]) == (command, ["a", "lb-1"], [ONE])
    assert (after["command"], after["exit"], after["run"]) == (command, 0, document["run"])
    assert after["hosts"] == document["hosts"]


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_failed_hook_before_a_drain_keeps_every_balancer_as_it_is(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    hook(tmp_path, "pre-deploy", "exit 3")
    before = place.balancer.upstream
    assert place.execute(command, "a", *(["--force"] if command == "drain" else [])) == 7
    assert "pre-deploy ended with exit code 3: nothing was touched" in capsys.readouterr().err
    assert place.balancer.upstream == before
    assert place.balancer.closes


def hook(folder: Path, name: str, text: str = "exit 0") -> None:
    """Write a hook beside the inventory that keeps the document of the run."""
    program = folder / "hooks" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\ncat >"$PROVISION_EVENT.json"\n{text}\n')
    program.chmod(0o755)


def test_as_a_library_the_last_instances_of_a_model_are_drained_only_if_the_caller_agrees(many: Place) -> None:
    request, asked = actions.Request(many.path, setup=many.setup), []

    def confirm(losses: Any) -> bool:
        asked.extend(losses)
        return len(asked) > 2

    result = actions.drain(request, ["a", "b"], confirm=confirm)
    assert (result.run_id, result.exit_code, many.balancer.drained) == ("", 130, [])
    assert "; ".join(asked) == SAID
    with pytest.raises(GuardError, match="are the last that serve m"):
        actions.drain(request, ["a", "b"])
    assert actions.drain(request, ["a", "b"], confirm=confirm).exit_code == 0
    assert many.balancer.drained == sorted([ONE, TWO, *NAMES])


def test_the_connections_of_a_drain_are_closed_once(make: Any) -> None:
    made, finished = make("a"), []
    Fake.made["lb-1"].finish = lambda: finished.append(1)  # type: ignore[method-assign]
    made.drain("", 0.0)
    made.close()
    assert finished == [1]
