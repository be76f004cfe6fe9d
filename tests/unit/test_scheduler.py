"""The order of hosts in a roll, and the reasons to halt the roll."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.errors import HostError
from provision.inventory import Host
from provision.rollout.members import Members, Membership, Slot
from provision.rollout.roll import Roll
from provision.rollout.scheduler import Scheduler, Work
from provision.rollout.traffic import HostTraffic
from provision.runs.context import Stopped
from provision.steps.base import EVERY

from .fake_roll import FakePool, gpu, pool_of, roll, traffic

ONE = frozenset({"ollama1"})
TWO = frozenset({"ollama2"})


class Part:
    """The part of a host in a roll: cordons instances, works, and uncordons, as a `HostRun` does.

    Args:
        own: the traffic of the host.
        groups: the groups of instances that go out together, in order.
        work: a function to call while a group is out.
        before: a function to call before the first request for a slot.
    """

    def __init__(
        self,
        own: HostTraffic,
        groups: Sequence[frozenset[str]],
        work: Callable[["Part"], None] = lambda part: None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.own = own
        self.groups = groups
        self.work = work
        self.before = before
        self.slot: Slot | None = None
        self.error: HostError | None = None
        self.said: list[str] = []
        self.refusals = 0
        """The number of granted slots that the balancers refused."""
        self.going: Callable[[], object] = lambda: None
        """A function to call with a granted slot, before the instances go out."""
        self.came_late = False
        """Whether the roll was halted before the part asked for its last slot."""

    @property
    def name(self) -> str:
        return self.own.host.name

    def as_work(self) -> Work:
        return Work(self._slots(), self.said.append)

    def _slots(self) -> Iterator[Slot]:
        try:
            self.before()
            for names in self.groups:
                yield from self._group(names)
            self.own.finish()
        except HostError as error:
            self.error = error

    def _group(self, names: frozenset[str]) -> Iterator[Slot]:
        self.slot = slot = self.own.request(names, "step")
        if slot is None:
            return
        self.came_late = bool(self.own.roll.members.halted)
        try:
            yield slot
            self.going()
            while not self.own.cordon(slot):
                self.refusals += 1
                yield slot
            self.own.drain(slot)
            self.work(self)
        except Exception:
            self.own.abandon(slot)
            raise
        self.own.uncordon(slot)


def run(made: Roll, parts: Sequence[Part], forks: int = 8, wait: float = 120.0) -> None:
    """Run all parts, and fail if the roll does not end."""
    scheduler = Scheduler(made, forks)
    thread = threading.Thread(target=scheduler.run, args=([part.as_work() for part in parts],), daemon=True)
    thread.start()
    thread.join(wait)
    assert not thread.is_alive(), "hosts wait for each other"


def fleet(folder: Path, *models: tuple[tuple[str, ...], ...], **settings: Any) -> tuple[Roll, list[HostTraffic]]:
    """Return a roll over hosts a, b, c ... with models, and the traffic of every host."""
    hosts = [gpu(name, served, **settings) for name, served in zip("abcdefgh", models, strict=False)]
    made = roll(folder, *hosts)
    return made, [traffic(made, host) for host in hosts]


def test_hosts_get_slots_in_the_order_of_their_start(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, *[(("m",),)] * 4)
    order: list[str] = []
    parts = [Part(one, [ONE], lambda part: order.append(part.name)) for one in own]
    run(made, parts, forks=1)
    assert order == ["a", "b", "c", "d"]
    assert pool_of(made).down == set()


def test_an_instance_waits_while_a_replica_is_out_and_says_so(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("m",),))
    second = Part(own[1], [ONE])
    asked = threading.Event()
    second.said = said = Noted(asked)
    first = Part(own[0], [ONE], lambda part: asked.wait(60) or pytest.fail("the second one did not wait"))
    run(made, [first, second])
    assert said == ["waiting: a/ollama1 is out of the upstream"]
    assert (first.error, second.error, made.members.halted) == (None, None, "")


class Noted(list[str]):
    """The messages of a part, with an event that every message sets."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self.event = event

    def append(self, text: str) -> None:
        super().append(text)
        self.event.set()


def test_instances_of_other_models_go_out_at_the_same_time(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("n",),))
    both = threading.Barrier(2)
    run(made, [Part(one, [ONE], lambda part: both.wait(60) and None) for one in own])
    assert made.members.halted == ""


def test_members_that_are_down_halt_a_roll_with_nothing_under_way(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("m",),))
    pool_of(made).down = {"a/ollama1"}
    part = Part(own[1], [ONE])
    run(made, [part])
    why = "a/ollama1 is out of the upstream already, as many as max_unavailable allows"
    assert made.members.halted == why
    assert isinstance(part.error, Stopped)
    assert part.error.message == f"not taken out of the upstream: {why}"
    assert part.error.hint.startswith("bring it back, or drain what is to stay out")
    assert pool_of(made).down == {"a/ollama1"}


def test_drained_members_are_named_as_drained(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, *[(("m",),)] * 3)
    pool_of(made).drained = {"a/ollama1", "c/ollama1"}
    run(made, [Part(own[1], [ONE])])
    assert made.members.halted.startswith("a/ollama1 (drained), c/ollama1 (drained) are out of the upstream already")


def test_a_roll_waits_for_a_member_that_is_down_while_its_host_is_at_work(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("m",),))
    pool_of(made).down = {"a/ollama1"}
    refused = threading.Event()
    first, second = Part(own[0], [ONE]), Part(own[1], [ONE])
    second.said = said = Noted(refused)
    first.before = lambda: refused.wait(60) or pytest.fail("the second one did not wait")
    run(made, [first, second])
    assert (first.error, second.error, made.members.halted) == (None, None, "")
    assert said[0] == "waiting: a/ollama1 is out of the upstream"
    assert pool_of(made).down == set()


def test_a_refused_host_asks_the_balancers_again_only_after_progress_elsewhere(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("m",),), (("n",), ("n",)))
    pool_of(made).down = {"a/ollama1"}
    refused = threading.Event()
    waiting = Part(own[1], [ONE])
    waiting.said = Noted(refused)
    parts = [waiting, Part(own[2], [ONE, TWO], before=lambda: refused.wait(60) or pytest.fail("it was not refused"))]
    run(made, parts)
    assert waiting.refusals <= 6, "once at first, and once for each step and instance of host c"
    assert parts[1].error is None
    assert made.members.halted


def test_the_slot_of_a_refused_host_is_offered_to_waiting_hosts(tmp_path: Path) -> None:
    """Host b has a free slot for model n and none for model m. The refused host b must not keep host c waiting."""
    made, own = fleet(tmp_path, (("m",),), (("m", "n"),), (("n",),))
    pool_of(made).down = {"a/ollama1"}
    blocked, free = Part(own[1], [ONE]), Part(own[2], [ONE])
    waits = threading.Event()
    free.said = Noted(waits)
    free.before = lambda: until(lambda: bool(made.members.out(("lb-0",))))
    blocked.going = lambda: waits.wait(60) or pytest.fail("the other one did not wait")
    run(made, [blocked, free])
    assert isinstance(blocked.error, Stopped)
    assert free.error is None


def test_a_failed_test_halts_the_roll_for_waiting_hosts_too(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("m",),))
    second = Part(own[1], [ONE])
    asked = threading.Event()
    second.said = Noted(asked)
    own[0].admission.session.ill.add("ollama1")  # type: ignore[attr-defined]
    first = Part(own[0], [ONE], lambda part: asked.wait(60) or pytest.fail("the second one did not wait"))
    run(made, [first, second])
    assert isinstance(second.error, Stopped)
    assert "a/ollama1 is not fit to serve" in second.error.message
    assert second.error.hint == "repair the cause, then deploy again"
    assert made.members.labels(Membership.NOT_READY) == {"a/ollama1"}
    assert pool_of(made).down == {"a/ollama1"}


def test_a_stop_wakes_every_waiting_host(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, *[(("m",),)] * 4)
    scheduler = Scheduler(made, 8)
    waits = threading.Semaphore(0)

    def stop(part: Part) -> None:
        for _ in own[1:]:
            assert waits.acquire(timeout=60)
        made.context.stop.set()
        scheduler.wake()
        for other in parts[1:]:
            assert other.ended.wait(60), "the host stops while another host is still at work"

    class Waiting(Part):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words)
            self.ended = threading.Event()

        def as_work(self) -> Work:
            return Work(self._noted(), lambda text: waits.release())

        def _noted(self) -> Iterator[Slot]:
            yield from self._slots()
            self.ended.set()

    parts = [Waiting(one, [ONE], stop if one is own[0] else lambda part: None) for one in own]
    thread = threading.Thread(target=scheduler.run, args=([part.as_work() for part in parts],), daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    assert [str(part.error) for part in parts[1:]] == ["stopped before step"] * 3
    assert parts[0].error is None, "the instance was out and changed, and gets requests again"
    assert pool_of(made).down == set()
    assert made.members.out(("lb-0",)) == {}


def test_a_wake_before_and_after_the_work_of_a_scheduler_does_no_harm(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),))
    scheduler = Scheduler(made, 1)
    scheduler.wake()
    part = Part(own[0], [ONE])
    scheduler.run([part.as_work()])
    scheduler.wake()
    scheduler.run([])
    assert part.error is None


def test_waiting_hosts_do_not_block_the_threads_for_ever(tmp_path: Path) -> None:
    """Eight hosts with replicas of a model, and two threads."""
    made, own = fleet(tmp_path, *[(("m",), ("m",))] * 8)
    parts = [Part(one, [ONE, TWO]) for one in own]
    run(made, parts, forks=2)
    assert [part.error for part in parts] == [None] * 8


def test_a_roll_without_hosts_ends(tmp_path: Path) -> None:
    made, _ = fleet(tmp_path, (("m",),))
    run(made, [])


def test_renamed_instances_halt_hosts_that_need_the_slot_and_the_hint_is_a_second_deploy(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, (("m",),), (("m",),))
    pool_of(made).listed = {"a/old": 3009, "b/ollama1": 3001}
    removed, part = Part(own[0], [frozenset({"old"})]), Part(own[1], [ONE])
    part.before = lambda: until(lambda: bool(made.members.labels(Membership.REMOVED)))
    run(made, [removed, part])
    assert removed.error is None
    assert isinstance(part.error, Stopped)
    assert "a/old is out of the upstream already" in part.error.message
    assert part.error.hint == "deploy again: the balancers learn of the renamed instances at the end of this run"


def test_hosts_that_each_create_an_instance_do_not_wait_for_each_other(tmp_path: Path) -> None:
    made, own = fleet(tmp_path, *[(("m",), ("m",))] * 3)
    parts = [Part(one, [TWO], before=partial(one.hold, "ollama1")) for one in own]
    run(made, parts)
    assert ([part.error for part in parts], made.members.halted) == ([None] * 3, "")
    assert pool_of(made).down == set()


def test_an_admitted_instance_frees_a_slot_even_if_its_host_is_refused(tmp_path: Path) -> None:
    """Host a waits for an instance of host b, and host b for an instance that stays out."""
    made, own = fleet(tmp_path, (("m",),), (("m",), ("m", "n")), (("n",),), max_unavailable=1)
    pool_of(made).down = {"c/ollama1"}
    own[1].hold("ollama1")
    waits, first, second = threading.Event(), Part(own[0], [ONE]), Part(own[1], [TWO])
    first.said = Noted(waits)
    second.before = lambda: waits.wait(60) or pytest.fail("the first one was not refused")
    run(made, [first, second])
    assert first.error is None
    assert isinstance(second.error, Stopped)
    assert pool_of(made).down == {"c/ollama1"}


class Meeting(Members):
    """A table of members in which a read waits for a read of another host."""

    def __init__(self) -> None:
        super().__init__()
        self.to_meet = threading.Semaphore(0)
        """The number of next reads that wait."""
        self._both = threading.Barrier(2)

    def out(self, scope: tuple[str, ...]) -> dict[str, Slot]:
        taken = super().out(scope)
        if threading.current_thread().name.startswith("host") and self.to_meet.acquire(blocking=False):
            self._both.wait(60)
        return taken


def test_two_hosts_that_ask_at_once_do_not_refuse_each_other_for_ever(tmp_path: Path) -> None:
    """Two instances may be out, and one is down: either host fits."""
    hosts = [gpu(name, (("m",),), max_unavailable=2) for name in "abc"]
    whole = gpu("d", (("m",), ("m",)), max_unavailable=2)
    meeting = Meeting()
    made = replace(roll(tmp_path, *hosts, whole), members=meeting)
    parts = [Part(traffic(made, host), [ONE]) for host in hosts[:2]]
    waits = [threading.Event() for _ in parts]
    for part, event in zip(parts, waits, strict=True):
        part.said = Noted(event)
        part.before = lambda: until(lambda: bool(made.members.labels(Membership.CORDONED)))

    def let_both_go(part: Part) -> None:
        assert all(event.wait(60) for event in waits)
        pool_of(made).down.add("c/ollama1")
        meeting.to_meet.release(2)

    run(made, [Part(traffic(made, whole), [EVERY], let_both_go), *parts])
    assert [part.error for part in parts] == [None, None]
    assert made.members.halted == ""


def until(so: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 60
    while not so():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.001)


class Watch:
    """Checks at every mark on a balancer that no more replicas of a model are without requests than allowed.

    If nothing else is out, a whole group of instances of a host may be out together.

    Args:
        made: the roll.
        held: labels of new instances, which do not exist yet when the balancers learn of the instances.
    """

    def __init__(self, made: Roll, held: set[str]) -> None:
        self.made = made
        self.held = held
        self.wrong: list[str] = []

    def __call__(self, pool: FakePool, down: frozenset[str], lost: frozenset[str]) -> None:
        replicas = self.made.budget.replicas
        hosts = {host.name: host for host in self.made.context.inventory.hosts}
        cordoned = self.made.members.labels(Membership.CORDONED)
        for label in lost & cordoned:
            host = hosts[label.partition("/")[0]]
            for model in replicas.models(host, [label])[label]:
                there = pool.down - (self.held - cordoned)
                out = {one for one in there if model in self._models(hosts, one)}
                if len(out) > self.made.budget.allowed(host, model) and not out <= down:
                    self.wrong.append(f"{sorted(out)} of {model} are out")

    def _models(self, hosts: dict[str, Host], label: str) -> tuple[str, ...]:
        return self.made.budget.replicas.models(hosts[label.partition("/")[0]], [label])[label]


served = st.sampled_from([("m",), ("n",), ("m", "n"), ()])
group = st.sampled_from([ONE, TWO, EVERY])


@st.composite
def rolls(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a fleet, the groups of instances to take out, and the members that are down already."""
    count = draw(st.integers(1, 6))
    models = [tuple(draw(st.lists(served, min_size=2, max_size=2))) for _ in range(count)]
    labels = [f"{name}/ollama{n}" for name in "abcdef"[:count] for n in (1, 2)]
    return {
        "models": models,
        "groups": [draw(st.lists(group, max_size=3)) for _ in range(count)],
        "max_unavailable": draw(st.sampled_from([1, 2, 3, "25%", "50%"])),
        "forks": draw(st.integers(1, 4)),
        "down": set(draw(st.lists(st.sampled_from(labels), max_size=2))),
        "drained": set(draw(st.lists(st.sampled_from(labels), max_size=2))),
        "held": set(draw(st.lists(st.sampled_from(labels), max_size=2))),
        "pauses": draw(st.lists(st.sampled_from([0.0, 0.0, 0.001, 0.003]), min_size=1, max_size=8)),
    }


@given(rolls())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_any_order_the_budget_holds_and_every_host_ends(case: dict[str, Any]) -> None:
    made, own = fleet(Path("/nowhere"), *case["models"], max_unavailable=case["max_unavailable"])
    pool = pool_of(made)
    pool.down, pool.drained = case["down"] - case["drained"], set(case["drained"])
    watch = pool.watch = Watch(made, case["held"])
    pauses = iter(case["pauses"] * 99)

    def begin(own: HostTraffic) -> None:
        time.sleep(next(pauses))
        for label in sorted(case["held"]):
            host, _, name = label.partition("/")
            if host == own.host.name:
                own.hold(name)

    parts = [
        Part(one, groups, lambda part: time.sleep(next(pauses)), partial(begin, one))
        for one, groups in zip(own, case["groups"], strict=True)
    ]
    run(made, parts, case["forks"])
    assert watch.wrong == []
    assert made.members.out(("lb-0",)) == {}
    stopped = case["held"] if made.members.halted else set()  # the next run admits the instances
    assert pool.down <= case["down"] | stopped, "every instance that went out is back"
    if not case["down"] | case["drained"]:
        assert made.members.halted == ""
    for part in parts:
        if not made.members.halted:
            assert part.error is None
        elif part.error is not None and not part.came_late:
            assert isinstance(part.error, Stopped)
            assert part.slot is not None
            listed = pool.members()
            assert made.budget.blockers(part.slot, {}, listed, ()), f"{part.name} was stopped without a blocker"
