"""The pace of a run, and the outcome of each host."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from provision.errors import HostError
from provision.inventory import Host, Inventory
from provision.plan import role_interface
from provision.plan.planner import HostPlan
from provision.runs import interrupt
from provision.steps.nginx.upstream import Drained

NO_LIMIT = 10**9


@dataclass(frozen=True)
class Pace:
    """How carefully a run goes through its hosts.

    Args:
        serial: hosts in a batch. The next batch begins after all hosts of this batch have ended.
        canary: whether a single host goes first, a gpu host if possible. The run stops if the canary fails.
        max_fail: how many hosts may fail or be unreachable before the run stops.
    """

    serial: int = NO_LIMIT
    canary: bool = False
    max_fail: int = NO_LIMIT


DEFAULT = Pace()

Selection = Sequence[tuple[Host, frozenset[str]]]
"""Hosts, each with the names of the roles to look at."""


@dataclass
class Outcome:
    """The outcome of one host.

    Args:
        host: the name of the host.
        plan: the planned changes.
        changed: ids of the changed steps.
        error: the failure, or None.
        seconds: the time spent on the host.
        drained: on a balancer, the instances drained by an operator.
        clock: a warning if the host's clock and this machine's differ; else empty.
        reloads: on a balancer, how often this run changed marks of its upstream.
        forced: why the instances that an operator forced onto their cards do not fit.
        cards: UUIDs of the cards of the host, by the read of the plan.
        down: instances that get no requests at the end of the run, though no operator drained them.
    """

    host: str
    plan: HostPlan = field(default_factory=HostPlan)
    changed: list[str] = field(default_factory=list)
    error: HostError | None = None
    seconds: float = 0.0
    drained: tuple[Drained, ...] = ()
    clock: str = ""
    reloads: int = 0
    forced: tuple[str, ...] = ()
    cards: frozenset[str] = frozenset()
    down: frozenset[str] = frozenset()

    @property
    def result(self) -> str:
        """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`."""
        return interrupt.result(self.error, changed=bool(self.changed))


def selection(inventory: Inventory, chosen: Sequence[Host], roles: frozenset[str]) -> Selection:
    """Return the hosts of a run: the chosen hosts, and hosts with late roles alone that depend on a chosen host.

    A balancer depends on the hosts whose instances are in its upstream.

    Args:
        inventory: all hosts.
        chosen: the hosts that `--limit` selects.
        roles: the roles of this run.
    """
    names = {host.name for host in chosen}
    looked_at = (
        (host, roles if host.name in names else _late(host, inventory, names, roles)) for host in inventory.hosts
    )
    return [(host, own) for host, own in looked_at if own or host.name in names]


def _late(host: Host, inventory: Inventory, names: set[str], roles: frozenset[str]) -> frozenset[str]:
    """Return the late roles of a host outside the limit that depend on a chosen host."""
    concerned = role_interface.concerned(host, inventory, roles)
    return frozenset(role for role, others in concerned.items() if others & names)
