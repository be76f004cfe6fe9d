"""What plan would change, as failed checks. Pure: verify is never greener than plan, because it is plan that speaks."""

from collections.abc import Mapping, Sequence
from typing import Any

from provision.plan.planner import Change
from provision.steps.base import Check, Step, differing

PRESENCE = "on the host"
DECLARED = " as declared"  # how the name of a check ends that compares one key of a state
DIFF_LINES = 40  # of one step; `provision plan` shows all of them


def checks_of(change: Change) -> list[Check]:
    """One failed check for each thing that differs, with what was found and what the inventory declares.

    Args:
        change: a change of plan whose states are known.
    """
    if change.action == "remove":
        return [Check(PRESENCE, "present", f"absent: {change.reason}")]
    if change.have is None:
        return [Check(PRESENCE, "absent", "present")]
    have = change.have
    return [Check(f"{key}{DECLARED}", *_apart(have.get(key), want)) for key, want in differing(have, change.want)]


def _apart(have: Any, want: Any) -> tuple[Any, Any]:
    """Both values; of two mappings only the keys that differ."""
    if not (isinstance(have, Mapping) and isinstance(want, Mapping)):
        return have, want
    keys = [key for key in {**have, **want} if key not in have or key not in want or have[key] != want[key]]
    found, declared = ({key: value[key] for key in keys if key in value} for value in (have, want))
    return found, declared


def diff_of(change: Change) -> Sequence[str]:
    """The lines of a change that say more than its states do, such as the diff of a file's text."""
    return change.diff[:DIFF_LINES] if type(change.step).diff is not Step.diff else ()
