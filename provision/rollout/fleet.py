"""The state of the fleet for the last wave: where instances listen, and which instances get requests."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from provision.apply.host_run import HostRun
from provision.errors import FactError, LockedError
from provision.plan import planner, role_interface
from provision.rollout.host_part import HostPart
from provision.rollout.members import Membership
from provision.rollout.roll import Roll
from provision.runs.context import Stopped
from provision.steps.base import BlockedError, RefusalError
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
    parallel: dict[str, int] = {}
    for host in hosts:
        if host.run.host.gpu and host.is_well and host.run.roles >= role_interface.serving():
            with caught(host):
                addresses[host.name] = listen_address(host.run.host, inventory, host.run.reader.facts)
                parallel |= requests_at_once(host.run)
    unaffected = frozenset(host.name for host in hosts if keeps_marks(host))
    drained = {key: record for host in hosts for key, record in upstream.drained(host.run.reader.upstream()).items()}
    not_ready = roll.members.labels(Membership.NOT_READY) | roll.members.unusable | _taken_away(hosts, roll)
    return FleetState(addresses, frozenset(roll.context.failed) - unaffected, unaffected, not_ready, drained, parallel)


def requests_at_once(run: HostRun) -> dict[str, int]:
    """Return label -> requests at once, of the instances of a host that take the number from the estimate: as the
    container has the number, or as a deploy would bring it.

    Args:
        run: of the host, after a read.
    """
    found: dict[str, int] = {}
    for entry in run.steps.containers:
        have = None
        with contextlib.suppress(BlockedError, FactError, KeyError):
            have = planner.parse(entry.step.fact(), run.reader.answers, entry.step.id)
        with contextlib.suppress(RefusalError):
            if number := entry.step.requests_at_once(run.reader.facts, have):
                found[label(run.host.name, entry.step.part_of)] = number
    return found


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
