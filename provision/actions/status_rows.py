"""The rows of `provision status`, and the order of their states. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provision.steps.nginx import recent_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provision.actions.status_reads import Balancer, Reading
    from provision.errors import HostError
    from provision.inventory import Host
    from provision.runs.history import Entry
    from provision.runs.lock import Holder
    from provision.steps.card_load import CardLoad
    from provision.steps.instance.served import LoadedModel
    from provision.steps.nginx.recent_log import Recent
    from provision.steps.nginx.upstream import Drained

WORST_FIRST = (
    "unreachable",
    "failed",
    "down",
    "no answer",
    "ended",
    "two holders",
    "no holder",
    "lost card",
    "on cpu",
    "not loaded",
    "failing",
    "stale",
    "not listed",
    "hot",
    "ecc errors",
    "ends soon",
    "cordoned",
    "drained",
    "asking",
    "ok",
)
"""The states of a row."""
WELL = ("drained", "asking", "ok")
"""States that are no finding: an operator wants a drain, and a host may still be asked."""
FAILING, FEWEST = 0.05, 3
"""An instance is failing if at least FEWEST of its last requests and more than this share failed."""


@dataclass(frozen=True)
class Finding:
    """Something to know about a row.

    Args:
        state: one of `WORST_FIRST`.
        why: the evidence, and the next action; one sentence.
    """

    state: str
    why: str = ""


@dataclass(frozen=True)
class Latest:
    """The latest knowledge about a host.

    Args:
        host: the host.
        reading: the last answers; None for a host that has not answered.
        error: the error of the last question; None for an answer.
        age: seconds since the answers; None for a host that has not answered.
    """

    host: Host
    reading: Reading | None = None
    error: HostError | None = None
    age: float | None = None

    @property
    def run(self) -> Entry | None:
        """The last run that changed the host; None for no run."""
        return self.reading.run if self.reading else None

    @property
    def holder(self) -> Holder | None:
        """The holder of the lock of the host; None for nobody."""
        return self.reading.holder if self.reading else None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the screen, for an instance, or for a host or a card without one.

    Args:
        host: name of the host.
        instance: name of the instance; empty for a host.
        findings: the findings, worst first; never empty.
        age: seconds since the host answered; None for a host that has not answered.
        cards: the cards of the instance.
        models: the loaded models; None where unknown.
        on_gpu: `yes`, `no`, `part`, `unproved` (the server says yes, and nvidia-smi cannot prove it), or empty for an
            instance without a loaded model or without a card.
        proof: the evidence for `on_gpu`: the memory that the processes hold on the cards.
        recent: the requests of the last minutes.
        per_second: tokens of answers per second in the last minutes; None where nobody counts tokens.
        in_flight: requests under way; None where unknown.
        drained: the operator's drain; None without a drain.
        run: the last run on the host; None for no run.
        holder: the holder of the host's lock; None for nobody.
    """

    host: str
    instance: str = ""
    findings: tuple[Finding, ...] = (Finding("ok"),)
    age: float | None = None
    cards: tuple[CardLoad, ...] = ()
    models: tuple[LoadedModel, ...] | None = None
    on_gpu: str = ""
    proof: str = ""
    recent: Recent = field(default_factory=recent_log.Recent)
    per_second: float | None = None
    in_flight: int | None = None
    drained: Drained | None = None
    run: Entry | None = None
    holder: Holder | None = None

    @property
    def state(self) -> str:
        """The worst state."""
        return self.findings[0].state


@dataclass(frozen=True, kw_only=True)
class BalancerRow:
    """A row of a balancer.

    Args:
        host: name of the host.
        findings: the findings, worst first; never empty.
        age: seconds since the host answered; None for a host that has not answered.
        balancer: the answers; None for a host that has not answered.
        days: whole days until the end of the certificate; None without a certificate.
        in_flight: requests under way to instances; None where unknown.
        requests: requests that reached an instance in the last minutes.
    """

    host: str
    findings: tuple[Finding, ...] = (Finding("ok"),)
    age: float | None = None
    balancer: Balancer | None = None
    days: int | None = None
    in_flight: int | None = None
    requests: int = 0

    @property
    def state(self) -> str:
        """The worst state."""
        return self.findings[0].state


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings with the worst first; `ok` for none.

    Args:
        findings: in any order.
    """
    return tuple(sorted(findings, key=lambda finding: WORST_FIRST.index(finding.state))) or (Finding("ok"),)


def rank(row: Row | BalancerRow) -> int:
    """Return the place of a row: the worst rows have the lowest numbers."""
    return WORST_FIRST.index(row.state)


def failure_of(latest: Latest) -> Finding:
    """Return the finding for a host whose last question failed, or that has not answered yet."""
    if latest.error is None:
        return Finding("asking", "the host has not answered yet")
    state = "unreachable" if latest.error.exit_code == 4 else "failed"
    words = latest.error.message.removeprefix(f"{latest.host.name}: ")
    return Finding(state, f"{words}; {latest.error.hint}" if latest.error.hint else words)


def short(uuid: str) -> str:
    """Return the begin of the UUID of a card, long enough to tell cards apart.

    Args:
        uuid: `GPU-...` or `MIG-...`.
    """
    return uuid.removeprefix("GPU-")[:8]
