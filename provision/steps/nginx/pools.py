"""Pools: the instances behind a balancer, grouped by the models that they serve. Pure.

nginx counts the requests of an instance in each upstream apart (ngx_http_upstream_zone: each upstream has a zone of its
own). So an instance in several pools has a share of its limit in each pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pool:
    """The instances that serve the same models: an upstream of nginx.

    Args:
        models: names of the models, canonical and in lower case; empty for instances without a declared model.
        labels: labels (`HOST/INSTANCE`) of the instances, in the order of their lines.
    """

    models: tuple[str, ...]
    labels: tuple[str, ...]


def pools_of(served: Mapping[str, Sequence[str]]) -> tuple[Pool, ...]:
    """Return the pools of some instances: the pool of the first model first, instances without models last.

    Models with the same instances share a pool.

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
    pools = [Pool(tuple(models), labels) for labels, models in models_of.items()]
    return (*pools, *([Pool((), idle)] if idle else []))


def models_of(pools: Sequence[Pool]) -> dict[str, tuple[str, ...]]:
    """Return label -> models, of the instances in some pools.

    Args:
        pools: all pools of a balancer.
    """
    served: dict[str, tuple[str, ...]] = {}
    for pool in pools:
        for label in pool.labels:
            served[label] = (*served.get(label, ()), *pool.models)
    return served


def common(pool: Pool, pools: Sequence[Pool]) -> tuple[str, ...]:
    """Return the models that every instance of a pool serves.

    Args:
        pool: the pool.
        pools: all pools of the balancer.
    """
    labels = set(pool.labels)
    return tuple(model for other in pools if labels <= set(other.labels) for model in other.models)


def are_alike(pool: Pool, pools: Sequence[Pool]) -> bool:
    """Return whether all instances of a pool serve the same models, so that any instance answers for the pool.

    Args:
        pool: the pool.
        pools: all pools of the balancer.
    """
    labels = set(pool.labels)
    return all(labels <= set(other.labels) or labels.isdisjoint(other.labels) for other in pools)


def share(limit: int, place: int, count: int) -> int:
    """Return the requests at once that an instance may have in one of its pools. All shares together are the limit.

    Args:
        limit: requests at once of the instance; 0 for no limit.
        place: which of its pools, from 0 on.
        count: how many pools the instance is in. A limit below this number gives each pool a single request.
    """
    return max(limit // count + (place < limit % count), 1) if limit else 0
