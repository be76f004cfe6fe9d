"""The upstream that a rollback restores: settings and replica sets of the past, members and marks of the present.

A rollback leaves models as they are, so an instance is where its present models are. Pure.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from provision.steps.base import RefusalError
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import upstream as marks
from provision.steps.nginx.replica_sets import ReplicaSet, models_of, models_without_carried, pools_of, sites_of
from provision.steps.nginx.upstream import NOWHERE, InstanceRef, Member, Upstream


def restored(
    past: Upstream,
    present: Mapping[str, Member],
    fleet: FleetState,
    declared: Collection[str],
    sets: Sequence[ReplicaSet] = (),
) -> Upstream:
    """Return the upstream that a rollback restores.

    Args:
        past: the upstream of the past.
        present: label -> member, of the present upstream; empty where the balancer has none.
        fleet: the state of the fleet. The run has finished the hosts in `fleet.addresses`.
        declared: labels of the instances that the inventory declares.
        sets: the present replica sets; empty for a single block of unknown models.

    Returns:
        the upstream, without drains. It lists the instances of both; instances of the present alone, unless this run
        removes the instance; and instances of the past alone, if their host was restored. An instance has its present
        place, or its past place if it gets no requests now and its host was restored. An instance is down if it is not
        ready; and if it gets no requests now, unless it is declared and its host was restored: only then was it tested.

    Raises:
        RefusalError: an instance serves models without a replica set in the past, or the versions of a public name are
            on other instances now.
    """
    old = {member.label: member for member in past.members}
    back = {name for name in {*old, *present} if InstanceRef.of(name).host in fleet.addresses}

    def stays(name: str) -> bool:
        if name not in present:
            return name in back or not present
        taken = name in fleet.not_ready or (present[name].down and name not in declared)
        return name in old or name not in back or not taken

    def member(name: str) -> Member:
        now = present.get(name) or dataclasses.replace(old[name], down=True)
        was = old.get(name, now)
        now = now.moved(was.at) if now.down and name in back and was.address != NOWHERE else now
        down = is_not_ready(name, fleet) or (now.down and not (name in back and name in declared))
        return dataclasses.replace(now, weight=was.weight, max_conns=was.max_conns, down=down, drained=None)

    listed = tuple(member(name) for name in {**old, **present} if stays(name))
    names = [each.label for each in listed]
    return dataclasses.replace(past, members=listed, sets=_sets(past, names, sets), zone=marks.zone_for(listed))


def refuse_loss(upstream: Upstream, present: Mapping[str, Member]) -> None:
    """Refuse an upstream with a replica set that loses its last serving member.

    Args:
        upstream: the restored upstream.
        present: label -> member, of the present upstream.

    Raises:
        RefusalError: a replica set would be left without a serving member.
    """
    up = {member.label for member in upstream.members if not member.down}
    serving = {name for name, member in present.items() if not member.down}
    for block in upstream.sets or (ReplicaSet((), tuple({*up, *serving})),):
        if serving & set(block.labels) and up.isdisjoint(block.labels):
            of_model = f" of {block.models[0]}" if block.models and len(upstream.sets) > 1 else ""
            raise RefusalError(
                f"no serving instance{of_model} would be left in the restored upstream: the upstream stays as it is"
            )


def is_not_ready(label: str, fleet: FleetState) -> bool:
    """Return whether this run has found an instance unable to serve.

    Args:
        label: of the instance.
        fleet: the state of the fleet.
    """
    return InstanceRef.of(label).host in fleet.failed or label in fleet.not_ready


def _sets(past: Upstream, listed: Sequence[str], present: Sequence[ReplicaSet]) -> tuple[ReplicaSet, ...]:
    """Return the replica sets of the past, with the listed members that serve their models now.

    An instance of the past has the pool and the site of the past, because only balancers know these. A replica set
    without members stays, because the routes of the past name its block.
    """
    served, own, then = models_of(present), models_without_carried(present), models_of(past.sets)
    if not past.sets:
        same = [replicas.labels for replicas in present if not replicas.weights]
        if len(present) > 1 and not any(set(listed) <= set(labels) for labels in same):
            raise _refusal(", ".join(listed))
        return ()
    pools = {**pools_of(present), **pools_of(past.sets)}
    sites = {**sites_of(present), **sites_of(past.sets)}
    sets = []
    for replicas in past.sets:
        named = (*replicas.labels, *listed)
        place = (replicas.pool, replicas.site)
        names = [name for name in named if name in listed and (pools.get(name, ""), sites.get(name, "")) == place]
        if replicas.shares:
            sets.append(_divided(replicas, names, served, then))
            continue
        serving = [name for name in names if _belongs(name, replicas, own)]
        sets.append(dataclasses.replace(replicas, labels=tuple(dict.fromkeys(serving))))
    without = [name for name in listed if all(name not in replicas.labels for replicas in sets)]
    if without:
        raise _refusal(", ".join(without))
    return tuple(sets)


def _divided(
    replicas: ReplicaSet,
    listed: Sequence[str],
    served: Mapping[str, Sequence[str]],
    then: Mapping[str, Sequence[str]],
) -> ReplicaSet:
    """Return the replica set of a public name with the shares of the past.

    Raises:
        RefusalError: an instance has another version now, or has the public name no more.
    """
    labels = [name for name in dict.fromkeys(listed) if _belongs(name, replicas, served)]
    others = [name for name in replicas.labels if name in listed and name not in labels]
    others += [
        name
        for name in labels
        if name not in replicas.labels or replicas.version(served.get(name, then[name])) != replicas.version(then[name])
    ]
    if others:
        raise RefusalError(
            f"{', '.join(others)}: {', '.join(replicas.models)} had another version there at that time, and a rollback"
            " leaves the names of models as they are; write the shares and models of that time into the inventory and"
            " deploy"
        )
    weights = dict(zip(replicas.labels, replicas.weights, strict=False))
    kept = tuple(name for name in replicas.labels if name in labels)
    return dataclasses.replace(replicas, labels=kept, weights=tuple(weights[name] for name in kept if name in weights))


def _belongs(name: str, replicas: ReplicaSet, served: Mapping[str, Sequence[str]]) -> bool:
    """Whether an instance belongs to a replica set: by its present models, or where these are unknown by its past."""
    if name not in served or not replicas.models:
        return name in replicas.labels
    return set(replicas.models) <= set(served[name])


def _refusal(names: str) -> RefusalError:
    return RefusalError(
        f"{names}: the balancer of that time had no route for the present models, and a rollback leaves models as"
        " they are; write the models of that time into the inventory and deploy"
    )
