"""The way back from a failed replacement, for the operator: the command that starts a previous container again."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence

from provision.apply.host_reader import HostReader
from provision.errors import HostError
from provision.plan.planner import Change
from provision.steps.base import BlockedError


def add(
    error: HostError,
    changes: Iterable[Change],
    begun: Collection[str],
    planned: Sequence[Change],
    reader: HostReader,
    run: str,
) -> None:
    """Add the kept containers to an error, and to its hint the command that starts the containers again.

    Args:
        error: the failure.
        changes: the changes of the failed group.
        begun: ids of the steps that the run has begun to change.
        planned: the first plan of the host: a container that was kept by then belongs to an earlier run.
        reader: reads the host.
        run: id of the run.
    """
    earlier = {change.step.part_of for change in planned if change.step.way_back(change.have)}
    kept = dict(_kept([change for change in changes if _may_keep(change, begun)], reader))
    older = [kept[name] for name in sorted(kept.keys() & earlier)]
    error.previous = tuple(kept[name] for name in sorted(kept.keys() - earlier))
    if error.previous:
        error.hint += f"; or `provision rollback {run}` starts {', '.join(error.previous)} again, which is kept stopped"
    if older:
        run = "a rollback of the run that stopped it (`provision history`)"
        error.hint += f"; or {run} starts {', '.join(older)} again"


def _may_keep(change: Change, begun: Collection[str]) -> bool:
    return change.step.follows_test or (change.step.serves and change.step.id in begun)


def _kept(changes: Iterable[Change], reader: HostReader) -> Iterator[tuple[str, str]]:
    """Yield each instance with a kept container, and the name of the container."""
    reader.forget()
    for change in changes:
        with contextlib.suppress(HostError, BlockedError):
            name = change.step.way_back(reader.state(change.entry.fact(), change.step.id))
            if name:
                yield change.step.part_of, name
