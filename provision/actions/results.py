"""What actions return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from provision.actions import documents
from provision.actions.exit_code import INTERRUPTED, HostOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provision.actions.draining import Drain  # noqa: F401 - a base class names it
    from provision.actions.pace import Pace
    from provision.actions.request import Request
    from provision.errors import HostError
    from provision.inventory import Host, Inventory
    from provision.plan.planner import HostPlan
    from provision.rollout.outcome import Outcome
    from provision.runs.rollback_plan import Undo
    from provision.verify.checks import HostResult

O = TypeVar("O", bound=HostOutcome)  # noqa: E741 - what became of a host
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What a run would change.

    Args:
        inventory: that was planned for.
        outcomes: of every host, with its changes or its error.
        exit_code: 0 if every host could be planned for.
        remarks: warnings beside those of the inventory, such as clocks that are wrong.
    """

    inventory: Inventory
    outcomes: Sequence[Outcome]
    exit_code: int
    remarks: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the inventory, and the remarks."""
        return (*self.inventory.warnings, *self.remarks)

    @property
    def changes(self) -> bool:
        """Whether something would change."""
        return any(outcome.plan.changes for outcome in self.outcomes)

    @property
    def drift_exit_code(self) -> int:
        """The exit code, or 5 where that is 0 and something would change."""
        return self.exit_code or (5 if self.changes else 0)

    @property
    def by_host(self) -> Mapping[str, HostPlan]:
        """Host -> what would change there; nothing where that is not known."""
        return {outcome.host: outcome.plan for outcome in self.outcomes}

    @property
    def is_none(self) -> bool:
        """Whether there is nothing to agree to: the operator broke it off, or no host could be planned for."""
        unknown = all(outcome.error and not outcome.plan.refused for outcome in self.outcomes)
        return self.exit_code == INTERRUPTED or unknown


@dataclass(frozen=True)
class RollbackPlan(Plan):
    """What a rollback would put back.

    Args:
        of: id of the run that would be undone.
        undos: host -> what would be put back there, and what would stay.
    """

    of: str = ""
    undos: Mapping[str, Undo] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult(ABC, Generic[O]):
    """What came of a run that may have changed hosts.

    Args:
        run_id: the run's id; empty if it did not begin, because its plan was not agreed to.
        command: what was called, such as `deploy` or `drain gpu-01`.
        request: what it was about.
        pace: how carefully it went.
        inventory: all hosts.
        outcomes: of every host; those of the plan if the run did not begin.
        exit_code: 0 if all is well.
    """

    run_id: str
    command: str
    request: Request
    pace: Pace
    inventory: Inventory
    outcomes: Sequence[O]
    exit_code: int

    @property
    def failed(self) -> list[str]:
        """Names of the hosts with an error."""
        return [outcome.host for outcome in self.outcomes if outcome.error is not None]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the operator should know beside what came of the hosts."""
        return self.inventory.warnings

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """The body of the command's JSON document."""


@dataclass(frozen=True)
class DeployResult(RunResult["Outcome"]):
    """What came of a deploy."""

    @property
    def clocks(self) -> list[str]:
        """A warning for each host whose clock and this machine's differ."""
        return clocks(self.outcomes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the inventory, and of the hosts' clocks."""
        return (*self.inventory.warnings, *self.clocks)

    def document(self) -> dict[str, Any]:
        """The body of `deploy --json`."""
        return documents.deployed(self.outcomes, self.run_id)


@dataclass(frozen=True)
class RollbackResult(RunResult["Outcome"]):
    """What came of a rollback.

    Args:
        of: id of the run that was undone.
        undos: host -> what was put back there, and what stays.
    """

    of: str
    undos: Mapping[str, Undo]

    def document(self) -> dict[str, Any]:
        """The body of `rollback --json`."""
        left = documents.left(self.undos)
        return {"of": self.of, "left": left, **documents.deployed(self.outcomes, self.run_id)}


@dataclass(frozen=True)
class DrainResult(RunResult["Drain"]):
    """What came of a drain or an undrain."""

    def document(self) -> dict[str, Any]:
        """The body of `drain --json` and `undrain --json`."""
        return documents.drains(self.outcomes, self.run_id)


@dataclass(frozen=True)
class VerifyResult:
    """What came of a verification.

    Args:
        inventory: all hosts.
        hosts: of every host its checks or its error.
        exit_code: 0 if everything is proved.
    """

    inventory: Inventory
    hosts: Sequence[HostResult]
    exit_code: int


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What hosts said that were only asked something.

    Args:
        inventory: all hosts.
        hosts: every host that was asked with what it said, or why it did not.
        exit_code: 0 if all of them answered.
    """

    inventory: Inventory
    hosts: Sequence[tuple[Host, T | HostError]]
    exit_code: int


def clocks(outcomes: Sequence[Outcome]) -> list[str]:
    """A warning for each host whose clock and this machine's differ."""
    return [outcome.clock for outcome in outcomes if outcome.clock]
