"""Public names of models (`ollama.traffic`): which instance carries a name for which version, and the checks."""

from collections.abc import Iterator, Mapping, Sequence

from provision.errors import Problem
from provision.inventory import Host, Inventory
from provision.inventory.model import Carried
from provision.inventory.settings import KeyPath
from provision.inventory.topology import balancers, sources
from provision.steps.ollama.server_state import canonical

WHOLE = 100  # percent
Traffic = Mapping[str, Mapping[str, int]]
"""Public name -> version -> percent, as the inventory has the names."""


def known(name: str) -> str:
    """Return the one form of a name: Ollama takes a name in any case.

    Args:
        name: of a model, or public.
    """
    return canonical(name).lower()


def carried(traffic: Traffic, models: tuple[str, ...]) -> tuple[Carried, ...]:
    """Return the public names that an instance carries.

    Args:
        traffic: public name -> version -> percent.
        models: the models of the instance.
    """
    own = {known(model): model for model in models}
    return tuple(
        Carried(name, own[known(version)], percent)
        for name, versions in traffic.items()
        for version, percent in versions.items()
        if known(version) in own
    )


def problems(traffic: Traffic) -> Iterator[tuple[KeyPath, str]]:
    """Yield shares that do not add up, and names that have two meanings, with the path below `ollama`.

    Args:
        traffic: public name -> version -> percent.
    """
    public: dict[str, str] = {}
    for name, versions in traffic.items():
        other = public.setdefault(known(name), name)
        if other != name:
            yield ("traffic", name), f"is the name {other} in another spelling"
        total = sum(versions.values())
        if total != WHOLE:
            yield ("traffic", name), f"has shares of {total} together, and they must be {WHOLE}: write percents"
        seen: dict[str, str] = {}
        for version in versions:
            first = seen.setdefault(known(version), version)
            if first != version:
                yield ("traffic", name, version), f"is the version {first} in another spelling"
    for name, versions in traffic.items():
        for version in versions:
            if known(version) in public and known(version) != known(name):
                yield ("traffic", name, version), "is a public name itself: write its versions here"


def of_instance(traffic: Traffic, models: tuple[str, ...], name: str) -> Iterator[tuple[KeyPath, str]]:
    """Yield public names that would have two meanings on an instance, with the path below `ollama`.

    Args:
        traffic: public name -> version -> percent.
        models: the models of the instance.
        name: name of the instance.
    """
    own = {known(model): model for model in models}
    for public, versions in traffic.items():
        found = [own[known(version)] for version in versions if known(version) in own]
        if len(found) > 1:
            told = f"stands for one model of an instance, and {name} has {' and '.join(found)}"
            yield ("traffic", public), told
        elif known(public) in own and own[known(public)] not in found:
            what = f"and carries the name for {found[0]}" if found else "and is no version"
            yield (
                ("traffic", public),
                f"is a model of {name} too, {what}: remove the model from {name}, or make it a version",
            )


def of_fleet(host: Host, inventory: Inventory, traffic: Mapping[str, Traffic]) -> Iterator[Problem]:
    """Yield versions without an instance, hosts that disagree behind a balancer, and a key in vain.

    Args:
        host: any host. The first gpu host behind a balancer answers for all.
        inventory: the whole inventory.
        traffic: name of a host -> its public names, of the hosts with instances and of this host.
    """
    if not host.instances and traffic[host.name] and not any(traffic[other] for other in traffic if other != host.name):
        told = f"has no effect on {host.name}, which has no instances: write the key for the hosts with instances"
        yield host.problem("ollama", ("traffic",), told)
    for balancer in balancers(host, inventory):
        hosts = [source for source in sources(balancer, inventory) if source.instances]
        if host.name not in {other.name for other in hosts}:
            continue
        first = traffic[hosts[0].name]
        if _plain(traffic[host.name]) != _plain(first):
            yield host.problem(
                "ollama",
                ("traffic",),
                f"differs from ollama.traffic of {hosts[0].name}, and both are behind {balancer.name}: write the key"
                " once for all hosts",
            )
        if host.name == hosts[0].name:
            yield from _unserved(host, hosts, balancer, first)
        return


def _plain(traffic: Traffic) -> dict[str, dict[str, int]]:
    return {known(name): {known(each): share for each, share in of.items()} for name, of in traffic.items()}


def _unserved(host: Host, hosts: Sequence[Host], balancer: Host, traffic: Traffic) -> Iterator[Problem]:
    """Yield the versions without an instance behind a balancer."""
    models = {known(model) for other in hosts for instance in other.instances for model in instance.models}
    for name, versions in traffic.items():
        for version in versions:
            if known(version) not in models:
                told = f"is a model of no instance behind {balancer.name}; add the model to one, or remove the version"
                yield host.problem("ollama", ("traffic", name, version), told)
