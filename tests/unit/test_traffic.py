"""Where in a host's changes instances are taken out, put right, and given back."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from provision.apply import host_run
from provision.command import run, sh
from provision.errors import CommandError, HostError
from provision.plan import change_order
from provision.steps.base import EVERY

from .local import deployed
from .test_host_run import ROLES, Note, make, note

__all__ = ["make"]


@dataclass(frozen=True)
class Part(Note):
    """A note that is a part of an instance, and hurts it if it is changed while it is there."""

    instance: str = ""
    hurts: bool = True
    mended: str = ""

    @property
    def part_of(self):
        return self.instance

    def disrupts(self, have, want):
        return frozenset({self.instance} if have is not None and self.hurts else ())

    def repaired(self, have):
        return {"text": self.mended} if self.mended else have


@dataclass(frozen=True)
class Preparing(Note):
    prepares_host = True


class FakeTurn:
    """Notes what is asked of it, and what was in the notes by then."""

    folder = None
    events: list = []  # noqa: RUF012 - the test's own

    def __init__(self, *_):
        self.out, self.failed, self._asked = (), False, frozenset()
        self.made, self.unfinished = set(), []

    def refuse(self, refused, lost):
        self.refused = refused

    def covers(self, names):
        return self._asked == EVERY or names <= self._asked

    def take(self, names, step):
        self._note("take " + " ".join(sorted(names)))
        self._asked, self.out = names, tuple(sorted(names))
        return True

    def hold_back(self, instance):
        self.made.add(instance)
        self._note(f"hold {instance}")
        return True

    def admit(self):
        self._note("admit")

    def hand_over(self, unfinished=()):
        self.unfinished.append(set(unfinished))

    def end(self):
        """Nothing is left."""

    def drop(self, instance):
        self._note(f"drop {instance}")
        self.out = tuple(one for one in self.out if one != instance)

    def give_back(self):
        if self.out:
            self._note("back " + " ".join(self.out))
        self.out, self._asked = (), frozenset()

    def abandon(self):
        self._note("abandon " + " ".join(self.out))
        self.out = ()

    def _note(self, what):
        texts = {path.name: path.read_text() for path in sorted(self.folder.iterdir())}
        self.events.append((what, texts))


@pytest.fixture
def host(make, monkeypatch):
    """Makes a HostRun with a FakeTurn; its notes are `old` unless said otherwise."""
    FakeTurn.folder, FakeTurn.events = make.folder, []
    monkeypatch.setattr(host_run, "Turn", FakeTurn)

    def build(*steps, old=None):
        for step in steps:
            name = step.path.rsplit("/", 1)[-1]
            if old is None or name in old:
                (make.folder / name).write_text("old")
        return make(*steps)

    return build


def part(make, name, instance, **more):
    return Part(str(make.folder / name), instance=instance, **more)


def events():
    return [what for what, _ in FakeTurn.events]


def test_an_instance_is_out_from_its_first_change_to_its_last(host, make):
    steps = (
        note(make, "image"),
        part(make, "c1", "1"),
        part(make, "c2", "2"),
        part(make, "m1", "1", hurts=False),
        part(make, "m2", "2", hurts=False),
    )
    made = host(*steps)
    deployed(made.deploy(ROLES))
    assert FakeTurn.events == [
        ("take 1", {"image": "wanted", "c1": "old", "c2": "old", "m1": "old", "m2": "old"}),
        ("back 1", {"image": "wanted", "c1": "wanted", "c2": "old", "m1": "wanted", "m2": "old"}),
        ("take 2", {"image": "wanted", "c1": "wanted", "c2": "old", "m1": "wanted", "m2": "old"}),
        ("back 2", {"image": "wanted", "c1": "wanted", "c2": "wanted", "m1": "wanted", "m2": "wanted"}),
    ]


def test_what_is_not_there_yet_is_not_taken_out(host, make):
    made = host(part(make, "c1", "1"), part(make, "c2", "2"), old=())
    deployed(made.deploy(ROLES))
    assert events() == []
    assert made.changed == ["note:c1", "note:c2"]


@dataclass(frozen=True)
class Container(Part):
    """The container of an instance."""

    serves: ClassVar[bool] = True

    @property
    def id(self):
        return f"container:{self.instance}"


def test_an_instance_gets_no_requests_before_it_has_its_model(host, make, monkeypatch):
    steps = Container(str(make.folder / "c1"), instance="1"), part(make, "m1", "1", hurts=False)
    made = host(*steps, old=["m1"])
    monkeypatch.setattr(host_run, "INSTANCES", ROLES)
    deployed(made.deploy(ROLES))
    assert FakeTurn.events == [("hold 1", {"m1": "old"}), ("admit", {"c1": "wanted", "m1": "wanted"})]
    assert made.turn.made == {"1"}
    assert made.turn.unfinished == [{"1"}, set()], "nothing takes its place before it has its model"


def test_what_a_new_one_takes_from_another_is_given_up_in_turn(host, make, monkeypatch):
    """It would be stopped with its streams, while balancers send to it."""
    steps = [Container(str(make.folder / f"c{n}"), instance=n) for n in ("1", "2")]
    made = host(*steps, old=["c2"])
    monkeypatch.setattr(change_order, "_holds", lambda state: {"card"} if state else set())
    deployed(made.deploy(ROLES))
    assert events() == ["hold 1", "take 1 2", "back 1 2"]


def test_what_is_not_there_is_not_tested_with_all_others_that_are_out(host, make, monkeypatch):
    steps = (
        part(make, "docker", "2"),
        Container(str(make.folder / "c2"), instance="2"),
        Container(str(make.folder / "c1"), instance="1"),
    )
    made = host(*steps, old=["docker", "c2"])
    monkeypatch.setattr(Part, "disrupts", lambda one, have, want: EVERY if one.path.endswith("docker") else frozenset())
    monkeypatch.setattr(FakeTurn, "take", lambda turn, names, step: setattr(turn, "out", ("1", "2")) or True)
    monkeypatch.setattr(made, "_may_serve", lambda: True)
    deployed(made.deploy(ROLES))
    assert events() == ["drop 1", "back 2", "hold 1"]


def test_the_lock_is_kept_until_the_last_one_is_back(host, make, tmp_path):
    made = host(part(make, "c1", "1"))
    deployed(made.deploy(ROLES))
    assert made.locked
    made.finish()
    assert not (tmp_path / "run" / "lock").exists()


def test_what_fails_while_it_is_out_is_told_after_it_was_tried_to_give_it_back(host, make):
    made = host(part(make, "c1", "1", how=(run("false"),)), part(make, "c2", "2"))
    with pytest.raises(CommandError):
        deployed(made.deploy(ROLES))
    assert events() == ["take 1", "abandon 1"]


def test_a_turn_that_cannot_be_had_leaves_everything_as_it_is(host, make, monkeypatch):
    def refuse(self, names, step):
        raise HostError("lb-01 cannot be reached")

    monkeypatch.setattr(FakeTurn, "take", refuse)
    made = host(part(make, "c1", "1"))
    with pytest.raises(HostError, match="cannot be reached"):
        deployed(made.deploy(ROLES))
    assert (make.folder / "c1").read_text() == "old"


def test_what_changed_while_its_turn_was_waited_for_is_not_changed_again(host, make, monkeypatch):
    def take(self, names, step):
        (make.folder / "c1").write_text("wanted")
        return True

    monkeypatch.setattr(FakeTurn, "take", take)
    made = host(part(make, "c1", "1", how=(run("false"),)))
    deployed(made.deploy(ROLES))
    assert made.changed == []


def test_what_broke_meanwhile_is_put_right_before_it_is_given_back(host, make):
    breaks = sh('printf wanted >"$1"; printf broken >"$2"', *(str(make.folder / n) for n in ("c1", "m1")), title="x")
    (make.folder / "m1").write_text("whole")
    model = part(make, "m1", "1", text="whole", mended="whole", hurts=False)
    made = host(part(make, "c1", "1", how=(breaks,)), model, old=("c1",))
    deployed(made.deploy(ROLES))
    assert FakeTurn.events[-1] == ("back 1", {"c1": "wanted", "m1": "whole"})


def test_a_daemon_reload_that_may_take_cards_takes_every_instance_out(host, make, monkeypatch):
    monkeypatch.setattr(host_run.HostRun, "_reload_safe", lambda self: False)
    monkeypatch.setattr(host_run.HostRun, "_may_serve", lambda self: True)
    made = host(Preparing(str(make.folder / "unit")), note(make, "b"))
    planned = made.plan(ROLES)
    assert planned.changes[0].impact == "takes every instance of this host out meanwhile"
    assert planned.changes[1].impact == ""
    deployed(made.deploy(ROLES))
    assert FakeTurn.events[0] == ("take *", {"unit": "old", "b": "old"})
    assert events() == ["take *", "back *"]


def test_where_no_instance_runs_nothing_is_taken_out(host, make, monkeypatch):
    monkeypatch.setattr(host_run.HostRun, "_reload_safe", lambda self: False)
    made = host(Preparing(str(make.folder / "unit")))
    assert made.plan(ROLES).changes[0].impact == ""
    deployed(made.deploy(ROLES))
    assert events() == []
