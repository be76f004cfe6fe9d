"""From an inventory to every host's steps, in the fixed order. Pure but for reading the inventory's files."""

import dataclasses
import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from provision import inventory as inventories
from provision.command import Run
from provision.errors import InventoryError, Problem, ProvisionError, UsageError
from provision.inventory import Host, Instance, Inventory, Settings, duration_seconds, shared_settings, topology
from provision.steps import facts
from provision.steps.base import Owned, Step

BUILDS = "nginx"  # the role whose work one host may do for others
CONTAINERS = "ollama"  # the first role that starts containers
INSTANCES = frozenset({"ollama", "models"})  # the roles that look at whether instances serve
LAST = ("balancer",)  # roles that need to know how it went on the other hosts


@dataclass(frozen=True)
class Entry:
    """A step in its place.

    Args:
        role: the role it belongs to.
        step: the step.
    """

    role: str
    step: Step


def order() -> tuple[str, ...]:
    """The role names, in the order in which a host goes through them."""
    return cast(tuple[str, ...], importlib.import_module("provision.roles").ORDER)


def role(name: str) -> Any:
    """A role's module: has `Settings`, `steps(host, inventory)` and `OWNED`, and may have `problems(host, inventory)`
    and `warnings(host, inventory)`, for what is wrong, or looks wrong, with a host among the others."""
    return importlib.import_module(f"provision.roles.{name}")


def sections() -> dict[str, type[Settings]]:
    """Every section of settings an inventory may have: one for each role, and that of the load test."""
    return {**{name: role(name).Settings for name in order()}, "loadtest": inventories.LoadTest}


def load(path: str, overrides: Sequence[str] = ()) -> Inventory:
    """Read an inventory and validate all of it.

    Args:
        path: the inventory file.
        overrides: `-e` words: `role.key=value` or `@FILE`.

    Raises:
        InventoryError: with every problem found.
    """
    inventory = inventories.load(path, roles=sections(), overrides=overrides)
    inventory = inventory.replace([with_instances(host) for host in inventory.hosts])
    inventory = inventory.replace(inventory.hosts, *_warnings(inventory))
    problems = list(_fleet_problems(inventory))
    if problems:
        raise InventoryError(problems)
    return inventory


def with_instances(host: Host) -> Host:
    """Return the host with the instances that its settings declare, and with what holds for undeclared ones.

    Args:
        host: a host as the inventory's loader makes it, with the settings of every role.
    """
    engine, settings = role(CONTAINERS), host.settings[CONTAINERS]
    instances: tuple[Instance, ...] = engine.instances(host.name, settings) if host.gpu else ()
    return dataclasses.replace(host, instances=instances, undeclared=engine.serving(settings))


def _warnings(inventory: Inventory) -> list[str]:
    """What the roles have to say about the hosts, each sentence once."""
    said: dict[str, None] = {}
    for name in order():
        for host in inventory.hosts:
            speak = getattr(role(name), "warnings", lambda host, inventory: ())
            said.update(dict.fromkeys(speak(host, inventory)))
    return list(said)


def _fleet_problems(inventory: Inventory) -> Iterator[Problem]:
    for host in inventory.hosts:
        for name in order():
            yield from getattr(role(name), "problems", lambda host, inventory: ())(host, inventory)
        if host.gpu and not host.instances:
            yield host.problem("ollama", ("instances",), f"{host.name} is in the group gpu and has no instance")


def steps(host: Host, inventory: Inventory) -> tuple[Entry, ...]:
    """Every step of a host, in order.

    Args:
        host: one host of the inventory.
        inventory: the whole inventory: upstream and firewall come from all of it.

    Raises:
        ProvisionError: two steps have the same id, which is a bug of a role.
    """
    entries = [Entry(name, step) for name in order() for step in role(name).steps(host, inventory)]
    entries = _prepared(entries)
    ids = [entry.step.id for entry in entries]
    doubled = {step_id for step_id in ids if ids.count(step_id) > 1}
    if doubled:
        raise ProvisionError(f"steps of {host.name} with the same id: {', '.join(sorted(doubled))}")
    return tuple(entries)


def _prepared(entries: list[Entry]) -> list[Entry]:
    """The entries with what prepares the host before the first role that starts containers."""
    start = next((number for number, entry in enumerate(entries) if entry.role == CONTAINERS), len(entries))
    early = [entry for entry in entries[start:] if entry.step.prepares_host]
    return [*entries[:start], *early, *(entry for entry in entries[start:] if not entry.step.prepares_host)]


def owned() -> tuple[tuple[str, Owned], ...]:
    """The finders of everything that carries our mark, last role first: what depends is removed before its base."""
    return tuple((name, finder) for name in reversed(order()) for finder in role(name).OWNED)


def facts_command(host: Host, inventory: Inventory) -> Run:
    """The command that reads a host's facts, with its way to the addresses of its balancers, or of its gpu hosts.

    Args:
        host: one host of the inventory.
        inventory: all of it.
    """
    addresses = dict.fromkeys(other.connection.address for other in topology.counterparts(host, inventory))
    return facts.command(tuple(addresses), duration_seconds(shared_settings.toolkit(host).smi_timeout))


def waiting(inventory: Inventory, roles: Collection[str]) -> Mapping[str, str]:
    """Host -> the other host that alone may compile its nginx (`nginx.build_host`), and that it has to wait for.

    Args:
        inventory: all hosts.
        roles: the roles of this run; without nginx nobody waits.
    """
    found = {}
    for host in inventory.hosts if BUILDS in roles else ():
        settings = shared_settings.nginx(host)
        named = settings.build_host if settings.build == "once" and topology.is_balancing(host, inventory) else ""
        if named not in ("", host.name):
            found[host.name] = named
    return found


def choose(tags: Sequence[str], skip: Sequence[str]) -> frozenset[str]:
    """The role names that `--tags` and `--skip-tags` leave.

    Args:
        tags: role names, or words of them separated by commas; all roles for none.
        skip: likewise, taken away.

    Raises:
        UsageError: a name that is no role's.
    """
    return frozenset(_names(tags) or order()) - frozenset(_names(skip))


def _names(words: Sequence[str]) -> list[str]:
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    for name in names:
        if name not in order():
            raise UsageError(f"no such role: {name}", f"roles are {', '.join(order())}")
    return names
