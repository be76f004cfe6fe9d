"""The plan as a pure function, with steps of five lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from provision.command import Answer, run
from provision.errors import FactError, HostError, RefusedError
from provision.plan.planner import Change, HostPlan, agreed, facts_of, plan_host, unplanned
from provision.plan.role_interface import PRESENT, Entry
from provision.steps.base import BlockedError, Check, Fact, Owned, RefusalError, State, Step, UnreadableError
from provision.steps.facts import HostFacts


@dataclass(frozen=True)
class Thing(Step):
    """A step whose fact gives the state named by the test."""

    volatile: ClassVar[frozenset[str]] = frozenset({"running", "sees"})

    name: str
    found: Any = None
    wanted: Any = field(default_factory=lambda: {"on": True})
    needs: tuple[str, ...] = ()
    part: str = ""
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self):
        return f"thing:{self.name}"

    @property
    def part_of(self):
        return self.part

    def refused(self, facts):
        return self.refuses

    @property
    def after(self):
        return self.needs

    def fact(self):
        def parse(answer: Answer) -> State:
            if isinstance(self.found, Exception):
                raise self.found
            return self.found

        return Fact(run("read", self.name), parse)

    def want(self, facts: HostFacts, have: State) -> State:
        if isinstance(self.wanted, Exception):
            raise self.wanted
        return self.wanted

    def commands(self, have, want):
        return [run("make", self.name)]

    def impact(self, have, want):
        return "costs nothing"

    def check(self, live):
        yield Check("is", 1, 1)


@dataclass(frozen=True)
class Marked(Owned):
    things: Mapping[str, State]

    def fact(self):
        return Fact(run("list"), lambda answer: self.things)

    def step(self, step_id):
        name = step_id.split(":")[1]
        return Thing(name, part=name.partition("/")[0])


@dataclass(frozen=True)
class Kept(Thing):
    """A step with a restored fact and a `restore` of its own."""

    def restore(self, facts, have, past):
        return {**past, "restored": True}

    def restored_fact(self, past):
        fact = self.fact()
        return Fact(fact.command, lambda answer: {**fact.parse(answer), "read for": past})


def planned(*things, marked=None, declared=(), earlier=()):
    entries = [thing if isinstance(thing, Entry) else Entry("docker", thing) for thing in things]
    things = [entry.step for entry in entries]
    finders = [("docker", Marked(marked or {}))]
    answers = dict.fromkeys(facts_of(entries, finders), Answer(1, b"", b"boom"))
    ids = frozenset([thing.id for thing in things]) | frozenset(declared)
    return plan_host(entries, ids, finders, HostFacts(), answers, {change.step.id: change for change in earlier})


def rows(plan):
    return [(change.action, change.step.id, change.reason) for change in plan.changes]


def test_a_step_in_the_wanted_state_is_not_in_the_plan():
    plan = planned(Thing("a", {"on": True, "evidence": 1}))
    assert (rows(plan), plan.ok, plan.steps) == ([], 1, 1)


def test_a_plan_adds_changes_and_removes():
    plan = planned(Thing("a"), Thing("b", {"on": False}), Thing("c", {"on": 1}, None), Thing("d", None, None))
    assert rows(plan) == [
        ("add", "thing:a", "not there"),
        ("change", "thing:b", "on differs"),
        ("remove", "thing:c", "no longer declared"),
    ]
    assert plan.changes[0].commands == (run("make", "a"),)
    assert plan.changes[0].impact == "costs nothing"


def test_an_entry_with_a_past_plans_the_state_that_its_step_restores():
    past = {"on": False}
    plan = planned(Entry("docker", Kept("a", {"on": True}), past))
    assert rows(plan) == [("change", "thing:a", "on differs, restored differs")]
    [change] = plan.changes
    assert change.want == {"on": False, "restored": True}
    assert change.have == {"on": True, "read for": past}
    assert change.entry == Entry("docker", Kept("a", {"on": True}), past)


def test_an_entry_with_an_absent_past_plans_a_removal():
    plan = planned(Entry("docker", Thing("a", {"on": True}), None), Entry("docker", Thing("b", None), None))
    assert rows(plan) == [("remove", "thing:a", "was not there before")]


def test_an_entry_of_the_present_state_restores_the_present_state_if_any():
    there, absent = Kept("a", {"on": 1}), Thing("b", None)
    plan = planned(Entry("docker", there, PRESENT), Entry("docker", absent, PRESENT))
    assert [change.want for change in plan.changes] == [{"on": 1, "restored": True}]


def test_orphans_are_removed_first():
    plan = planned(Thing("a"), marked={"thing:old": {"on": True}, "thing:a": {"on": True}})
    assert rows(plan)[0] == ("remove", "thing:old", "no longer declared")
    assert len(plan.changes) == 2


def test_a_refused_instance_is_left_out_and_the_rest_is_planned():
    guard = Thing("guard", {"on": True}, refuses={"a": "a cannot run"})
    dead = [Thing("a", UnreadableError("its card is gone"), part="a"), Thing("model", part="a")]
    plan = planned(guard, *dead, Thing("b", part="b"), marked={"thing:a/old": {"on": 1}, "thing:b/old": {"on": 1}})
    assert rows(plan) == [("remove", "thing:b/old", "no longer declared"), ("add", "thing:b", "not there")]
    assert (plan.refused, plan.ok, plan.steps) == ({"a": "a cannot run"}, 1, 4)


def test_a_thing_declared_by_a_deselected_role_is_no_orphan():
    assert rows(planned(marked={"thing:x": {"on": True}}, declared=["thing:x"])) == []


def test_a_step_blocked_by_a_changing_step_is_known_later_and_blocks_further_steps():
    plan = planned(Thing("a"), Thing("b", BlockedError("thing:a")), Thing("c", BlockedError("thing:b")))
    assert rows(plan)[1:] == [
        ("change", "thing:b", "known after thing:a"),
        ("change", "thing:c", "known after thing:b"),
    ]
    assert plan.changes[1].pending


def test_a_wanted_state_can_be_blocked_too():
    assert rows(planned(Thing("a"), Thing("b", {}, BlockedError("thing:a"))))[1][2] == "known after thing:a"


def test_a_step_blocked_by_an_unchanged_step_is_unreadable():
    with pytest.raises(FactError, match="thing:b is known only after thing:a"):
        planned(Thing("a", {"on": True}), Thing("b", BlockedError("thing:a", "daemon is dead")))


def test_a_step_after_a_change_is_read_again_even_in_the_wanted_state():
    assert rows(planned(Thing("a"), Thing("b", {"on": True}, needs=("thing:a",))))[1][2] == "known after thing:a"
    assert rows(planned(Thing("a", {"on": True}), Thing("b", {"on": True}, needs=("thing:a",)))) == []


def test_a_step_after_a_change_of_an_earlier_wave_is_known_later():
    earlier = planned(Thing("a")).changes
    late = planned(Thing("b", {"on": True}, needs=("thing:a",)), Thing("c", BlockedError("thing:a")), earlier=earlier)
    assert [(step, reason) for _, step, reason in rows(late)] == [
        ("thing:b", "known after thing:a"),
        ("thing:c", "known after thing:a"),
    ]


@dataclass(frozen=True)
class Blocked(Marked):
    def fact(self):
        def parse(answer: Answer) -> State:
            raise BlockedError("thing:daemon", "it does not run")

        return Fact(run("list"), parse)


def searched(*things):
    entries, finders = [Entry("docker", thing) for thing in things], [("docker", Blocked({}))]
    answers = dict.fromkeys(facts_of(entries, finders), Answer(1))
    return plan_host(entries, frozenset(thing.id for thing in things), finders, HostFacts(), answers)


def test_a_search_that_needs_an_undeclared_step_is_left_out():
    assert rows(searched(Thing("a"))) == [("add", "thing:a", "not there")]


def test_a_search_that_needs_a_declared_dead_daemon_stops_the_host():
    assert rows(searched(Thing("daemon"))) == [("add", "thing:daemon", "not there")]
    with pytest.raises(FactError, match="Blocked is known only after thing:daemon"):
        searched(Thing("daemon", {"on": True}))


def test_an_unreadable_fact_stops_the_host_with_the_evidence():
    with pytest.raises(FactError) as error:
        planned(Thing("a", UnreadableError("what is this")))
    assert (error.value.step, error.value.exit_status, error.value.stderr) == ("thing:a", 1, "boom")


def test_a_refusal_stops_the_host():
    with pytest.raises(RefusedError, match="not mine"):
        planned(Thing("a", {}, RefusalError("not mine")))


def test_equal_commands_are_read_once():
    entries = [Entry("docker", Thing("a")), Entry("docker", Thing("a"))]
    assert facts_of(entries, []) == (run("read", "a"),)


def test_the_output_of_a_read_is_no_evidence_because_it_may_be_secret():
    thing = Thing("a", UnreadableError("it took too long"))
    answers = {thing.fact().command: Answer(124, b'"Env": ["TOKEN=hunter2"]')}
    with pytest.raises(FactError) as error:
        plan_host([Entry("docker", thing)], frozenset(), [], HostFacts(), answers)
    assert "hunter2" not in f"{error.value.stderr}{error.value}"


ON = {"on": True, "running": True, "sees": ["card 0"]}


def thing(found, name="a", **more):
    return Thing(name, found, ON, **more)


@pytest.mark.parametrize(
    ("before", "after", "others"),
    [
        ([thing({**ON, "on": False})], [thing(ON)], []),  # the difference disappeared by itself
        ([thing(ON)], [thing({**ON, "on": False})], ["thing:a"]),
        ([thing(ON)], [thing({**ON, "sees": []})], ["thing:a"]),  # the plan did not have the thing
        ([thing({**ON, "on": False})], [thing({**ON, "on": "half"})], ["thing:a"]),
        ([thing({**ON, "on": False})], [thing(None)], ["thing:a"]),
        # a container that restarts again and again, and is in the plan already
        ([thing({**ON, "on": False})], [thing({"on": False, "running": False, "sees": [""]})], []),
        # a step that waits for a planned change may be known or not
        (
            [thing({**ON, "on": False}), thing(BlockedError("thing:a", ""), "b")],
            [thing({**ON, "on": False}), thing(None, "b")],
            [],
        ),
        (
            [thing({**ON, "on": False}), thing(ON, "b")],
            [thing({**ON, "on": False}), thing(BlockedError("thing:a", ""), "b")],
            [],
        ),
        ([thing(ON), thing(ON, "b")], [thing(None), thing(BlockedError("thing:a", ""), "b")], ["thing:a"]),
    ],
)
def test_the_steps_that_were_not_planned_are_named(before, after, others):
    assert unplanned(planned(*before), planned(*after)) == others


@dataclass(frozen=True)
class Serving(Thing):
    """The container of an instance."""

    serves: ClassVar[bool] = True


@dataclass(frozen=True)
class Previous(Thing):
    """What a replacement kept of an instance."""

    follows_test: ClassVar[bool] = True


@dataclass(frozen=True)
class KeptAside(Marked):
    """The finder of previous containers."""

    last: ClassVar[bool] = True

    def step(self, step_id):
        name = step_id.split(":")[1]
        return Previous(name, part=name.partition("/")[0])


@pytest.mark.parametrize(("found", "removed"), [({"on": True}, ["thing:one/old"]), ({"on": False}, []), (None, [])])
def test_a_previous_container_is_in_the_plan_only_if_its_instance_is_left_alone(found, removed):
    """The change of the instance removes the previous container by itself."""
    server, finder = Serving("one", found, part="one"), KeptAside({"thing:one/old": {"on": True}})
    entries, finders = [Entry("docker", server)], [("docker", finder)]
    answers = dict.fromkeys(facts_of(entries, finders), Answer(0, b""))
    plan = plan_host(entries, frozenset({server.id}), finders, HostFacts(), answers)
    assert [change.step.id for change in plan.changes if change.action == "remove"] == removed


def test_an_operator_who_agreed_to_a_replacement_agreed_to_the_removal_of_what_it_keeps():
    shown = HostPlan()
    kept = HostPlan((Change("docker", Previous("one/old"), "remove", "passed"),))
    assert agreed(shown, kept) is kept
    with pytest.raises(HostError, match="nobody agreed to"):
        agreed(shown, HostPlan((Change("docker", Thing("one"), "remove", "gone"),)))
