"""In which order the hosts of a run begin, and which of them at the same time. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from provision.errors import UsageError
from provision.inventory import share_of
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


def number_of_hosts(text: str, option: str, count: int, *, least: int) -> int:
    """A number of hosts, or a share of them rounded down.

    Args:
        text: `3` or `25%`.
        option: where it was said.
        count: the hosts that there are.
        least: the smallest number that is allowed; a share is never rounded below it.

    Raises:
        UsageError: it is no number of hosts.
    """
    try:
        part = share_of(text) if text.endswith("%") else None
        number = int(text) if part is None else max(least, int(count * part))
    except ValueError:
        part, number = None, -1
    if number < least or (part is not None and part > 1):
        raise UsageError(f"{option} must be a number of hosts from {least} on, or a share of them such as 25%")
    return number
