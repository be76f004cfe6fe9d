"""The results of actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from provision.actions import documents
from provision.actions.exit_code import INTERRUPTED, HostOutcome

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from provision.actions.draining import Drain  # noqa: F401 - a base class names it
    from provision.actions.pace import Pace
    from provision.actions.request import Request
    from provision.errors import HostError
    from provision.inventory import Host, Inventory
    from provision.plan.planner import HostPlan
    from provision.rollout.outcome import Outcome
    from provision.runs.rollback_plan import Undo
    from provision.verify.checks import HostResult

O = TypeVar("O", bound=HostOutcome)  # noqa: E741 - the outcome of a host
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The changes that a run would make.

    Args:
        inventory: the inventory of the plan.
        outcomes: of every host, with its changes or its error.
        exit_code: 0 if every host could be planned.
        remarks: warnings beside those of the inventory, such as wrong clocks.
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
        """Whether any host would change."""
        return any(outcome.plan.changes for outcome in self.outcomes)

    @property
    def drift_exit_code(self) -> int:
        """The exit code; 5 in place of 0 if any host would change."""
        return self.exit_code or (5 if self.changes else 0)

    @property
    def by_host(self) -> Mapping[str, HostPlan]:
        """Host -> its plan; empty for a host that could not be planned."""
        return {outcome.host: outcome.plan for outcome in self.outcomes}

    @property
    def is_none(self) -> bool:
        """Whether the operator has nothing to agree to: the plan was interrupted, or no host could be planned."""
        unknown = all(outcome.error and not outcome.plan.refused for outcome in self.outcomes)
        return self.exit_code == INTERRUPTED or unknown


@dataclass(frozen=True)
class RollbackPlan(Plan):
    """The changes that a rollback would make.

    Args:
        of: id of the run to undo.
        undos: host -> the steps to restore and the steps to leave.
    """

    of: str = ""
    undos: Mapping[str, Undo] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult(ABC, Generic[O]):
    """The result of a run that may have changed hosts.

    Args:
        run_id: the id of the run; empty if nobody agreed to the plan, so that the run did not begin.
        command: the command, such as `deploy` or `drain gpu-01`.
        request: the hosts and roles.
        pace: how carefully the run went.
        inventory: all hosts.
        outcomes: of every host; the outcomes of the plan if the run did not begin.
        exit_code: 0 if all is well.
        guarded: why the run stopped itself, if that decides the exit code; else empty.
    """

    run_id: str
    command: str
    request: Request
    pace: Pace
    inventory: Inventory
    outcomes: Sequence[O]
    exit_code: int
    guarded: str = field(default="", kw_only=True)

    @property
    def failed(self) -> list[str]:
        """Names of the hosts with an error."""
        return [outcome.host for outcome in self.outcomes if outcome.error is not None]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the operator beside the outcomes of hosts."""
        return self.inventory.warnings

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """Return the body of the command's JSON document."""


@dataclass(frozen=True)
class DeployResult(RunResult["Outcome"]):
    """The result of a deploy."""

    @property
    def clocks(self) -> list[str]:
        """A warning for each host whose clock and this machine's differ."""
        return clocks(self.outcomes)

    @property
    def remarks(self) -> list[str]:
        """Warnings of clocks and of cards of two hosts, the forced instances, and advice about roles that change."""
        return [
            *self.clocks,
            *doubled_cards(self.outcomes),
            *forced(self.outcomes),
            *advice(self.inventory, self.outcomes),
        ]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the inventory, and the remarks."""
        return (*self.inventory.warnings, *self.remarks)

    def document(self) -> dict[str, Any]:
        """Return the body of `deploy --json`."""
        return documents.deployed(self.outcomes, self.run_id, self.guarded)


@dataclass(frozen=True)
class RollbackResult(RunResult["Outcome"]):
    """The result of a rollback.

    Args:
        of: id of the run that was undone.
        undos: host -> the steps restored and the steps left.
    """

    of: str
    undos: Mapping[str, Undo]

    def document(self) -> dict[str, Any]:
        """Return the body of `rollback --json`."""
        left = documents.left(self.undos)
        return {"of": self.of, "left": left, **documents.deployed(self.outcomes, self.run_id, self.guarded)}


@dataclass(frozen=True)
class DrainResult(RunResult["Drain"]):
    """The result of a drain or an undrain."""

    def document(self) -> dict[str, Any]:
        """Return the body of `drain --json` and `undrain --json`."""
        return documents.drains(self.outcomes, self.run_id)


@dataclass(frozen=True)
class VerifyResult:
    """The result of a verification.

    Args:
        inventory: all hosts.
        hosts: the checks or the error of every host.
        exit_code: 0 if everything is proved.
        remarks: the risks accepted by the operator.
    """

    inventory: Inventory
    hosts: Sequence[HostResult]
    exit_code: int
    remarks: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the inventory, and the remarks."""
        return (*self.inventory.warnings, *self.remarks)


@dataclass(frozen=True)
class Answers(Generic[T]):
    """The answers of hosts to a question.

    Args:
        inventory: all hosts.
        hosts: every host, with its answer or its error.
        exit_code: 0 if all hosts answered.
    """

    inventory: Inventory
    hosts: Sequence[tuple[Host, T | HostError]]
    exit_code: int


def same_cards(cards: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """Return a warning for each card of two hosts: two names of one machine, or a copied virtual machine.

    Args:
        cards: host -> UUIDs of its cards.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for host, uuids in cards:
        for uuid in uuids:
            owners[uuid].append(host)
    return [
        f"{uuid} is a card of {' and '.join(hosts[:4])}: are these names of one machine? Keep one host of them"
        for uuid, hosts in sorted(owners.items())
        if len(hosts) > 1
    ]


def clocks(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a warning for each host whose clock and this machine's differ."""
    return [outcome.clock for outcome in outcomes if outcome.clock]


def doubled_cards(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a warning for each card that two hosts of a plan list."""
    return same_cards((outcome.host, outcome.cards) for outcome in outcomes)


def forced(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a warning for each refusal by cards or disks without room that an operator overruled."""
    return [f"{outcome.host}: forced by --force-fit: {why}" for outcome in outcomes for why in outcome.forced]


def advice(inventory: Inventory, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the advice of the inventory about roles that a plan changes, and the accepted risks of these roles."""
    roles = {change.role for outcome in outcomes for change in outcome.plan.changes}
    told = (inventory.advice, inventory.accepted)
    return [text for sentences in told for role, texts in sentences.items() if role in roles for text in texts]


def accepted(inventory: Inventory, roles: Collection[str]) -> list[str]:
    """Return the risks accepted by the operator.

    Args:
        inventory: all hosts.
        roles: names of the roles of the command.
    """
    return [text for role, texts in inventory.accepted.items() if role in roles for text in texts]
