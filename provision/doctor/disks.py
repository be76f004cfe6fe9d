"""Room on the disks: for packages, and for the images and models of the inventory, by file system."""

import shlex
from collections.abc import Iterator, Sequence

from provision.apply import disk_room
from provision.apply.disk_room import Brought
from provision.command import Answer, Script, look
from provision.doctor import sizes
from provision.doctor.check import Check, Look, Subject
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory
from provision.steps import room
from provision.steps.base import State, UnreadableError
from provision.steps.system.content import gigabytes

PACKAGES = 2 * 10**9
"""Bytes for packages, logs and builds on the file systems of the system: a decision of ours."""

SYSTEM = look(
    Script("doctor/system-disks", room.FREE + 'for folder do free "$folder"; done\n'),
    *("/var/lib", "/var/cache/apt", "/opt"),
    title="look at the room of the system",
)


def _look(host: Host, inventory: Inventory) -> Look:
    things = sizes.of_host(host, inventory)
    reads = [SYSTEM, *(read for thing in things for read in (thing.asked, thing.filling.place))]
    return Look(tuple(reads), lambda answers: _state(things, answers))


def _state(things: Sequence[sizes.Thing], answers: Sequence[Answer]) -> State:
    found = room.FREE_LINE.findall(answers[0].text)
    if not found:
        raise UnreadableError(answers[0].complaint or "df printed no free space")
    pairs = zip(answers[1::2], answers[2::2], strict=True)
    brought = [
        Brought(thing.step, thing.filling, thing.filling.room(size, place))
        for thing, (size, place) in zip(things, pairs, strict=True)
    ]
    disks = [
        {
            "mount": entries[0].room.mount,
            "free": entries[0].room.free,
            "need": disk_room.with_spare(entries),
            "words": disk_room.demand(entries),
            "settings": list(dict.fromkeys(entry.filling.setting for entry in entries)),
        }
        for entries in disk_room.by_disk(brought)
    ]
    return {
        "system": {mount: int(free) for free, _, mount in found},
        "disks": disks,
        "unknown": {entry.filling.what: entry.room.unknown for entry in brought if entry.room.unknown},
    }


def _judge(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    for mount, free in state["system"].items():
        if free < PACKAGES:
            says = f"{mount} has {gigabytes(free)} free, and packages need {gigabytes(PACKAGES)}"
            yield bad(says, f"apt-get clean; {largest(mount)}")
    for disk in state["disks"]:
        if disk["need"] > disk["free"]:
            yield bad(disk["words"], largest(disk["mount"]), f"or name a larger disk: {', '.join(disk['settings'])}")
        else:
            yield good(disk["words"])
    for what, reason in state["unknown"].items():
        yield risk(f"the room for the {what} is unknown", "df -h", reason)
    if not state["disks"] and all(free >= PACKAGES for free in state["system"].values()):
        rooms = ", ".join(f"{mount} has {gigabytes(free)} free" for mount, free in state["system"].items())
        yield good(f"{rooms}, and the inventory brings no further images or models")


def largest(mount: str) -> str:
    """Return the command that lists the largest folders of a file system.

    Args:
        mount: the mount point.
    """
    return f"du -xhd3 -- {shlex.quote(mount)} | sort -h | tail"


CHECKS = (Check("disks", _look, _judge),)
