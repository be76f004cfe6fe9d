"""What a run warns of beside what the inventory does."""

from collections.abc import Sequence
from typing import Any


def clocks(outcomes: Sequence[Any]) -> list[str]:
    """The hosts whose clock and this machine's differ, each once."""
    return [outcome.clock for outcome in outcomes if outcome.clock]


def unfinished(inventory: str) -> list[str]:
    """The last run of an inventory that this machine began, if it died."""
    from provision.runs.log import Logs, default_folder

    log = Logs(default_folder()).unfinished(inventory)
    return [log.epitaph] if log else []
