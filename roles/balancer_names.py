"""The names by which clients reach the instances behind a balancer, and the shares of public names."""

from collections.abc import Sequence

from provision.inventory import Instance
from provision.steps import engines
from provision.steps.instance.engine import Engine
from provision.steps.nginx.replica_sets import ReplicaSet, models_of


def served(instance: Instance) -> tuple[str, ...]:
    """Return the names that an instance serves, canonical and in lower case: the engine takes a name in any case.

    Args:
        instance: behind a balancer.
    """
    canonical = engines.of(instance).canonical
    return tuple(dict.fromkeys(canonical(name).lower() for name in instance.names))


def traffic(instances: Sequence[Instance]) -> dict[str, dict[str, int]]:
    """Return public name -> version -> percent, canonical and in lower case.

    Args:
        instances: all instances behind a balancer.
    """
    found: dict[str, dict[str, int]] = {}
    for instance in instances:
        canonical = engines.of(instance).canonical
        for each in instance.carried:
            found.setdefault(canonical(each.name).lower(), {})[canonical(each.version).lower()] = each.share
    return found


def percents(replicas: ReplicaSet, sets: Sequence[ReplicaSet]) -> str:
    """Return the versions of a public name with their shares, in words.

    A pool need not have every version. A version without instances leaves its share to the others.

    Args:
        replicas: the replica set of the public name.
        sets: all replica sets of the balancer.
    """
    served = models_of(sets)
    own = {replicas.version(served[label]) for label in replicas.labels}
    shares = {version: percent for version, percent in replicas.shares if version in own}
    whole = sum(shares.values())
    return ", ".join(f"{version} ({percent * 100 / whole:.3g} %)" for version, percent in shares.items())


def spelled(instances: Sequence[Instance], engine: Engine) -> dict[str, str]:
    """Return model or public name, canonical and in lower case -> the first spelling in the inventory.

    Args:
        instances: all instances behind a balancer.
        engine: of the instances.
    """
    found: dict[str, str] = {}
    for model in (name for instance in instances for name in instance.names):
        found.setdefault(engine.canonical(model).lower(), model)
    return found
