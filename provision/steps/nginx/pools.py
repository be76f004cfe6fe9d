"""Pools and sites of members. Instances of a pool serve the clients of the pool and nobody else. Instances of another
site serve where no instance of the balancer's site can. Pure."""

from collections.abc import Mapping, Sequence

from provision.steps.base import RefusalError
from provision.steps.fleet_state import FleetState
from provision.steps.nginx.replica_sets import ReplicaSet, pools_of, sites_of
from provision.steps.nginx.upstream import InstanceRef


def of_members(
    declared: Mapping[str, str], fleet: FleetState, listed: Sequence[str], present: Sequence[ReplicaSet]
) -> dict[str, str]:
    """Return label -> pool of the members. A host that the run did not finish keeps the pools of the present.

    Args:
        declared: label -> pool by the inventory; an empty text is the common pool.
        fleet: the state of the fleet.
        listed: labels of all members.
        present: the replica sets of the present upstream; empty where unknown.
    """
    return _kept(declared, fleet, listed, pools_of(present))


def sites_of_members(
    declared: Mapping[str, str], listed: Sequence[str], present: Sequence[ReplicaSet]
) -> dict[str, str]:
    """Return label -> site of the members. A site is no state of a host, so the inventory decides for a host that the
    run did not finish too.

    Args:
        declared: label -> site by the inventory; an empty text is the balancer's site.
        listed: labels of all members.
        present: the replica sets of the present upstream, for members that the inventory does not declare.
    """
    known = sites_of(present)
    return {label: declared.get(label, known.get(label, "")) for label in listed}


def _kept(
    declared: Mapping[str, str], fleet: FleetState, listed: Sequence[str], known: Mapping[str, str]
) -> dict[str, str]:
    finished = {label for label in declared if InstanceRef.of(label).host in fleet.addresses}
    return {
        label: known[label] if label in known and label not in finished else declared.get(label, "") for label in listed
    }


def refuse_without_keys(pools: Mapping[str, str]) -> None:
    """Refuse pools of a balancer whose clients need no keys: every client would reach the instances.

    Args:
        pools: label -> pool of the members.

    Raises:
        RefusalError: an instance belongs to a pool.
    """
    if labels := [label for label, pool in pools.items() if pool]:
        hosts = sorted({InstanceRef.of(label).host for label in labels})
        raise RefusalError(
            f"{', '.join(labels)}: the balancer has the instances in a pool, and without keys every client would reach"
            f" the instances; deploy {', '.join(hosts)} in the same run, so that the instances leave the pool"
        )
