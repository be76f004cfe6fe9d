"""Planned changes as failed checks. Pure. Verify is never greener than plan, because the checks are plan's."""

from collections.abc import Mapping, Sequence
from typing import Any

from provision.plan.planner import Change
from provision.steps.base import Check, differing

PRESENCE = "on the host"
DECLARED = " as declared"  # ends the name of a check that compares one key of a state
DIFF_LINES = 40  # lines of one step; `provision plan` shows all lines


def checks_of(change: Change) -> list[Check]:
    """Return a failed check for each difference, with the state on the host and the declared state.

    Args:
        change: a change of a plan, with known states.
    """
    if change.action == "remove":
        return [Check(PRESENCE, "present", f"absent: {change.reason}")]
    if change.have is None:
        return [Check(PRESENCE, "absent", "present")]
    have = change.have
    return [Check(f"{key}{DECLARED}", *_apart(have.get(key), want)) for key, want in differing(have, change.want)]


def _apart(have: Any, want: Any) -> tuple[Any, Any]:
    """Return both values; of two mappings only the keys that differ."""
    if not (isinstance(have, Mapping) and isinstance(want, Mapping)):
        return have, want
    keys = [key for key in {**have, **want} if key not in have or key not in want or have[key] != want[key]]
    actual, declared = ({key: value[key] for key in keys if key in value} for value in (have, want))
    return actual, declared


def diff_of(change: Change) -> Sequence[str]:
    """Return the first lines of the diff of a change."""
    return change.diff[:DIFF_LINES]
