"""How carefully a run goes through its hosts: in the words of the caller, and in numbers of hosts."""

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
        serial: hosts in a batch, as a number or a percentage of all hosts (`25%`); empty for a single batch.
        canary: whether a single gpu host goes first.
        max_fail: how many hosts may fail before the run stops, as a number or a percentage; empty for no limit.
        lock_wait: seconds to wait for a host that another run or an operator has locked.

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
        """Return the pace in numbers of hosts.

        Args:
            hosts: the number of hosts.

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
