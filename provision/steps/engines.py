"""Every engine that an instance may have. A new engine is a folder beside this file, its line here, and a role."""

from provision.inventory import Host, Instance, Inventory, Serving, topology
from provision.steps.docker.probe import Probes
from provision.steps.instance.engine import Engine
from provision.steps.ollama.engine import OLLAMA

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (OLLAMA,)}
"""By name. The first is that of instances of which no engine is said."""


def probes() -> Probes:
    """What the look at Docker asks the instances of each engine."""
    return tuple(engine.probe for engine in ENGINES.values())


def of(serving: Serving) -> Engine:
    """The engine of an instance, or of a host's instances.

    Args:
        serving: the instance, or what holds for all instances of a host.
    """
    return ENGINES[serving.engine or next(iter(ENGINES))]


def behind(balancer: Host, inventory: Inventory) -> tuple[Engine, ...]:
    """The engines of the instances that a balancer sends to, each once; the first of all where it sends to none.

    Args:
        balancer: a balancer.
        inventory: all of it.
    """
    instances: list[Instance] = [one for host in topology.sources(balancer, inventory) for one in host.instances]
    return tuple(dict.fromkeys(map(of, instances))) or (of(Serving()),)
