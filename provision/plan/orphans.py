"""Orphans: what carries our mark on a host and nobody declares any more. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping

from provision.plan.role_interface import Entry
from provision.steps.base import Owned, State

Read = Callable[[Owned], Mapping[str, State]]
"""From a finder to all things of its kind that carry our mark: step id -> state."""


def orphans(
    finders: Iterable[tuple[str, Owned]], declared: Collection[str], read: Read, *, last: bool
) -> list[tuple[Entry, State]]:
    """What is to be removed, with the state in which it was found.

    Args:
        finders: role and finder, in the order in which things are removed.
        declared: ids of everything that is declared on the host.
        read: what carries the mark of a finder.
        last: whether those are asked for that go after all other changes (`Owned.last`), or those that go before.
    """
    removals: dict[str, tuple[Entry, State]] = {}
    for role, finder in finders:
        if finder.last != last:
            continue
        marked = read(finder)
        stay = {*declared, *finder.kept(marked, declared)}
        for step_id, have in marked.items():
            if step_id not in stay and step_id not in removals:
                removals[step_id] = (Entry(role, finder.step(step_id)), have)
    return list(removals.values())
