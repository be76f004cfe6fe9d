"""Events of a run, as values: `apply` and `rollout` send events, `report` shows them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """An event on one host, or of the whole run.

    Args:
        host: the name of the host; empty for the whole run.
        kind: of a host `selected` (before any other), `reading`, `planned`, `checking`, `waiting`, `changing`,
            `command`, `progress`, `changed`, `ok`, `finished` (its part, while other hosts go on), `failed`,
            `unreachable`, `locked`, `stopped` or `done`; of a run `warning` or `over`, the last event on hosts.
        step: id of the step, or empty; of a warning its source: `inventory`, `log` or `hooks`.
        text: the text to show; never a secret.
        seconds: duration; 0.0 if meaningless.
    """

    host: str
    kind: str
    step: str = ""
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[Event], None]


def ignore(_: object) -> None:
    """Do nothing: a listener that ignores events."""
