"""What a run is asked for, and what becomes of its hosts."""

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
        serial: hosts at a time; the next ones begin when these have ended.
        canary: whether one host goes first and alone, if it can a gpu host; the others only if all is well there.
        max_fail: so many hosts may fail or be unreachable; with one more the run stops.
    """

    serial: int = NO_LIMIT
    canary: bool = False
    max_fail: int = NO_LIMIT


DEFAULT = Pace()

Selection = Sequence[tuple[Host, frozenset[str]]]
"""Hosts, each with the names of the roles that are looked at there."""


@dataclass
class Outcome:
    """What became of one host.

    Args:
        host: its name.
        plan: what was to change.
        changed: ids of the steps that were changed.
        error: what failed, or None.
        seconds: how long it took.
        drained: on a balancer, the instances that an operator keeps out.
        clock: a warning if the host's clock and this machine's differ; else empty.
    """

    host: str
    plan: HostPlan = field(default_factory=HostPlan)
    changed: list[str] = field(default_factory=list)
    error: HostError | None = None
    seconds: float = 0.0
    drained: tuple[Drained, ...] = ()
    clock: str = ""

    @property
    def result(self) -> str:
        """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`."""
        return interrupt.result(self.error, changed=bool(self.changed))


def selection(inventory: Inventory, chosen: Sequence[Host], roles: frozenset[str]) -> Selection:
    """The hosts of a run: those chosen, and for late roles alone those whose part tells of a chosen one.

    A balancer whose upstream has instances of a chosen host is one of the latter.

    Args:
        inventory: all hosts.
        chosen: what `--limit` left.
        roles: the roles of this run.
    """
    names = {host.name for host in chosen}
    looked_at = (
        (host, roles if host.name in names else _late(host, inventory, names, roles)) for host in inventory.hosts
    )
    return [(host, own) for host, own in looked_at if own or host.name in names]


def _late(host: Host, inventory: Inventory, names: set[str], roles: frozenset[str]) -> frozenset[str]:
    """The late roles of a host that is not chosen, whose part tells of a host that is."""
    concerned = role_interface.concerned(host, inventory, roles)
    return frozenset(role for role, others in concerned.items() if others & names)
