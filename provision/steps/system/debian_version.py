"""Which of two Debian package versions is newer. Source: Debian Policy 5.6.12, deb-version(7)."""

import re


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 as `left` is older than, equal to or newer than `right`, as dpkg orders them."""
    one, other = _key(left), _key(right)
    return (one > other) - (one < other)


def _key(version: str) -> tuple[int, list[object], list[object]]:
    epoch, _, rest = version.rpartition(":")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch) if epoch.isdigit() else 0, _order(upstream), _order(revision)


def _order(part: str) -> list[object]:
    """Alternately text and numbers. Text is closed by 0, which is what makes `~` (-1) sort before the end."""
    pieces = re.findall(r"(\D*)(\d*)", part)
    return [item for text, digits in pieces for item in ([*map(_weight, text), 0], int(digits or 0))]


def _weight(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256
