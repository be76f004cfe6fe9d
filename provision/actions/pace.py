"""How carefully a run goes through its hosts: in words, as a caller says it, and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.errors import UsageError

if TYPE_CHECKING:
    from provision.rollout import outcome

LONGEST_WAIT = 86400.0  # seconds


@dataclass(frozen=True)
class Pace:
    """How carefully a run goes through its hosts.

    Args:
        serial: hosts at a time, as a number or a share of all hosts (`25%`); empty for as many as there are forks.
        canary: whether one gpu host goes first and alone.
        max_fail: how many hosts may fail, as a number or a share; one more stops the run. Empty for any number.
        lock_wait: seconds to wait for a host that somebody else has locked.

    Raises:
        UsageError: the wait is negative, or longer than a day.
    """

    serial: str = ""
    canary: bool = False
    max_fail: str = ""
    lock_wait: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.lock_wait <= LONGEST_WAIT:
            raise UsageError(f"lock_wait must be between 0 and {LONGEST_WAIT:.0f} seconds")

    def counted(self, hosts: int) -> outcome.Pace:
        """The same in numbers of hosts.

        Args:
            hosts: how many there are.

        Raises:
            UsageError: `serial` or `max_fail` is no number of hosts.
        """
        from provision.rollout import outcome

        return outcome.Pace(
            serial=_hosts(self.serial, "--serial", hosts, least=1) if self.serial else outcome.NO_LIMIT,
            canary=self.canary,
            max_fail=_hosts(self.max_fail, "--max-fail", hosts, least=0) if self.max_fail else outcome.NO_LIMIT,
        )


DEFAULT_PACE = Pace()


def _hosts(text: str, option: str, count: int, *, least: int) -> int:
    """A number of hosts, or a share of them rounded down.

    Args:
        text: `3` or `25%`.
        option: where it was said.
        count: the hosts that there are.
        least: the smallest number that is allowed; a share is never rounded below it.

    Raises:
        UsageError: it is no number of hosts.
    """
    from provision.inventory import share_of

    try:
        part = share_of(text) if text.endswith("%") else None
        number = int(text) if part is None else max(least, int(count * part))
    except ValueError:
        part, number = None, -1
    if number < least or (part is not None and part > 1):
        raise UsageError(f"{option} must be a number of hosts from {least} on, or a share of them such as 25%")
    return number
