"""Instances that get another name on every host: one host goes, and the others keep what serves there."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from provision.errors import CommandError, HostError
from provision.inventory import Host
from provision.plan.role_order import INSTANCES
from provision.rollout import budget
from provision.rollout.budget import Rolling
from provision.rollout.traffic import Turn
from provision.runs.context import Stopped
from provision.steps.base import EVERY

from .test_budget import Fake, fits, gpu, make
from .test_holding import Lease

OLD = frozenset({"old"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "Marker", Fake)
    monkeypatch.setattr(budget, "TICK", 0.01)
    monkeypatch.setattr(budget, "LOOK", 0.01)


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Rolling, list[Host], Any]:
    """Three hosts whose balancer knows an instance of each under its old name."""
    found = [gpu(name, (("m",),)) for name in "abc"]
    made = make(tmp_path, *found)
    made.context = dataclasses.replace(made.context, roles=INSTANCES)
    marker: Any = made.markers(found[0])[0]
    marker.members = {f"{name}/old": 3001 for name in "abc"}
    return made, found, marker


def turn(made: Rolling, host: Host, *, fit: bool = True) -> Turn:
    found = Turn(host, None, Lease(), made, made.context, lambda *_: None)  # type: ignore[arg-type]

    def test(instance: str) -> str:
        if not fit:
            raise CommandError(f"{instance} does not answer")
        return "10.0.0.1:3001"

    found.test = test  # type: ignore[method-assign]
    return found


def test_a_host_whose_instance_gets_another_name_has_no_other_host_follow_it(hosts: Any) -> None:
    """The balancers know the new instance from the last wave on: until then the old one counts as out."""
    made, (one, two, _), marker = hosts
    first = turn(made, one)
    first.take(OLD, "container:old")
    first.give_back()
    assert marker.down == {"a/old"}
    assert not fits(made, two, OLD), "what is gone counts as out"
    first.hold_back("ollama1")
    first.hand_over()
    first.end()
    assert (set(marker.members), marker.down) == ({"a/old", "b/old", "c/old"}, {"a/old"})
    assert made.halted == ""
    with pytest.raises(Stopped, match="a/old is out of the upstream already"):
        fits(made, two, OLD)


def test_where_the_new_one_is_ill_the_others_keep_the_old_ones(hosts: Any) -> None:
    made, (one, two, _), marker = hosts
    first = turn(made, one, fit=False)
    first.take(OLD, "container:old")
    first.give_back()
    first.hold_back("ollama1")
    with pytest.raises(HostError, match="does not answer"):
        first.hand_over()
    first.end()
    assert (marker.down, made.unfit) == ({"a/old"}, {"a/old", "a/ollama1"})
    with pytest.raises(Stopped):
        fits(made, two, OLD)


def test_where_the_new_one_was_never_made_the_others_keep_the_old_ones(hosts: Any) -> None:
    made, (one, two, _), _ = hosts
    first = turn(made, one)
    first.take(OLD, "container:old")
    first.give_back()
    first.abandon()
    first.end()
    assert made.halted == "a/old is gone, and nothing took its place"
    with pytest.raises(Stopped):
        fits(made, two, OLD)


def test_where_nothing_is_to_take_its_place_the_next_host_goes_on(hosts: Any) -> None:
    """An operator wants fewer instances."""
    made, (one, two, _), marker = hosts
    marker.members.update({f"{name}/ollama1": 3002 for name in "abc"})
    first = turn(made, one)
    first.take(OLD, "container:old")
    first.give_back()
    assert not fits(made, two, OLD)
    first.end()
    assert fits(made, two, OLD)
    assert made.halted == ""


def test_a_run_that_removes_nothing_gives_back_what_it_took_out(hosts: Any) -> None:
    """Such as `-t docker`, after the names in the inventory were changed."""
    made, (one, *_), marker = hosts
    made.context = dataclasses.replace(made.context, roles=frozenset({"docker"}))
    first = turn(made, one)
    first.take(OLD, "service:docker")
    first.give_back()
    assert marker.down == set()


def test_two_of_one_host_do_not_wait_for_each_other(hosts: Any) -> None:
    made, (one, *_), marker = hosts
    marker.members["a/older"] = 3002
    first = turn(made, one)
    for name in ("old", "older"):
        first.take(frozenset({name}), f"container:{name}")
        first.give_back()
    assert marker.down == {"a/old", "a/older"}


def test_two_hosts_that_both_lost_one_do_not_wait_for_each_other(tmp_path: Path) -> None:
    pair = [gpu(name, (("m",), ("m",)), max_unavailable=2) for name in "ab"]
    made = make(tmp_path, *pair)
    made.context = dataclasses.replace(made.context, roles=INSTANCES)
    marker: Any = made.markers(pair[0])[0]
    marker.members.update({f"{name}/old": 3009 for name in "ab"})
    turns = [turn(made, host) for host in pair]
    for one in turns:
        one.take(OLD, "container:old")
        one.give_back()
    made.context.begun.update("ab")

    def rest(one: Turn) -> None:
        one.take(EVERY, "service:docker")
        one.give_back()
        one.end()

    threads = [threading.Thread(target=rest, args=[one], daemon=True) for one in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert [thread.is_alive() for thread in threads] == [False, False]
    assert made.halted == ""


def test_what_a_killed_run_left_so_counts_until_the_new_one_is_listed(hosts: Any) -> None:
    made, (_, two, _), marker = hosts
    marker.down = {"a/old"}
    with pytest.raises(Stopped, match="a/old is out of the upstream already"):
        fits(made, two, OLD)


def test_it_is_in_nobodys_way_when_the_new_one_is(hosts: Any) -> None:
    made, (_, two, _), marker = hosts
    marker.members["a/ollama1"] = 3002
    marker.down = {"a/old"}
    assert fits(made, two, OLD)
