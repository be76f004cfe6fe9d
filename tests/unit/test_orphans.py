"""What carries our mark and nobody declares: which of it is removed, and when."""

from dataclasses import dataclass
from types import SimpleNamespace

from provision.plan.orphans import orphans

MARKED = {"thing:a": {"n": 1}, "thing:b": {"n": 2}, "thing:c": {"n": 3}}


@dataclass(frozen=True)
class Finder:
    """Finds what carries the mark; `stays` is what it keeps for the time being."""

    last: bool = False
    stays: tuple[str, ...] = ()

    def kept(self, found, declared):
        return self.stays

    def step(self, step_id):
        return SimpleNamespace(id=step_id, finder=self)


def removed(*finders, declared=(), last=False):
    pairs = [(f"role{number}", finder) for number, finder in enumerate(finders)]
    return [(entry.role, entry.step.id, have) for entry, have in orphans(pairs, declared, lambda _: MARKED, last=last)]


def test_what_is_declared_or_kept_stays():
    assert removed(Finder(stays=("thing:b",)), declared={"thing:a"}) == [("role0", "thing:c", {"n": 3})]


def test_only_the_finders_of_the_asked_moment_are_read():
    assert removed(Finder(last=True)) == []
    assert [step for _, step, _ in removed(Finder(), Finder(last=True), last=True)] == list(MARKED)


def test_what_two_finders_find_is_removed_once_by_the_first():
    assert {role for role, _, _ in removed(Finder(), Finder())} == {"role0"}


def test_what_the_first_finder_keeps_the_second_may_remove():
    found = removed(Finder(stays=("thing:a",)), Finder())
    assert ("role1", "thing:a", {"n": 1}) in found
