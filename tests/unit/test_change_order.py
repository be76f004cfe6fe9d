"""The order of a host's changes, and the instances that leave the upstream together."""

from dataclasses import dataclass, replace

import pytest

from provision.plan.change_order import creates, groups, with_releases
from provision.plan.planner import Change
from provision.steps.base import EVERY


@dataclass(frozen=True)
class Part:
    """The members of a step that the order depends on."""

    id: str
    cuts: frozenset[str] = frozenset()
    keeps: bool = False

    @property
    def part_of(self):
        kind, _, rest = self.id.partition(":")
        return rest.partition("/")[0] if kind in ("container", "model", "resident", "previous") else ""

    @property
    def serves(self):
        return self.id.startswith("container:")

    @property
    def follows_test(self):
        return self.id.startswith("previous:")

    def release(self, have, want):
        return Part(f"previous:{self.part_of}") if self.keeps else None


def change(step, *, cuts=(), action="change", have=None, want=None, pending=False):
    return Change("", Part(step, frozenset(cuts)), action, "", have=have, want=want, pending=pending)


def container(name, *, running=True, has=(), wants=(), **more):
    cuts = [name] if running else []
    return change(f"container:{name}", cuts=cuts, have={"gpus": list(has)}, want={"gpus": list(wants)}, **more)


def shown(*changes):
    """Return the instances and the steps of every group."""
    found = groups(changes, lambda one: one.step.cuts)
    return [(sorted(group.instances), [one.step.id for one in group.changes]) for group in found]


def test_on_a_first_deploy_nothing_is_moved():
    steps = ["image:a", "container:1", "container:2", "model:1/m", "resident:1", "model:2/m", "resident:2"]
    found = shown(*(change(step, action="add") for step in steps))
    assert found == [([], [step]) for step in steps]


def test_the_steps_that_an_instance_needs_follow_its_container():
    found = shown(
        change("image:a"),
        container("1"),
        container("2"),
        change("model:1/m"),
        change("resident:1", pending=True),
        change("resident:2", pending=True),
        change("config:x"),
    )
    assert found == [
        ([], ["image:a"]),
        (["1"], ["container:1", "model:1/m", "resident:1"]),
        (["2"], ["container:2", "resident:2"]),
        ([], ["config:x"]),
    ]


def test_removals_come_first_and_alone():
    found = shown(change("model:1/old", action="remove"), change("image:a"), container("1"))
    assert found == [([], ["model:1/old"]), ([], ["image:a"]), (["1"], ["container:1"])]


def test_instances_whose_cards_change_hands_are_out_together():
    found = shown(
        container("1", has=["A"], wants=["B"]),
        container("2", has=["B"], wants=["C"]),
        container("3", has=["D"], wants=["D"]),
        change("resident:1"),
    )
    assert found == [(["1", "2"], ["container:1", "container:2", "resident:1"]), (["3"], ["container:3"])]


def test_a_new_instance_that_takes_a_card_is_made_while_the_old_holder_is_out():
    found = shown(container("new", running=False, wants=["A"]), container("old", has=["A"], wants=["B"]))
    assert found == [(["new", "old"], ["container:new", "container:old"])]


def test_an_undeclared_instance_goes_just_before_the_instance_that_takes_its_card():
    """After a rename or in a rollback: no more than this instance of a model is out at a time."""
    found = shown(
        change("model:old1/m", action="remove", cuts=["old1"]),
        change("container:old1", action="remove", cuts=["old1"], have={"gpus": ["A"]}),
        change("container:old2", action="remove", cuts=["old2"], have={"gpus": ["B"]}),
        change("container:old3", action="remove", cuts=["old3"], have={"gpus": ["C"]}),
        change("image:a"),
        container("new1", running=False, wants=["A"]),
        container("new2", running=False, wants=["B"]),
        change("model:new1/m"),
        change("model:new2/m"),
    )
    assert found == [
        ([], ["container:old3"]),
        ([], ["image:a"]),
        (["new1", "old1"], ["model:old1/m", "container:old1", "container:new1", "model:new1/m"]),
        (["new2", "old2"], ["container:old2", "container:new2", "model:new2/m"]),
    ]


def test_a_container_that_cannot_be_read_yet_counts_as_running():
    found = shown(change("container:1", pending=True), change("container:2"), change("resident:1", pending=True))
    assert found == [([], ["container:2"]), (["1"], ["container:1", "resident:1"])]


def test_missing_parts_of_running_instances_come_before_any_outage():
    found = shown(
        change("model:0/old", action="remove"),
        change("image:a"),
        container("2"),
        change("model:1/m"),
        change("resident:1"),
        change("resident:2"),
        change("config:x"),
    )
    assert found == [
        ([], ["model:0/old"]),
        ([], ["image:a"]),
        ([], ["model:1/m"]),
        ([], ["resident:1"]),
        (["2"], ["container:2", "resident:2"]),
        ([], ["config:x"]),
    ]


def test_changes_that_cut_every_stream_are_one_outage():
    found = shown(
        change("apt_source:a"),
        change("packages:docker", cuts=EVERY),
        change("file:b"),
        change("service:docker", cuts=EVERY),
        change("file:c"),
    )
    assert found == [
        ([], ["apt_source:a"]),
        (["*"], ["packages:docker", "file:b", "service:docker"]),
        ([], ["file:c"]),
    ]


@pytest.mark.parametrize("second", [container("1"), change("container:1", pending=True)])
def test_a_change_that_needs_an_outage_joins_the_outage_of_all(second):
    found = shown(change("service:docker", cuts=EVERY), change("image:a"), second, change("resident:1"))
    assert found == [(["*"], ["service:docker", "image:a", "container:1", "resident:1"])]


@pytest.mark.parametrize(
    ("have", "made"),
    [
        (None, True),
        ({"running": True, "publish": ["10.0.0.1:4001"]}, False),
        ({"running": False, "publish": ["10.0.0.1:3001"]}, False),
        ({"running": False, "publish": ["10.0.0.1:4001"]}, True),  # no instance has proved the new address yet
    ],
)
def test_a_container_at_a_new_address_with_no_running_predecessor_is_tested_before_requests(have, made):
    assert creates(change("container:1", have=have, want={"running": True, "publish": ["10.0.0.1:3001"]})) is made


def released(*changes):
    """Return the steps of every group, with the removals of what the changes keep."""
    found = with_releases(groups(changes, lambda one: one.step.cuts))
    return [[one.step.id for one in group.changes] for group in found]


def keeping(name, **more):
    """Return the change of a container that keeps the old container."""
    made = container(name, **more)
    return replace(made, step=replace(made.step, keeps=True))


def test_a_kept_container_goes_after_the_last_group_of_its_instance():
    assert released(keeping("1"), keeping("2"), change("model:1/m"), change("resident:2")) == [
        ["container:1", "model:1/m"],
        ["previous:1"],
        ["container:2", "resident:2"],
        ["previous:2"],
    ]
    stopped = keeping("1", running=False), keeping("2", running=False), change("model:1/m"), change("config:x")
    assert released(*stopped) == [
        ["container:1"],
        ["container:2"],
        ["previous:2"],
        ["model:1/m"],
        ["previous:1"],
        ["config:x"],
    ], "each instance has its models before its test"


def test_kept_containers_go_after_an_outage_of_all_instances():
    assert released(change("service:docker", cuts=EVERY), keeping("1"), keeping("2")) == [
        ["service:docker", "container:1", "container:2"],
        ["previous:1"],
        ["previous:2"],
    ]
    assert released(change("service:docker", cuts=EVERY), keeping("1"), change("unit:x", cuts=EVERY)) == [
        ["service:docker", "container:1", "unit:x"],
        ["previous:1"],
    ]


def test_a_change_that_is_known_later_leaves_its_kept_container_to_the_next_plan():
    assert released(keeping("1", pending=True)) == [["container:1"]]


def test_a_container_that_a_dead_run_kept_goes_alone_and_never_within_an_outage():
    found = shown(
        change("service:docker", cuts=EVERY),
        change("model:1/m"),
        change("previous:1", action="remove"),
        change("volume:old", action="remove", cuts=EVERY),
    )
    assert found == [
        (["*"], ["service:docker"]),
        ([], ["model:1/m"]),
        ([], ["previous:1"]),
        ([], ["volume:old"]),
    ]


def test_an_instance_of_which_only_the_previous_container_is_left_is_made_anew():
    state = {"running": False, "publish": ["10.0.0.1:3001"]}
    assert creates(change("container:1", have={**state, "aside": True}, want=state))
    assert not creates(change("container:1", have=state, want=state))
