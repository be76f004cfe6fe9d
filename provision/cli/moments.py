"""Moments of the command line: a date, or a time from now."""

from __future__ import annotations

import datetime as dt

LONGEST = 3650  # days


def seconds(text: str, option: str, *, least: float = 0) -> int:
    """Return the seconds of a duration such as 24h or 90d.

    Args:
        text: the value of the option.
        option: name of the option.
        least: the shortest duration, in seconds; ten years are the longest.

    Raises:
        UsageError: the text is no duration, or the duration is too short or too long.
    """
    from provision.errors import UsageError
    from provision.inventory import duration_seconds, is_duration

    found = duration_seconds(text.strip().lower()) if is_duration(text.strip().lower()) else -1.0
    if not least <= found <= LONGEST * 86400:
        raise UsageError(f"{option} must be a duration such as 24h or 90d, of at most {LONGEST} days")
    return int(found)


def moment(text: str, option: str, now: float, *, ahead: bool) -> int:
    """Return a moment in seconds since 1970.

    Args:
        text: a date such as 2027-06-30, whose first second in UTC is meant, a date with a time, or a duration.
        option: name of the option.
        now: the present, in seconds since 1970.
        ahead: whether a duration leads into the future, and not into the past.

    Raises:
        UsageError: the text is no moment.
    """
    from provision.errors import UsageError

    if "-" not in text:
        return int(now) + (1 if ahead else -1) * seconds(text, option)
    try:
        found = dt.datetime.fromisoformat(text.strip())
        return int(found.replace(tzinfo=found.tzinfo or dt.UTC).timestamp())
    except (ValueError, OverflowError):
        hint = "give a date such as 2027-06-30, a date with a time such as 2027-06-30T12:00, or a duration such as 90d"
        raise UsageError(f"{option} must be a moment, not {text[:60]!r}", hint) from None
