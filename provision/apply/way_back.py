"""The way back from a failed replacement, for the operator: the command that starts a previous container again."""

import contextlib
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence

from provision.apply.host_reader import HostReader
from provision.errors import HostError
from provision.plan.planner import Change
from provision.runs.context import Context
from provision.steps.base import BlockedError


def words(
    changes: Iterable[Change], begun: Collection[str], planned: Sequence[Change], reader: HostReader, context: Context
) -> str:
    """Return the end of a hint with the commands that start kept containers again; empty if nothing is kept.

    Args:
        changes: the changes of the failed group.
        begun: ids of the steps that the run has begun to change.
        planned: the first plan of the host: a container that was kept by then belongs to an earlier run.
        reader: reads the host.
        context: of the run.
    """
    earlier = {change.step.part_of for change in planned if change.step.way_back(change.have)}
    kept = dict(_kept([change for change in changes if _may_keep(change, begun)], reader))
    lines = (
        (sorted(kept[name] for name in kept.keys() - earlier), ["rollback", context.run_id]),
        (sorted(kept[name] for name in kept.keys() & earlier), ["history"]),
    )
    return "".join(_line(names, command, context.inventory.path) for names, command in lines if names)


def _may_keep(change: Change, begun: Collection[str]) -> bool:
    return change.step.follows_test or (change.step.serves and change.step.id in begun)


def _line(names: Sequence[str], command: Sequence[str], inventory: str) -> str:
    typed = shlex.join(["provision", *command, "-i", inventory])
    how = "" if command[0] == "rollback" else "roll back the run that stopped it, as named by "
    return f"; or start {', '.join(names)} again: {how}`{typed}`"


def _kept(changes: Iterable[Change], reader: HostReader) -> Iterator[tuple[str, str]]:
    """Yield each instance with a kept container, and the name of the container."""
    reader.forget()
    for change in changes:
        with contextlib.suppress(HostError, BlockedError):
            name = change.step.way_back(reader.state(change.entry.fact(), change.step.id))
            if name:
                yield change.step.part_of, name
