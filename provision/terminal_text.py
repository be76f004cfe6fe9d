"""Text of others made fit for a terminal: hosts, servers and inventories may say anything, also escape sequences."""

import re
from collections.abc import Iterable

# A terminal's sequences as a whole, so that not half of one stays behind as litter: CSI, OSC and its like, the rest.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*.?"
)


def line(text: object, width: int = 400) -> str:
    """One line without anything that a terminal would take for a command; what is too long ends in an ellipsis.

    Controls, direction overrides and the like become blanks.

    Args:
        text: what somebody else said.
        width: characters that are kept.
    """
    found = str(text)[: width * 4]
    found = _SEQUENCE.sub("", found).replace("\t", "    ") if not found.isprintable() else found
    if not found.isprintable():
        found = "".join(letter if letter.isprintable() else " " for letter in found)
    return found if len(found) <= width else found[: width - 1] + "…"


def lines(text: object, *, most: int = 20, width: int = 400, last: bool = False) -> list[str]:
    """Several lines, each fit for a terminal, and not too many.

    Args:
        text: what somebody else said.
        most: lines that are kept.
        width: characters of a line that are kept.
        last: whether the last ones are kept, as of a log, and not the first.
    """
    text = str(text)
    room = most * width * 4
    return some(re.split(r"\r\n|\n|\r", text[-room:] if last else text[:room]), most=most, width=width, last=last)


def some(found: Iterable[object], *, most: int, width: int = 400, last: bool = False) -> list[str]:
    """The first or last of many lines, each fit for a terminal; says how many are left out.

    Args:
        found: the lines.
        most: how many are kept.
        width: characters of a line that are kept.
        last: whether the last ones are kept.
    """
    every = list(found)
    left = len(every) - most
    if left <= 0:
        return [line(one, width) for one in every]
    said = f"... {left} more line{'s' if left != 1 else ''}"
    kept = [line(one, width) for one in (every[-most:] if last else every[:most])]
    return [said, *kept] if last else [*kept, said]
