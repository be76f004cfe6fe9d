"""In which order the hosts of a run begin, and which of them at the same time. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from provision.rollout.host_part import HostPart
from provision.rollout.outcome import Pace


def in_order(
    hosts: Sequence[HostPart], waits: Mapping[str, str], working: Collection[str], *, canary: bool
) -> list[HostPart]:
    """The canary, then the hosts that make what others wait for, then the others.

    A balancer proves nothing of instances, and a host that waits for another one's build cannot be alone.

    Args:
        hosts: of the run, as in the inventory.
        waits: host -> the host whose build it waits for.
        working: names of the hosts that are worked on, or will be.
        canary: whether one host goes first and alone.
    """
    free = (host for host in hosts if waits.get(host.name) not in working)
    first = next((host for host in free if canary and host.run.host.gpu), None)
    return sorted(hosts, key=lambda host: (host is not first, host.name not in waits.values()))


def batches(hosts: Sequence[HostPart], pace: Pace) -> Iterator[Sequence[HostPart]]:
    """The hosts that are worked on together, one batch after the other.

    Args:
        hosts: in their order.
        pace: how many, and whether the first of them goes alone.
    """
    first = 1 if pace.canary else 0
    if hosts[:first]:
        yield hosts[:first]
    for start in range(first, len(hosts), pace.serial):
        yield hosts[start : start + pace.serial]
