"""Room on a disk for what a change brings: reads of sizes and of free space, made only when a change needs room. Pure.

Source: df(1), whose `avail` leaves out the blocks reserved for root; st_dev of stat(2), the same for all folders of a
file system.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run

# The function `free` prints `free BYTES DEVICE MOUNTPOINT` for a folder, or for its nearest parent that exists.
FREE = r"""
free() { # folder
  at=$1
  while [ ! -d "$at" ]; do case $at in /*/*) at=${at%/*} ;; *) at=/ ;; esac; done
  df -B1 --output=avail,target -- "$at" | {
    read -r title; read -r bytes mount
    printf 'free %s %s %s\n' "$bytes" "$(stat -c %d -- "$at")" "$mount"
  }
}
"""
FREE_LINE = re.compile(r"^free (\d{1,18}) (\d{1,12}) (/.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Room:
    """The room that a change needs, and the room on its disk.

    Args:
        need: bytes that are not on the disk yet; None where the size is unknown.
        unknown: why the size or the free space is unknown; empty otherwise.
        free: bytes.
        device: number of the file system.
        mount: mount point of the file system.
    """

    need: int | None = None
    unknown: str = ""
    free: int = 0
    device: str = ""
    mount: str = ""


@dataclass(frozen=True)
class Filling:
    """What a change brings to a disk. Fillings with equal reads bring the same bytes to the same place.

    Args:
        what: the thing, in words.
        size: read-only command for the size.
        place: read-only command for the free space, and for the bytes that are there already.
        room: makes the room from the two answers.
        setting: the setting that moves the place to another disk.
        smaller: smaller things that can take the place of the thing, each with its bytes; the largest first.
    """

    what: str
    size: Run
    place: Run
    room: Callable[[Answer, Answer], Room]
    setting: str
    smaller: Sequence[tuple[str, int]] = ()


def of(place: Answer, need: int | None, unknown: str = "") -> Room:
    """Return the room by the answer about a place.

    Args:
        place: the answer; has a line of the function `free`.
        need: bytes; None where unknown.
        unknown: why the need is unknown.
    """
    found = FREE_LINE.search(place.text)
    if found is None:
        return Room(unknown=f"the free space cannot be read: {_reason(place)}")
    return Room(need, unknown, int(found[1]), found[2], found[3])


def unanswered(size: Answer) -> str:
    """Return why a registry told no size.

    Args:
        size: the answer of the command that asked.
    """
    return f"the host got no size from the registry: {_reason(size)}"


def _reason(answer: Answer) -> str:
    text = answer.complaint.splitlines()
    return text[-1][:200] if text else f"exit code {answer.exit}" if answer.exit else "the answer makes no sense"
