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
        from provision.rollout.batches import number_of_hosts

        return outcome.Pace(
            serial=number_of_hosts(self.serial, "--serial", hosts, least=1) if self.serial else outcome.NO_LIMIT,
            canary=self.canary,
            max_fail=number_of_hosts(self.max_fail, "--max-fail", hosts, least=0)
            if self.max_fail
            else outcome.NO_LIMIT,
        )


DEFAULT_PACE = Pace()
