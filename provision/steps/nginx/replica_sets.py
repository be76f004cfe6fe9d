"""Replica sets: the instances behind a balancer, grouped by the models that they serve. Pure.

Each replica set is an upstream of nginx, and nginx counts the requests of an instance in each upstream apart
(ngx_http_upstream_zone_module.c: each upstream has a zone of its own). So an instance in several replica sets has a
share of its limit in each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ReplicaSet:
    """The instances that serve the same models: an upstream of nginx.

    Args:
        models: names of the models, canonical and in lower case; empty for instances without a declared model.
        labels: labels (`HOST/INSTANCE`) of the instances, in the order of their lines.
    """

    models: tuple[str, ...]
    labels: tuple[str, ...]


def replica_sets(served: Mapping[str, Sequence[str]]) -> tuple[ReplicaSet, ...]:
    """Return the replica sets of some instances. Models with the same instances share a replica set.

    The replica set of the first model comes first, and instances without models come last.

    Args:
        served: label -> names of the models, canonical and in lower case.
    """
    instances: dict[str, list[str]] = {}
    for label, models in served.items():
        for model in dict.fromkeys(models):
            instances.setdefault(model, []).append(label)
    models_of: dict[tuple[str, ...], list[str]] = {}
    for model, labels in instances.items():
        models_of.setdefault(tuple(labels), []).append(model)
    idle = tuple(label for label, models in served.items() if not models)
    sets = [ReplicaSet(tuple(models), labels) for labels, models in models_of.items()]
    return (*sets, *([ReplicaSet((), idle)] if idle else []))


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
