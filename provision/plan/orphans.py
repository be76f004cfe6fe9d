"""Orphans: marked things of ours on a host that the inventory no longer declares. Pure."""

from collections.abc import Callable, Collection, Iterable, Mapping

from provision.plan.role_interface import Entry
from provision.steps.base import Owned, State

Read = Callable[[Owned], Mapping[str, State]]
"""From a finder to all marked things of its kind: step id -> state."""


def orphans(
    finders: Iterable[tuple[str, Owned]], declared: Collection[str], read: Read, *, last: bool
) -> list[tuple[Entry, State]]:
    """Return the orphans to remove, each with its state on the host.

    Args:
        finders: role and finder, in the order of removal.
        declared: ids of everything declared on the host.
        read: reads the marked things of a finder.
        last: True for orphans removed after all changes (`Owned.last`), False for orphans removed before.
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
