"""Recovery: test the instances that earlier runs left out of the upstream, and admit the healthy instances.

Recovery comes first, because an instance that is out blocks others. Instances that this run changes are tested after
the change.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from provision.errors import LockedError
from provision.plan import role_interface
from provision.rollout import fleet
from provision.rollout.balancer_pool import BalancerPool
from provision.rollout.host_part import HostPart
from provision.rollout.left_out import is_left_out
from provision.rollout.roll import Roll
from provision.runs.context import Stopped
from provision.steps.base import EVERY
from provision.steps.nginx import upstream
from provision.steps.nginx.upstream import NOWHERE, Member, label


class Each(Protocol):
    """Calls `work` for hosts side by side; an error stays with its host."""

    def __call__(self, work: Callable[[HostPart], None], hosts: Sequence[HostPart]) -> None: ...


class Recovery:
    """Admits the instances that earlier runs left out, on all hosts of one run.

    Args:
        roll: shared by all hosts of the run.
        hosts: all hosts of the run.
        forks: hosts at the same time.
        each: calls a function for many hosts.
        read: reads and plans a host.
    """

    def __init__(
        self, roll: Roll, hosts: Sequence[HostPart], forks: int, each: Each, read: Callable[[HostPart], None]
    ) -> None:
        self.roll = roll
        self.hosts = hosts
        self.forks = forks
        self._each = each
        self._read = read
        self._changing: dict[HostPart, frozenset[str]] = {}  # host -> instances still to be changed, by the plan

    def recover(self, batch: Sequence[HostPart] = ()) -> None:
        """Admit every instance that was left out and passes its test.

        Args:
            batch: the hosts to change next, in their order; empty after the last batch.
        """
        if self.roll.context.stop.is_set():
            return
        self._changing = {host: host.changing for host in self.hosts}
        listed = self._listed()
        left_out = [host for host in self.hosts if self._may(host) and _has_left_out(host, listed)]
        unread = [host for host in left_out if host.planned is None]
        self._each(self._read, unread)
        self._changing |= {host: host.changing for host in unread}
        first = batch[: self.forks]

        def recover(host: HostPart) -> None:
            changing = self._changing[host] if host.serves else EVERY  # this run answers only for instances it serves
            host.traffic.left_out.recover(listed, changing, early=host not in first or not host.serves)

        self._each(recover, [host for host in left_out if host.planned is not None and self._may(host)])
        if not batch and self._is_last_wave_to_come:
            self._check(listed)

    def _check(self, listed: Mapping[str, Member]) -> None:
        """Test the instances whose address the balancers learn in the last wave, before requests arrive."""
        unknown = {key for key, member in listed.items() if member.address == NOWHERE and not member.drained}
        names = {
            host: [instance.name for instance in host.run.host.instances if label(host.name, instance.name) in unknown]
            for host in self.hosts
            if host.is_well and host.run.roles >= role_interface.serving()
        }
        self._each(lambda host: host.traffic.left_out.check(names[host]), [host for host in names if names[host]])

    def _may(self, host: HostPart) -> bool:
        """Whether instances of a host may be admitted: the host is well, or its failure left the instances as they
        were.

        A run without the roles that serve admits instances only if the run changes other instances.
        """
        if not (host.serves or (host.run.host.gpu and any(self._changing.values()))):
            return False
        error = host.outcome.error
        locked = isinstance(error, LockedError | Stopped)
        return error is None or (host.planned is not None and not locked and fleet.keeps_marks(host))

    def _listed(self) -> dict[str, Member]:
        """Return label -> member of all upstreams. A balancer without a read is asked only if the answer matters."""
        read = {host.name: host.run.reader.upstream() for host in self.hosts if host.run.reader.knows_upstream}
        pools: dict[str, BalancerPool] = {}
        for host in self.hosts:
            looks = self._changing[host] or (host.serves and not self._is_last_wave_to_come)
            if looks and host.planned is not None and self._may(host):
                pools |= {pool.host.name: pool for pool in self.roll.pools.of(host.run.host)}
        unread = [pool for name, pool in pools.items() if name not in read]
        with ThreadPoolExecutor(self.forks, thread_name_prefix="balancer") as threads:
            answers = list(threads.map(self.roll.pools.first_members, unread))
        return _merged([*(upstream.members(text) for text in read.values()), *answers])

    @property
    def _is_last_wave_to_come(self) -> bool:
        return bool(self.roll.context.roles & role_interface.routing())


def _merged(upstreams: Sequence[Mapping[str, Member]]) -> dict[str, Member]:
    """Merge upstreams: an instance that is out on one balancer counts as out."""
    merged: dict[str, Member] = {}
    for members in upstreams:
        for key, member in members.items():
            other = merged.get(key)
            if other is None or _rank(member) > _rank(other):
                merged[key] = member
    return merged


def _rank(member: Member) -> tuple[bool, bool]:
    return member.drained is not None, member.down


def _has_left_out(host: HostPart, listed: Mapping[str, Member]) -> bool:
    own = (listed.get(label(host.name, instance.name)) for instance in host.run.host.instances)
    return any(member is not None and is_left_out(member) for member in own)
