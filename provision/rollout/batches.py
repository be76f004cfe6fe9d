"""The order in which the hosts of a run begin, and the batches that run side by side. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from provision.errors import UsageError
from provision.inventory import share_of
from provision.rollout.host_part import HostPart
from provision.rollout.outcome import Pace


def in_order(
    hosts: Sequence[HostPart], waits: Mapping[str, str], working: Collection[str], *, canary: bool
) -> list[HostPart]:
    """Order hosts: first the canary, then hosts whose build others wait for, then the rest.

    A canary is a gpu host, because a balancer proves nothing about instances, and a host that needs no other host's
    build, because such a host could not run alone.

    Args:
        hosts: of the run, in the order of the inventory.
        waits: host -> the host whose build is waited for.
        working: names of the hosts that the run still works on.
        canary: whether a single host goes first.
    """
    free = (host for host in hosts if waits.get(host.name) not in working)
    first = next((host for host in free if canary and host.run.host.gpu), None)
    return sorted(hosts, key=lambda host: (host is not first, host.name not in waits.values()))


def batches(hosts: Sequence[HostPart], pace: Pace) -> Iterator[Sequence[HostPart]]:
    """Yield the batches: hosts that are worked on side by side.

    Args:
        hosts: in their order.
        pace: the size of a batch, and whether the first host goes alone.
    """
    first = 1 if pace.canary else 0
    if hosts[:first]:
        yield hosts[:first]
    for start in range(first, len(hosts), pace.serial):
        yield hosts[start : start + pace.serial]


def number_of_hosts(text: str, option: str, count: int, *, least: int) -> int:
    """Parse a number of hosts, or a percentage rounded down.

    Args:
        text: `3` or `25%`.
        option: the option with this text, for the error.
        count: the number of all hosts.
        least: the smallest number allowed. A percentage is never rounded below.

    Raises:
        UsageError: the text is no number of hosts.
    """
    try:
        part = share_of(text) if text.endswith("%") else None
        number = int(text) if part is None else max(least, int(count * part))
    except ValueError:
        part, number = None, -1
    if number < least or (part is not None and part > 1):
        raise UsageError(f"{option} must be a number of hosts from {least} on, or a share of them such as 25%")
    return number
