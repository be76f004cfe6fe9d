"""The state of the fleet for the last wave: where instances listen, and which instances get requests."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from provision.errors import LockedError
from provision.plan import role_interface
from provision.rollout.host_part import HostPart
from provision.rollout.members import Membership
from provision.rollout.roll import Roll
from provision.runs.context import Stopped
from provision.steps.fleet_state import FleetState
from provision.steps.instance.endpoint import listen_address
from provision.steps.nginx import upstream
from provision.steps.nginx.upstream import label

Caught = Callable[[HostPart], AbstractContextManager[None]]
"""A context that keeps an error with its host."""


def known(hosts: Sequence[HostPart], roll: Roll, caught: Caught) -> FleetState:
    """Return the state of the hosts whose instances this run looked at. Members of other hosts keep their marks.

    Args:
        hosts: all hosts of the run.
        roll: shared by all hosts of the run.
        caught: keeps the error of a host whose listen address is unknown.
    """
    inventory = roll.context.inventory
    addresses = {}
    for host in hosts:
        if host.run.host.gpu and host.is_well and host.run.roles >= role_interface.serving():
            with caught(host):
                addresses[host.name] = listen_address(host.run.host, inventory, host.run.reader.facts)
    unaffected = frozenset(host.name for host in hosts if keeps_marks(host))
    drained = {key: record for host in hosts for key, record in upstream.drained(host.run.reader.upstream()).items()}
    not_ready = roll.members.labels(Membership.NOT_READY) | roll.members.unusable | _taken_away(hosts, roll)
    return FleetState(addresses, frozenset(roll.context.failed) - unaffected, unaffected, not_ready, drained)


def down(host: HostPart, roll: Roll) -> frozenset[str]:
    """Return the labels of instances that get no requests at the end of a run, though no operator drained them.

    Args:
        host: a gpu host, for its own instances; or a balancer, for the instances in its upstream.
        roll: shared by all hosts of the run.
    """
    listed = upstream.members(host.run.reader.upstream())
    marked = {name for name, member in listed.items() if member.down and not member.drained}
    out = roll.members.labels(Membership.CORDONED, Membership.NOT_READY, Membership.NEW)
    own = {label(host.name, instance.name) for instance in host.run.host.instances}
    return frozenset(marked - roll.members.labels(Membership.IN)) | (out & own)


def keeps_marks(host: HostPart) -> bool:
    """Whether the members of a host keep their marks: no instance changed, or nobody knows that all of them serve.

    A run that stopped or left out roles may leave a new instance that cannot serve yet.

    Args:
        host: of the run, after its part.
    """
    error = host.outcome.error
    if error is None:
        return host.serves and not host.run.roles >= role_interface.serving()
    return isinstance(error, LockedError | Stopped) or host.run.keeps_marks(error)


def _taken_away(hosts: Sequence[HostPart], roll: Roll) -> frozenset[str]:
    """Return the labels of declared instances that a rollback removes."""
    declared = {host.name: host.instances for host in roll.context.inventory.hosts}
    return frozenset(
        label(host.name, instance.name)
        for host in hosts
        for instance in declared.get(host.name, ())
        if instance.name not in {left.name for left in host.run.host.instances}
    )
