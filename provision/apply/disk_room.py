"""Whether a host's disks have room for what its planned changes bring, before the first byte comes.

Only a plan that pulls costs this read. A size that nobody tells is no refusal: the plan names the step as not asked.
An operator may overrule the refusal, as for cards (`--force-fit`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.errors import UnfitError
from provision.plan.planner import NOTHING_CHANGED, Change, HostPlan
from provision.steps.base import NOT_ASKED
from provision.steps.room import Filling, Room
from provision.steps.system.content import gigabytes

SPARE = 10  # percent beyond the bytes that come: file systems, logs and users need room too
MOST_SPARE = 10**10  # bytes: a tenth of a model of 400 GB would refuse disks with room enough


@dataclass(frozen=True)
class Brought:
    """What a step brings to a disk, and the room on the disk.

    Args:
        step: id of the step.
        filling: the bytes, as the step tells.
        room: by the answers of the host.
    """

    step: str
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


@dataclass(frozen=True)
class Checked:
    """The judgement of a plan.

    Args:
        plan: with a note for each step whose size is unknown.
        shortage: the refusal of a disk with too little room; None if all disks have room.
    """

    plan: HostPlan
    shortage: UnfitError | None = None


def checked(plan: HostPlan, ask: Callable[[Sequence[Run]], Sequence[Answer]], *, can_force: bool = True) -> Checked:
    """Judge a plan.

    Args:
        plan: of one host.
        ask: runs the reads on the host in one exec; not called where nothing is brought.
        can_force: whether the command has an option that overrules the refusal.
    """
    pairs = _fillings(plan)
    if not pairs:
        return Checked(plan)
    wanted = reads(plan)
    answers = dict(zip(wanted, ask(wanted), strict=True))
    brought = [
        Brought(change.step.id, filling, filling.room(answers[filling.size], answers[filling.place]))
        for change, filling in pairs
    ]
    unknown = [entry for entry in brought if entry.room.unknown]
    notes = {entry.step: f"{NOT_ASKED}room for {entry.filling.what}: {entry.room.unknown}" for entry in unknown}
    return Checked(dataclasses.replace(plan, notes={**plan.notes, **notes}), _shortage(brought, can_force=can_force))


def by_disk(brought: Sequence[Brought]) -> list[list[Brought]]:
    """Return the entries of each disk, without entries that bring nothing or an unknown number of bytes.

    Args:
        brought: of one host.
    """
    disks: dict[str, list[Brought]] = {}
    for entry in brought:
        if entry.room.need:
            disks.setdefault(entry.room.device, []).append(entry)
    return list(disks.values())


def _shortage(brought: Sequence[Brought], *, can_force: bool) -> UnfitError | None:
    """Return the refusal of a host whose disk has less room than the changes need; None if every disk has room."""
    short = [entries for entries in by_disk(brought) if with_spare(entries) > entries[0].room.free]
    if not short:
        return None
    looks = ", ".join(f"`df -h {entries[0].room.mount}`" for entries in short)
    settings = ", ".join(dict.fromkeys(entry.filling.setting for entries in short for entry in entries))
    words = [*map(demand, short), *filter(None, map(_alternative, short))]
    force = ", or deploy with --force-fit" if can_force else ""
    return UnfitError(
        f"no room: {'; '.join(words)}",
        f"make room ({looks} on the host), or name a larger disk ({settings}), then run the command again{force};"
        f" {NOTHING_CHANGED}",
        step=short[0][0].step,
    )


def _alternative(entries: Sequence[Brought]) -> str:
    """Return the largest thing that fits one disk in place of the largest entry, in words; else an empty text."""
    large = max(entries, key=lambda entry: entry.room.need or 0)
    same = [need for key, (_, need) in _things(entries).items() if key[0] == large.filling.size]
    rest = _need(entries) - sum(same)
    for name, size in large.filling.smaller:
        need = rest + size * len(same)
        if size < (large.room.need or 0) and need + _spare(need) <= large.room.free:
            return f"{name} ({gigabytes(size)}) fits in place of {large.filling.what}"
    return ""


def _things(entries: Sequence[Brought]) -> Mapping[tuple[Run, Run], tuple[str, int]]:
    """Return what comes to a disk, each thing once: instances may share a folder."""
    return {(entry.filling.size, entry.filling.place): (entry.step, entry.room.need or 0) for entry in entries}


def with_spare(entries: Sequence[Brought]) -> int:
    """Return the bytes that the entries of one disk need, with the spare room."""
    need = _need(entries)
    return need + _spare(need)


def _need(entries: Sequence[Brought]) -> int:
    return sum(need for _, need in _things(entries).values())


def _spare(need: int) -> int:
    return min(need * SPARE // 100, MOST_SPARE)


def demand(entries: Sequence[Brought]) -> str:
    """Return the free and the needed bytes of one disk, in words."""
    room = entries[0].room
    parts = ", ".join(f"{step} {gigabytes(need)}" for step, need in _things(entries).values())
    return (
        f"{room.mount} has {gigabytes(room.free)} free and needs {gigabytes(with_spare(entries))}: {parts},"
        f" and {gigabytes(_spare(_need(entries)))} to spare"
    )
