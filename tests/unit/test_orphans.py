"""Orphans: marked things that the inventory no longer declares, and the time of their removal."""

from dataclasses import dataclass
from types import SimpleNamespace

from provision.plan.orphans import orphans

MARKED = {"thing:a": {"n": 1}, "thing:b": {"n": 2}, "thing:c": {"n": 3}}


@dataclass(frozen=True)
class Finder:
    """A finder of marked things; `stays` has the ids of things to keep for the time being."""

    last: bool = False
    stays: tuple[str, ...] = ()

    def kept(self, found, declared):
        return self.stays

    def step(self, step_id):
        return SimpleNamespace(id=step_id, finder=self)


def removed(*finders, declared=(), last=False):
    pairs = [(f"role{number}", finder) for number, finder in enumerate(finders)]
    return [(entry.role, entry.step.id, have) for entry, have in orphans(pairs, declared, lambda _: MARKED, last=last)]


def test_declared_and_kept_things_stay():
    assert removed(Finder(stays=("thing:b",)), declared={"thing:a"}) == [("role0", "thing:c", {"n": 3})]


def test_only_the_finders_of_the_requested_time_count():
    assert removed(Finder(last=True)) == []
    assert [step for _, step, _ in removed(Finder(), Finder(last=True), last=True)] == list(MARKED)


def test_a_thing_found_by_two_finders_is_removed_once_by_the_first():
    assert {role for role, _, _ in removed(Finder(), Finder())} == {"role0"}


def test_the_second_finder_may_remove_a_thing_that_the_first_keeps():
    found = removed(Finder(stays=("thing:a",)), Finder())
    assert ("role1", "thing:a", {"n": 1}) in found
