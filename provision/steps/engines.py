"""All engines of instances. A new engine is a folder beside this file, a line here, and a role."""

from provision.capacity.dimensions import Dimensions
from provision.command import Answer, Run
from provision.inventory import Host, Instance, Inventory, Serving, topology
from provision.steps.docker.probe import Probes
from provision.steps.instance.engine import Engine
from provision.steps.ollama import kept_size, measured_size, model_header
from provision.steps.ollama.engine import OLLAMA
from provision.steps.ollama.kept_size import Kept
from provision.steps.ollama.measured_size import Sizes

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (OLLAMA,)}
"""Engines by name. The first is the default."""


def probes() -> Probes:
    """Return the questions of the read of Docker to the instances of each engine."""
    return tuple(engine.probe for engine in ENGINES.values())


def dimensions(name: str) -> Dimensions:
    """Return the dimensions of a model, asked from the registry of the default engine by this machine.

    Args:
        name: of the model.

    Raises:
        UnreachableError: the registry does not answer, or has no such model.
        GuardError: the answer is no model.
    """
    return model_header.from_registry(name)


def sizes_command() -> Run:
    """Return the read-only command that asks the instances of a host for their loaded models."""
    return measured_size.command()


def sizes(answer: Answer) -> Sizes:
    """Return the loaded models of the default engine on a host, and the servers without an answer.

    Args:
        answer: to `sizes_command`.

    Raises:
        FactError: Docker does not answer.
    """
    return measured_size.sizes(answer)


def kept_sizes_command() -> Run:
    """Return the read-only command for the sizes that a host has kept of earlier loads."""
    return kept_size.command()


def kept_sizes(answer: Answer) -> tuple[Kept, ...]:
    """Return the sizes that a host has kept.

    Args:
        answer: to `kept_sizes_command`.
    """
    return kept_size.kept(answer)


def canonical(model: str) -> str:
    """Return the one form of a model's name, of the default engine."""
    return OLLAMA.canonical(model)


def of(serving: Serving) -> Engine:
    """Return the engine of an instance, or of a host's instances.

    Args:
        serving: the instance, or the settings for all instances of a host.
    """
    return ENGINES[serving.engine or next(iter(ENGINES))]


def behind(balancer: Host, inventory: Inventory) -> tuple[Engine, ...]:
    """Return the engines of a balancer's instances, each once; the default engine for a balancer without instances.

    Args:
        balancer: a balancer.
        inventory: the whole inventory.
    """
    sources = topology.sources(balancer, inventory)
    instances: list[Instance] = [instance for host in sources for instance in host.instances]
    return tuple(dict.fromkeys(map(of, instances))) or (of(Serving()),)
