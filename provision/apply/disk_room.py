"""Whether a host's disks have room for what its planned changes bring, before the first byte comes.

Only a plan that pulls costs this read. A size that nobody tells is no refusal: the plan names the step as not asked.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.errors import RefusedError
from provision.plan.planner import NOTHING_CHANGED, Change, HostPlan
from provision.steps.base import NOT_ASKED
from provision.steps.room import Filling, Room
from provision.steps.system.content import gigabytes

SPARE = 10  # percent beyond the bytes that come: file systems, logs and users need room too
MOST_SPARE = 10**10  # bytes: a tenth of a model of 400 GB would refuse disks with room enough


@dataclass(frozen=True)
class _Brought:
    """A change with what the change brings, and the room for that."""

    change: Change
    filling: Filling
    room: Room


def reads(plan: HostPlan) -> list[Run]:
    """Return the read-only commands that `checked` asks.

    Args:
        plan: of one host.
    """
    return list(dict.fromkeys(read for _, filling in _fillings(plan) for read in (filling.size, filling.place)))


def _fillings(plan: HostPlan) -> list[tuple[Change, Filling]]:
    """Return the changes that bring bytes."""
    changes = [change for change in plan.changes if change.action != "remove"]
    return [(change, filling) for change in changes if (filling := change.step.filling(change.have)) is not None]


def checked(plan: HostPlan, ask: Callable[[Sequence[Run]], Sequence[Answer]]) -> HostPlan:
    """Return the plan, with a note for each step whose size is unknown.

    Args:
        plan: of one host.
        ask: runs the reads on the host in one exec; not called where nothing is brought.

    Raises:
        RefusedError: a disk has too little room.
    """
    pairs = _fillings(plan)
    if not pairs:
        return plan
    wanted = reads(plan)
    answers = dict(zip(wanted, ask(wanted), strict=True))
    brought = [
        _Brought(change, filling, filling.room(answers[filling.size], answers[filling.place]))
        for change, filling in pairs
    ]
    _refuse(brought)
    unknown = [entry for entry in brought if entry.room.unknown]
    notes = {
        entry.change.step.id: f"{NOT_ASKED}room for {entry.filling.what}: {entry.room.unknown}" for entry in unknown
    }
    return dataclasses.replace(plan, notes={**plan.notes, **notes})


def _refuse(brought: Sequence[_Brought]) -> None:
    """Refuse the host if the changes of a disk need more room than the disk has."""
    disks: dict[str, list[_Brought]] = {}
    for entry in brought:
        if entry.room.need:
            disks.setdefault(entry.room.device, []).append(entry)
    short = [entries for entries in disks.values() if _with_spare(entries) > entries[0].room.free]
    if not short:
        return
    looks = ", ".join(f"`df -h {entries[0].room.mount}`" for entries in short)
    settings = ", ".join(dict.fromkeys(entry.filling.setting for entries in short for entry in entries))
    raise RefusedError(
        f"no room: {'; '.join(map(_shortage, short))}",
        f"make room ({looks} on the host), or name a larger disk ({settings}), then run the command again;"
        f" {NOTHING_CHANGED}",
        step=short[0][0].change.step.id,
    )


def _things(entries: Sequence[_Brought]) -> Mapping[tuple[Run, Run], tuple[str, int]]:
    """Return what comes to a disk, each thing once: instances may share a folder."""
    return {
        (entry.filling.size, entry.filling.place): (entry.change.step.id, entry.room.need or 0) for entry in entries
    }


def _with_spare(entries: Sequence[_Brought]) -> int:
    need = _need(entries)
    return need + _spare(need)


def _need(entries: Sequence[_Brought]) -> int:
    return sum(need for _, need in _things(entries).values())


def _spare(need: int) -> int:
    return min(need * SPARE // 100, MOST_SPARE)


def _shortage(entries: Sequence[_Brought]) -> str:
    room = entries[0].room
    parts = ", ".join(f"{step} {gigabytes(need)}" for step, need in _things(entries).values())
    return (
        f"{room.mount} has {gigabytes(room.free)} free and needs {gigabytes(_with_spare(entries))}: {parts},"
        f" and {gigabytes(_spare(_need(entries)))} to spare"
    )
