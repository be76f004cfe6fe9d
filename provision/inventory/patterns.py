"""Ansible's host patterns, as after `--limit`.

A pattern is a host, a group, a glob over both, `group[0]` or `group[0:3]` (hosts of a group by position, both ends
included), names with a range (`gpu-[01:05]`), or `~` with a regular expression that begins a name. `!` takes away and
`&` keeps only, in any order; without a plain pattern both work on all hosts.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provision.errors import UsageError
from provision.inventory.near import clip, did_you_mean
from provision.inventory.paths import expanded
from provision.inventory.ranges import expand

if TYPE_CHECKING:
    from provision.inventory.model import Host

MAX_BYTES = 2**20

_SUBSCRIPT = re.compile(r"(?P<name>[^\[\]]+)\[(?P<first>-?[0-9]{1,6})(?P<colon>:)?(?P<last>[0-9]{0,6})\]")
_SEPARATORS = ",:"


def select(hosts: Sequence["Host"], patterns: Sequence[str]) -> tuple["Host", ...]:
    """Return the hosts that patterns select, in the order of `hosts`; all hosts for no pattern.

    Raises:
        UsageError: a pattern matches nothing, or nothing is left.
    """
    words = [word for pattern in patterns for word in split(pattern)]
    chosen = _chosen(hosts, [word for word in words if word[0] not in "!&"]) or {host.name for host in hosts}
    for word in words:
        if word[0] == "&":
            chosen &= _chosen(hosts, [word[1:]])
    for word in words:
        if word[0] == "!":
            chosen -= _chosen(hosts, [word[1:]])
    if not chosen:
        message = f"no host is selected by {clip(','.join(words))}"
        raise UsageError(message)
    return tuple(host for host in hosts if host.name in chosen)


def split(pattern: str) -> list[str]:
    """Return the single patterns of one `--limit`; `@FILE` stands for the lines of a file.

    Raises:
        UsageError: the file cannot be read, or has no pattern.
    """
    if pattern.startswith("@"):
        words = [word for line in _lines(expanded(pattern[1:])) for word in _words(line)]
    else:
        words = _words(pattern)
    if not words or any(word in ("!", "&") for word in words):
        message = f"names no host: --limit {clip(pattern) or repr('')}"
        raise UsageError(message)
    return words


def _words(text: str) -> list[str]:
    """Return the words between separators. Inside brackets a separator is part of a range or a regular expression."""
    words, depth = [""], 0
    for letter in text:
        depth = max(0, depth + (letter in "[({") - (letter in "])}"))
        if letter in _SEPARATORS and not depth:
            words.append("")
        else:
            words[-1] += letter
    return [word.strip() for word in words if word.strip()]


def _lines(path: Path) -> Iterable[str]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        message = f"--limit @{clip(str(path))} cannot be read: {clip(str(error))}"
        raise UsageError(message) from None
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def _chosen(hosts: Sequence["Host"], patterns: Iterable[str]) -> set[str]:
    return {name for pattern in patterns for name in _matching(hosts, pattern)}


def _matching(hosts: Sequence["Host"], pattern: str) -> list[str]:
    """Return the names of the hosts that one pattern matches. Raises UsageError if there is none."""
    if pattern.startswith("~"):
        names = _by_regex(hosts, pattern[1:])
    else:
        names = _by_position(hosts, pattern) or _by_range(hosts, pattern) or _by_name(hosts, pattern)
    if not names:
        known = [host.name for host in hosts] + sorted({group for host in hosts for group in host.groups})
        message = f"no host or group matches {clip(pattern)}{did_you_mean(pattern, known)}"
        raise UsageError(message)
    return names


def _by_regex(hosts: Sequence["Host"], expression: str) -> list[str]:
    """Return the hosts whose name or group begins with a match, as in Ansible."""
    try:
        wanted = re.compile(expression)
    except re.error as error:
        raise UsageError(f"~{clip(expression)} is not a regular expression: {error}") from None
    return [host.name for host in hosts if any(wanted.match(name) for name in (host.name, "all", *host.groups))]


def _by_name(hosts: Sequence["Host"], pattern: str) -> list[str]:
    return [
        host.name
        for host in hosts
        if any(fnmatch.fnmatchcase(name, pattern) for name in (host.name, "all", *host.groups))
    ]


def _by_position(hosts: Sequence["Host"], pattern: str) -> list[str]:
    match = _SUBSCRIPT.fullmatch(pattern)
    if match is None:
        return []
    members = [host.name for host in hosts if match["name"] in ("all", *host.groups)]
    first = int(match["first"])
    if match["colon"]:
        last = int(match["last"]) if match["last"] else len(members)
        return members[max(first, 0) : last + 1]
    return members[first : first + 1 or None] if not match["last"] else []


def _by_range(hosts: Sequence["Host"], pattern: str) -> list[str]:
    try:
        wanted = set(expand(pattern)) if ":" in pattern else set()
    except ValueError:
        return []
    return [host.name for host in hosts if host.name in wanted]
