"""The order of Debian package versions. Source: Debian Policy 5.6.12, deb-version(7)."""

import re


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 where `left` is older than, equal to or newer than `right`, in dpkg's order."""
    left_key, right_key = _key(left), _key(right)
    return (left_key > right_key) - (left_key < right_key)


def _key(version: str) -> tuple[int, list[object], list[object]]:
    epoch, _, rest = version.rpartition(":")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, _order(upstream), _order(revision)


def _order(part: str) -> list[object]:
    """Text and numbers in turn. Each text ends with 0, so that `~` (-1) sorts before the end of a text."""
    pieces = re.findall(r"(\D*)(\d*)", part)
    return [item for text, digits in pieces for item in ([*map(_weight, text), 0], int(digits or 0))]


def _weight(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256
