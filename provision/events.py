"""What happens during a run, as values: `apply` says it, `report` shows it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that happened on one host.

    Args:
        host: its name.
        kind: `reading`, `waiting`, `changing`, `progress`, `changed`, `ok`, `failed` or `done`.
        step: id of the step, or empty.
        text: what to show; never a secret.
        seconds: how long it took; 0.0 where that means nothing.
    """

    host: str
    kind: str
    step: str = ""
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[Event], None]
