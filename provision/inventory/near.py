"""The nearest valid name, and values short enough to show."""

import difflib
from collections.abc import Iterable

LIMIT = 80  # characters of a value in a message


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that looks most like `name`, or None if none does.

    Args:
        name: the written name; only the first characters count.
        known: the valid names.
        cutoff: the least likeness, from 0 to 1.
    """
    by_folded = {_folded(valid): valid for valid in known}
    matches = difflib.get_close_matches(_folded(name[:LIMIT]), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or nothing."""
    match = nearest(name, known)
    return f"; did you mean {match}?" if match else ""


def clip(value: object) -> str:
    """Return a value as one printable line of at most about 80 characters."""
    text = value if isinstance(value, str) else repr(value)
    shown = repr(text[: LIMIT + 1])[1:-1] if not text[:LIMIT].isprintable() else text
    return shown if len(shown) <= LIMIT else shown[: LIMIT - 3] + "..."


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")
