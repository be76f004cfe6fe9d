"""What happens during a run, as values: `apply` says it, `report` shows it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that happened on one host, or to the whole run.

    Args:
        host: its name; empty for the whole run.
        kind: of a host `selected` (before any other), `reading`, `planned`, `checking`, `waiting`, `changing`,
            `command`, `progress`, `changed`, `ok`, `finished` (its part, while other hosts go on), `failed`,
            `unreachable`, `locked`, `stopped` or `done`; of a run `warning` or `over`, after which nothing more
            happens on hosts.
        step: id of the step, or empty; of a warning where it comes from: `inventory`, `log` or `hooks`.
        text: what to show; never a secret.
        seconds: how long it took; 0.0 where that means nothing.
    """

    host: str
    kind: str
    step: str = ""
    text: str = ""
    seconds: float = 0.0


Listener = Callable[[Event], None]


def ignore(_: object) -> None:
    """A listener that hears nothing."""
