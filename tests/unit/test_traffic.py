"""The places in a host's changes where instances are cordoned, repaired and admitted."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from provision.command import Put, run
from provision.errors import CommandError, HostError, UnreachableError
from provision.runs.context import Stopped
from provision.runs.setup import Timings
from provision.steps.base import EVERY, Fact
from provision.steps.fleet_state import FleetState
from provision.steps.instance.container_state import LEFT
from provision.testing import ShellHost
from tests.shell import sh

from .local import deployed
from .test_host_run import ROLES, Note, make, note

__all__ = ["make"]

SERVING = ROLES | {"ollama", "models"}


@dataclass(frozen=True)
class Part(Note):
    """A note that is a part of an instance; changing an existing note hurts the instance.

    Args:
        instance: the instance; "" means none.
        hurts: whether a change cuts the streams of the instance.
        whole: whether a change cuts the streams of all instances.
        mended: the text after a repair; "" means the present text.
    """

    instance: str = ""
    hurts: bool = True
    whole: bool = False
    mended: str = ""

    @property
    def part_of(self):
        return self.instance

    def disrupts(self, have, want):
        if have is None or not self.hurts:
            return frozenset()
        return EVERY if self.whole else frozenset({self.instance})

    def repaired(self, have):
        return {"text": self.mended} if self.mended else have


@dataclass(frozen=True)
class Container(Part):
    """The container of an instance, which runs if its note exists.

    Args:
        cards: the cards of the container.
        left: whether the container is in a cgroup that loses the cards at a daemon-reload.
    """

    serves: ClassVar[bool] = True
    cards: tuple[str, ...] = ()
    left: bool = False

    @property
    def id(self):
        return f"container:{self.instance}"

    def fact(self):
        text = super().fact()

        def parse(answer):
            cards = list(self.cards)
            runs = {"running": True, "gpus": cards, "sees": cards, "cgroup": LEFT if self.left else "own"}
            state = text.parse(answer)
            return state and {**state, **runs}

        return Fact(text.command, parse)

    def want(self, facts, have):
        return {"text": self.text, "running": True, "gpus": list(self.cards)}


@dataclass(frozen=True)
class Before(Part):
    """The note that a replaced container had before; absent once the instance has passed its test."""

    follows_test: ClassVar[bool] = True

    def disrupts(self, have, want):
        return frozenset()

    def way_back(self, have):
        return "the old one" if have else ""


@dataclass(frozen=True)
class Replaced(Container):
    """A container whose change keeps the old note beside the new one."""

    def commands(self, have, want):
        return [run("cp", self.path, f"{self.path}.kept"), *super().commands(have, want)]

    def release(self, have, want):
        return Before(f"{self.path}.kept", None, instance=self.instance)

    def way_back(self, have):
        return "the old one" if have and have["text"] != "old" else ""


@dataclass(frozen=True)
class Preparing(Note):
    """A note whose change reloads systemd."""

    prepares_host = True


@dataclass
class Slot:
    """Instances that go out together."""

    instances: tuple[str, ...]


@dataclass
class FakeTraffic:
    """Records every call, with the content of the notes at the time.

    Args:
        folder: the folder of the notes.
        serving: the instances behind balancers.
        refusals: the number of refused cordons.
        meanwhile: a function to call during the wait for streams.
        holding: a function to call while a new instance is held.
    """

    folder: object
    serving: tuple[str, ...] = ("1", "2")
    refusals: int = 0
    meanwhile: object = staticmethod(lambda: None)
    holding: object = staticmethod(lambda: None)
    events: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    absent: set = field(default_factory=set)
    ill: set = field(default_factory=set)

    def request(self, names, step):
        out = tuple(name for name in self.serving if names == EVERY or name in names)
        self.steps.append(step)
        return Slot(out) if out else None

    def cordon(self, slot):
        if self.refusals:
            self.refusals -= 1
            return False
        self._note("out", *slot.instances)
        return True

    def drain(self, slot):
        self.meanwhile()

    def uncordon(self, slot):
        self._note("back", *(name for name in slot.instances if name not in self.absent))

    def abandon(self, slot):
        if slot is not None:
            self._note("abandon", *slot.instances)

    def hold(self, name):
        self._note("hold", name)
        self.holding()
        return True

    def missing(self, name):
        self._note("missing", name)
        self.absent.add(name)

    def prove(self, name, step):
        self._note("prove", name)
        if name in self.ill:
            raise HostError(f"{name} is ill", "mend it")
        return True

    def finish(self):
        self._note("finish")

    def lost_cards(self, names):
        """Do nothing: no other host waits for the instances."""

    @property
    def said(self):
        """The recorded calls, without the notes."""
        return [event for event, _ in self.events]

    def _note(self, *words):
        texts = {path.name: path.read_text() for path in sorted(self.folder.iterdir())}
        self.events.append((" ".join(words), texts))


@pytest.fixture
def traffic(make):
    return FakeTraffic(make.folder)


@pytest.fixture
def host(make, traffic):
    """A function that makes a HostRun with a FakeTraffic; by default every note is `old`."""

    def build(*steps, old=None, **more):
        for step in steps:
            name = step.path.rsplit("/", 1)[-1]
            if old is None or name in old:
                (make.folder / name).write_text("old")
        return make(*steps, traffic=traffic, **more)

    return build


def part(make, name, instance, **more):
    return Part(str(make.folder / name), instance=instance, **more)


def container(make, instance, **more):
    return Container(str(make.folder / f"c{instance}"), instance=instance, **more)


def test_an_instance_is_out_from_its_first_change_to_its_last(host, make, traffic):
    steps = (
        note(make, "image"),
        part(make, "c1", "1"),
        part(make, "c2", "2"),
        part(make, "m1", "1", hurts=False),
        part(make, "m2", "2", hurts=False),
    )
    deployed(host(*steps).deploy(ROLES))
    assert traffic.events == [
        ("out 1", {"image": "wanted", "c1": "old", "c2": "old", "m1": "old", "m2": "old"}),
        ("back 1", {"image": "wanted", "c1": "wanted", "c2": "old", "m1": "wanted", "m2": "old"}),
        ("out 2", {"image": "wanted", "c1": "wanted", "c2": "old", "m1": "wanted", "m2": "old"}),
        ("back 2", {"image": "wanted", "c1": "wanted", "c2": "wanted", "m1": "wanted", "m2": "wanted"}),
    ]
    assert traffic.steps == ["note:c1", "note:c2"], "the operator reads the first step of each slot"


def test_a_missing_instance_is_not_cordoned(host, make, traffic):
    made = host(part(make, "c1", "1"), part(make, "c2", "2"), old=())
    deployed(made.deploy(ROLES))
    assert traffic.said == []
    assert made.changed == ["note:c1", "note:c2"]


def test_an_instance_without_requests_is_changed_at_once(host, make, traffic):
    traffic.serving = ()
    made = host(part(make, "c1", "1"))
    assert list(made.deploy(ROLES)) == []
    assert (traffic.said, made.changed) == ([], ["note:c1"])


def test_an_instance_gets_no_requests_before_it_has_its_model(host, make, traffic):
    made = host(container(make, "1"), part(make, "m1", "1", hurts=False), old=["m1"], roles=SERVING, groups=("gpu",))
    deployed(made.deploy(SERVING))
    assert traffic.events == [("hold 1", {"m1": "old"}), ("finish", {"c1": "wanted", "m1": "wanted"})]


@pytest.mark.parametrize(
    ("roles", "groups", "fleet"),
    [(ROLES, ("gpu",), None), (SERVING, (), None), (SERVING, ("gpu",), FleetState())],
    ids=["the run leaves instances alone", "the host is no gpu host", "the wave is the last wave"],
)
def test_no_instance_is_admitted_at_the_end_if(host, make, traffic, roles, groups, fleet):
    deployed(host(note(make), roles=roles, groups=groups).deploy(roles, fleet))
    assert traffic.said == []


def test_an_instance_gives_up_a_card_to_a_new_instance_only_while_cordoned(host, make, traffic):
    """Without the cordon the other instance would lose its card, and its streams, behind the balancers."""
    made = host(container(make, "1", cards=("GPU-1",)), container(make, "2", cards=("GPU-1",)), old=["c2"])
    deployed(made.deploy(ROLES))
    assert traffic.events[0] == ("out 1 2", {"c2": "old"})
    assert traffic.said == ["out 1 2", "hold 1", "back 1 2"]


def test_a_missing_instance_is_not_tested_with_the_cordoned_instances(host, make, traffic):
    steps = part(make, "docker", "", whole=True), container(make, "2", text="old"), container(make, "1")
    deployed(host(*steps, old=["docker", "c2"]).deploy(ROLES))
    assert traffic.said == ["out 1 2", "missing 1", "back 2", "hold 1"]


def test_the_lock_is_kept_until_the_last_instance_is_back(host, make, tmp_path):
    made = host(part(make, "c1", "1"))
    deployed(made.deploy(ROLES))
    assert made.locked
    made.finish()
    assert not (tmp_path / "run" / "lock").exists()


def test_a_failure_during_a_slot_abandons_the_slot(host, make, traffic):
    made = host(part(make, "c1", "1", how=(run("false"),)), part(make, "c2", "2"))
    with pytest.raises(CommandError):
        deployed(made.deploy(ROLES))
    assert traffic.said == ["out 1", "abandon 1"]


def test_a_refused_slot_leaves_the_host_unchanged(host, make, traffic):
    def refuse(names, step):
        raise HostError("lb-01 cannot be reached")

    traffic.request = refuse
    with pytest.raises(HostError, match="cannot be reached"):
        deployed(host(part(make, "c1", "1")).deploy(ROLES))
    assert (make.folder / "c1").read_text() == "old"


def test_a_host_without_a_slot_waits_and_asks_again(host, make, traffic):
    traffic.refusals = 2
    made = host(part(make, "c1", "1"))
    slots = list(made.deploy(ROLES))
    assert len(slots) == 3
    assert all(slot is slots[0] for slot in slots)
    assert traffic.said == ["out 1", "back 1"]


@pytest.mark.parametrize("refusals", [0, 1])
def test_a_host_stopped_during_its_wait_changes_nothing(host, make, traffic, refusals):
    traffic.refusals = refusals
    slots = host(part(make, "c1", "1")).deploy(ROLES)
    for _ in range(refusals + 1):
        next(slots)
    with pytest.raises(Stopped):
        slots.throw(Stopped("stopped"))
    assert traffic.said == ["abandon 1"]
    assert (make.folder / "c1").read_text() == "old"


def test_a_step_that_became_right_during_the_wait_for_streams_is_not_changed(host, make, traffic):
    traffic.meanwhile = lambda: (make.folder / "c1").write_text("wanted")
    made = host(part(make, "c1", "1", how=(run("false"),)))
    deployed(made.deploy(ROLES))
    assert made.changed == []
    assert traffic.said == ["out 1", "back 1"]


def test_a_change_that_would_hurt_a_serving_instance_is_refused(host, make, traffic):
    """Somebody else creates the instance while the run holds the member down: the instance may serve by now."""
    traffic.holding = lambda: (make.folder / "c1").write_text("by somebody else")
    made = host(container(make, "1"), old=())
    with pytest.raises(HostError, match="container:1 would cut the streams of 1 now, because the host") as error:
        deployed(made.deploy(ROLES))
    assert error.value.hint == "run the command again: the run takes these instances out of the upstream first"
    assert (make.folder / "c1").read_text() == "by somebody else"
    assert made.changed == []


def test_a_change_that_would_hurt_every_instance_is_refused_in_the_slot_of_one(host, make, traffic):
    traffic.meanwhile = lambda: (make.folder / "all").write_text("old")
    (make.folder / "c2").write_text("wanted")
    steps = part(make, "c1", "1"), part(make, "all", "1", whole=True), container(make, "2")
    made = host(*steps, old=["c1"])
    with pytest.raises(HostError, match="note:all would cut the streams of all instances now"):
        deployed(made.deploy(ROLES))
    assert traffic.said == ["out 1", "abandon 1"]


def test_a_broken_instance_is_repaired_before_it_is_admitted(host, make, traffic):
    breaks = sh('printf wanted >"$1"; printf broken >"$2"', *(str(make.folder / n) for n in ("c1", "m1")), title="x")
    (make.folder / "m1").write_text("whole")
    model = part(make, "m1", "1", text="whole", mended="whole", hurts=False)
    deployed(host(part(make, "c1", "1", how=(breaks,)), model, old=("c1",)).deploy(ROLES))
    assert traffic.events[-1] == ("back 1", {"c1": "wanted", "m1": "whole"})


def test_a_daemon_reload_that_may_take_cards_takes_every_instance_out(host, make, traffic):
    steps = Preparing(str(make.folder / "unit")), note(make, "b"), container(make, "1", text="old", left=True)
    made = host(*steps, groups=("gpu",))
    planned = made.plan(ROLES)
    assert planned.changes[0].impact == "takes every instance of this host out meanwhile"
    assert planned.changes[1].impact == ""
    deployed(made.deploy(ROLES))
    assert traffic.events[0] == ("out 1 2", {"unit": "old", "b": "old", "c1": "old"})
    assert traffic.said == ["out 1 2", "back 1 2"]


def test_a_host_without_running_instances_cordons_nothing(host, make, traffic):
    steps = Preparing(str(make.folder / "unit")), container(make, "1", left=True)
    made = host(*steps, old=["unit"], groups=("gpu",))
    assert made.plan(ROLES).changes[0].impact == ""
    deployed(made.deploy(ROLES))
    assert traffic.said == ["hold 1"]


def test_a_failure_of_one_instance_keeps_the_marks_of_the_host(host, make):
    made = host(part(make, "c1", "1", how=(run("false"),)))
    with pytest.raises(CommandError) as error:
        deployed(made.deploy(ROLES))
    assert made.keeps_marks(error.value)


def test_a_failure_of_the_whole_host_leaves_no_marks(host, make):
    made = host(note(make, "docker", how=(run("false"),)))
    with pytest.raises(CommandError) as error:
        deployed(made.deploy(ROLES))
    assert not made.keeps_marks(error.value)


def test_a_failure_while_all_instances_are_out_leaves_the_marks_of_healthy_instances(host, make):
    steps = Preparing(str(make.folder / "unit"), how=(run("false"),)), container(make, "1", text="old", left=True)
    made = host(*steps, groups=("gpu",))
    with pytest.raises(CommandError) as error:
        deployed(made.deploy(ROLES))
    assert made.keeps_marks(error.value)


def test_a_host_lost_during_its_wait_cordons_nothing(host, make, traffic):
    """A lost host could admit no instance again, and the roll would halt for every host."""
    session = ShellHost(lost_at=frozenset({3}))  # read; lock and read again; check the connection
    made = host(part(make, "c1", "1"), session=session, timings=Timings(long_wait=0.0))
    with pytest.raises(UnreachableError):
        deployed(made.deploy(ROLES))
    assert [what for what, _ in traffic.events if what.startswith("out")] == []
    assert (make.folder / "c1").read_text() == "old"


def replaced(make, instance, **more):
    return Replaced(str(make.folder / f"c{instance}"), instance=instance, **more)


def test_what_a_replacement_keeps_goes_once_the_instance_is_back(host, make, traffic):
    made = host(replaced(make, "1"), replaced(make, "2"))
    deployed(made.deploy(ROLES))
    assert traffic.said == ["out 1", "back 1", "prove 1", "out 2", "back 2", "prove 2"]
    assert dict(traffic.events)["prove 1"] == {"c1": "wanted", "c1.kept": "old", "c2": "old"}
    assert {path.name for path in make.folder.iterdir()} == {"c1", "c2"}
    assert made.changed == ["container:1", "container:2"], "the removal belongs to the change"
    made.finish()
    assert not made.locked


def test_without_balancers_an_instance_is_tested_before_the_kept_container_goes(host, make, traffic):
    traffic.serving, traffic.ill = (), {"1"}
    with pytest.raises(HostError, match="1 is ill") as error:
        deployed(host(replaced(make, "1")).deploy(ROLES))
    assert (make.folder / "c1.kept").read_text() == "old"
    assert error.value.hint == "mend it; or `provision rollback run-1` starts the old one again, which is kept stopped"
    assert error.value.previous == ("the old one",)


@pytest.mark.parametrize("fails", ["the change", "the test"])
def test_after_a_failure_the_error_names_the_way_back(host, make, traffic, fails):
    def uncordon(slot):
        raise HostError("1 is not fit to serve", "mend it")

    path = str(make.folder / "c1")
    wanted = Put(path, b"wanted", owner="")
    how = (wanted, run("false")) if fails == "the change" else (wanted,)
    traffic.uncordon = uncordon
    with pytest.raises(HostError) as error:
        deployed(host(replaced(make, "1", how=how)).deploy(ROLES))
    assert error.value.hint.endswith("; or `provision rollback run-1` starts the old one again, which is kept stopped")
    assert (make.folder / "c1.kept").read_text() == "old"


def test_a_failure_before_the_change_names_no_way_back(host, make, traffic):
    def refuse(slot):
        raise HostError("lb-01 cannot be reached", "mend it")

    traffic.cordon = refuse
    with pytest.raises(HostError) as error:
        deployed(host(replaced(make, "1")).deploy(ROLES))
    assert error.value.hint == "mend it"


def test_a_container_that_an_earlier_run_kept_comes_back_by_a_rollback_of_that_run(host, make, traffic):
    traffic.ill = {"1"}
    before = Before(str(make.folder / "kept"), None, instance="1")
    with pytest.raises(HostError) as error:
        deployed(host(before, old=["kept"]).deploy(ROLES))
    assert error.value.hint == (
        "mend it; or a rollback of the run that stopped it (`provision history`) starts the old one again"
    )
    assert error.value.previous == ()
