"""Fits text to a screen: width, broken lines, and colours.

A terminal gets lines of its own width, or of COLUMNS. A pipe or a file gets whole lines, so that `grep` finds the parts
of a line together.
"""

import itertools
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from typing import TextIO

WHOLE = 10**6
NARROWEST = 40
USUAL = 80
LOWEST, USUAL_LINES = 10, 24  # lines of a terminal
COLUMN = 28  # columns of room that a text needs to continue below itself
_COLOUR = re.compile(r"\x1b\[\d*m")
CODES = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}


def width(stream: TextIO) -> int:
    """Return the columns of a line on a stream.

    Args:
        stream: standard output or standard error.
    """
    if not stream.isatty():
        return WHOLE
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return max(NARROWEST, int(columns))
    try:
        return max(NARROWEST, os.get_terminal_size(stream.fileno()).columns or USUAL)
    except (OSError, ValueError):
        return USUAL


def height(stream: TextIO) -> int:
    """Return the lines of a terminal.

    Args:
        stream: standard output or standard error.
    """
    lines = os.environ.get("LINES", "")
    if lines.isdecimal() and int(lines):
        return max(LOWEST, int(lines))
    try:
        return max(LOWEST, os.get_terminal_size(stream.fileno()).lines or USUAL_LINES)
    except (OSError, ValueError):
        return USUAL_LINES


def has_colours(stream: TextIO) -> bool:
    """Whether a stream shows colours: NO_COLOR forbids colours, FORCE_COLOR asks for colours, else a terminal shows
    them."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR") not in (None, "", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """Return a text in a colour, if standard output has colours."""
    if colour not in CODES or not has_colours(sys.stdout):
        return text
    return f"\x1b[{CODES[colour]}m{text}\x1b[0m"


def wrap(text: str, hang: int, limit: int) -> list[str]:
    """Break one line at blanks. Colours take no room.

    Args:
        text: the line.
        hang: indentation of the lines after the first, in columns.
        limit: columns of a line.
    """
    if seen(text) <= limit:
        return [text]
    begin = len(text) - len(text.lstrip(" "))
    lines, now = [], text[:begin]
    for gap, word in re.findall(r"( *)([^ ]+)", text[begin:]):
        while word:
            piece = gap + word if now.strip() else word
            if seen(now + piece) <= limit:
                now, word = now + piece, ""
            elif now.strip():
                lines.append(now)
                now = " " * hang
            else:  # a word longer than a line
                room = _fitting(word, limit - len(now))
                lines.append(now + word[:room])
                now, word = " " * hang, word[room:]
    return [*lines, now] if now.strip() else lines


def seen(text: str) -> int:
    """Return the columns that a text takes: two for a wide letter, none for an accent that joins the letter before."""
    plain = _COLOUR.sub("", text)
    return len(plain) if plain.isascii() else sum(map(_columns, plain))


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def _fitting(word: str, room: int) -> int:
    """Return the number of letters at the begin of a word that fit into some columns; at least one."""
    if word.isascii():
        return max(1, room)
    ends = itertools.accumulate(map(_columns, word))
    return max(1, sum(1 for end in ends if end <= room))


def hang_of(column: int, limit: int, least: int) -> int:
    """Return the column for continuation lines: below the begin of the text, or further left if there is little room.

    Args:
        column: the first column of the text.
        limit: columns of a line.
        least: the column further left.
    """
    return column if limit - column >= COLUMN else least


def typed(command: str, indent: int, limit: int) -> list[str]:
    """Return the lines of a command to copy: a broken line ends in a backslash.

    Args:
        command: the command.
        indent: indentation in columns.
        limit: columns of a line.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # the end of the command was cut off, inside quotes
        return wrap(" " * indent + command, indent + 4, limit)
    lines, now = [], " " * indent
    for word in map(shlex.quote, words):
        if now.strip() and len(now) + 1 + len(word) > limit - 2:
            lines.append(now + " \\")
            now = " " * (indent + 4)
        now += f" {word}" if now.strip() else word
    return [*lines, now]


def names(of: Sequence[str], most: int = 4) -> str:
    """Return names for a sentence, and the number of the rest."""
    more = len(of) - most
    return ", ".join(of[:most]) + (f" and {more} more" if more > 0 else "")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 host` and `2 hosts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
