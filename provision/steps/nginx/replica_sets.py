"""Replica sets: the instances behind a balancer, grouped by the models that they serve. Pure.

Each replica set is an upstream of nginx, and nginx counts the requests of an instance in each upstream apart
(ngx_http_upstream_zone_module.c: each upstream has a zone of its own). So an instance in several replica sets has a
share of its limit in each.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from provision.steps.nginx.traffic_shares import Traffic, greatest, version_of, weights


@dataclass(frozen=True)
class ReplicaSet:
    """The instances that serve the same models: an upstream of nginx.

    Args:
        models: names of the models, canonical and in lower case; empty for instances without a declared model.
        labels: labels (`HOST/INSTANCE`) of the instances, in the order of their lines.
        shares: version and percent, where the models are public names of several models; empty for ordinary models.
        weights: weights of the instances, in the order of the labels; empty for the instances' own weights.
        pool: the pool whose clients alone reach the instances; empty for the common pool.
        site: the other site of the instances, which serve where no instance of the balancer's site can; empty for the
            balancer's site.
    """

    models: tuple[str, ...]
    labels: tuple[str, ...]
    shares: tuple[tuple[str, int], ...] = ()
    weights: tuple[int, ...] = ()
    pool: str = ""
    site: str = ""

    def version(self, models: Sequence[str]) -> str:
        """Return the version of an instance in a replica set with shares; empty where the instance has none.

        Args:
            models: the names that the instance serves.
        """
        return version_of(models, self.models, list(dict(self.shares)))


def replica_sets(
    served: Mapping[str, Sequence[str]],
    traffic: Traffic = MappingProxyType({}),
    own: Mapping[str, int] = MappingProxyType({}),
    balancing: str = "",
    pools: Mapping[str, str] = MappingProxyType({}),
    sites: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ReplicaSet, ...]:
    """Return the replica sets of some instances. Models with the same instances share a replica set.

    Each pool has replica sets of its own at each site. Those of the balancer's site come first, and there those of the
    common pool. In a pool, the replica set of the first model comes first, and instances without models come last. An
    instance that answers to a public name by a version without a share is left out of the replica set of the public
    name.

    Args:
        served: label -> names of the models, canonical and in lower case.
        traffic: the versions of public names.
        own: label -> the instance's own weight; 1 where unknown.
        balancing: the method of the balancer, as nginx's directive.
        pools: label -> pool, of instances outside of the common pool.
        sites: label -> site, of instances outside of the balancer's site.
    """
    place = {label: (sites.get(label, ""), pools.get(label, "")) for label in served}
    places = sorted(dict.fromkeys([("", ""), *place.values()]), key=lambda site_and_pool: bool(site_and_pool[0]))
    return tuple(
        dataclasses.replace(replicas, site=site, pool=pool)
        for site, pool in places
        for members in [{label: models for label, models in served.items() if place[label] == (site, pool)}]
        for replicas in _replica_sets(members, traffic, own, balancing)
    )


def _replica_sets(
    served: Mapping[str, Sequence[str]], traffic: Traffic, own: Mapping[str, int], balancing: str
) -> tuple[ReplicaSet, ...]:
    """Return the replica sets of the instances of a pool."""
    instances: dict[str, list[str]] = {}
    for label, models in served.items():
        for model in dict.fromkeys(models):
            if model not in traffic or version_of(models, [model], list(traffic[model])):
                instances.setdefault(model, []).append(label)
    models_of: dict[tuple[tuple[str, ...], tuple[tuple[str, int], ...]], list[str]] = {}
    for model, labels in instances.items():
        models_of.setdefault((tuple(labels), tuple(traffic.get(model, {}).items())), []).append(model)
    idle = tuple(label for label, models in served.items() if not models)
    sets = [_divided(tuple(models), *key, served, own, balancing) for key, models in models_of.items()]
    return (*sets, *([ReplicaSet((), idle)] if idle else []))


def _divided(
    models: tuple[str, ...],
    labels: tuple[str, ...],
    shares: tuple[tuple[str, int], ...],
    served: Mapping[str, Sequence[str]],
    own: Mapping[str, int],
    balancing: str,
) -> ReplicaSet:
    """Return a replica set, with weights where several versions have shares."""
    plain = ReplicaSet(models, labels, shares)
    if len(shares) < 2:
        return plain
    members = [(plain.version(served[label]), own.get(label, 1)) for label in labels]
    limit = greatest(balancing, len(members))
    return ReplicaSet(models, labels, shares, weights(members, dict(shares), limit))


def models_of(sets: Sequence[ReplicaSet]) -> dict[str, tuple[str, ...]]:
    """Return label -> models, of the instances in some replica sets.

    Args:
        sets: all replica sets of a balancer.
    """
    served: dict[str, tuple[str, ...]] = {}
    for replicas in sets:
        for label in replicas.labels:
            served[label] = (*served.get(label, ()), *replicas.models)
    return served


def pools_of(sets: Sequence[ReplicaSet]) -> dict[str, str]:
    """Return label -> pool, of the instances in some replica sets; an empty text is the common pool.

    Args:
        sets: all replica sets of a balancer.
    """
    return {label: replicas.pool for replicas in sets for label in replicas.labels}


def sites_of(sets: Sequence[ReplicaSet]) -> dict[str, str]:
    """Return label -> site, of the instances in some replica sets; an empty text is the balancer's site.

    Args:
        sets: all replica sets of a balancer.
    """
    return {label: replicas.site for replicas in sets for label in replicas.labels}


def models_without_carried(sets: Sequence[ReplicaSet]) -> dict[str, tuple[str, ...]]:
    """Return label -> models, without the public names that another model of the instance carries.

    Args:
        sets: all replica sets of a balancer.
    """
    served = models_of(sets)
    carried = {
        (label, name)
        for replicas in sets
        for label in (replicas.labels if replicas.shares else ())
        for name in replicas.models
        if replicas.version(served[label]) != name
    }
    return {label: tuple(name for name in models if (label, name) not in carried) for label, models in served.items()}


def common(replicas: ReplicaSet, sets: Sequence[ReplicaSet]) -> tuple[str, ...]:
    """Return the models that every instance of a replica set serves.

    Args:
        replicas: the replica set.
        sets: all replica sets of the balancer.
    """
    labels = set(replicas.labels)
    return tuple(model for other in sets if labels <= set(other.labels) for model in other.models)


def are_alike(replicas: ReplicaSet, sets: Sequence[ReplicaSet]) -> bool:
    """Return whether all instances of a replica set serve the same models, so that any of them answers for all.

    Args:
        replicas: the replica set.
        sets: all replica sets of the balancer.
    """
    labels = set(replicas.labels)
    return all(labels <= set(other.labels) or labels.isdisjoint(other.labels) for other in sets)


def share(limit: int, place: int, count: int) -> int:
    """Return the requests at once that an instance may have in one of its replica sets.

    All shares of an instance together are its limit.

    Args:
        limit: requests at once of the instance; 0 for no limit.
        place: which of its replica sets, from 0 on.
        count: how many replica sets the instance is in. A limit below this number gives each a single request.
    """
    return max(limit // count + (place < limit % count), 1) if limit else 0
