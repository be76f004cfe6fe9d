"""Text from outside, made safe for a terminal: hosts, servers and inventories may send escape sequences."""

import re
from collections.abc import Iterable

# Whole sequences of a terminal, so that no half sequence stays behind as litter: CSI, OSC and similar, the rest.
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*.?"
)


def line(text: object, width: int = 400) -> str:
    """Return one line without anything that a terminal would take for a command; a long line ends in an ellipsis.

    Control characters, direction overrides and similar become blanks.

    Args:
        text: from outside.
        width: characters to keep.
    """
    shown = str(text)[: width * 4]
    shown = _SEQUENCE.sub("", shown).replace("\t", "    ") if not shown.isprintable() else shown
    if not shown.isprintable():
        shown = "".join(letter if letter.isprintable() else " " for letter in shown)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def lines(text: object, *, most: int = 20, width: int = 400, last: bool = False) -> list[str]:
    """Return several lines, each safe for a terminal, up to a number.

    Args:
        text: from outside.
        most: lines to keep.
        width: characters of a line to keep.
        last: whether to keep the last lines, as of a log, instead of the first.
    """
    text = str(text)
    room = most * width * 4
    return some(re.split(r"\r\n|\n|\r", text[-room:] if last else text[:room]), most=most, width=width, last=last)


def some(texts: Iterable[object], *, most: int, width: int = 400, last: bool = False) -> list[str]:
    """Return the first or last of many lines, each safe for a terminal, and the number of lines left out.

    Args:
        texts: the lines.
        most: lines to keep.
        width: characters of a line to keep.
        last: whether to keep the last lines.
    """
    every = list(texts)
    left = len(every) - most
    if left <= 0:
        return [line(text, width) for text in every]
    note = f"... {left} more line{'s' if left != 1 else ''}"
    kept = [line(text, width) for text in (every[-most:] if last else every[:most])]
    return [note, *kept] if last else [*kept, note]


def ending(text: str, width: int) -> str:
    """Return the end of a long text, from the begin of a word and with an ellipsis before, or the whole short text.

    Args:
        text: from outside.
        width: characters to keep.
    """
    if len(text) <= width:
        return text
    kept = text[-width:]
    if not (kept[0].isspace() or text[-width - 1].isspace()) and (gap := re.search(r"\s", kept)):
        kept = kept[gap.end() :]
    return f"…{kept.lstrip()}"
