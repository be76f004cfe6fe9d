"""From an inventory to every host's steps, in the fixed order. Pure but for reading the inventory's files."""

import dataclasses
import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from provision import inventory as inventories
from provision.command import Run
from provision.errors import InventoryError, Problem, ProvisionError, UsageError
from provision.inventory import (
    Host,
    Instance,
    Inventory,
    Serving,
    Settings,
    duration_seconds,
    shared_settings,
    topology,
)
from provision.steps import facts
from provision.steps.base import Fact, Owned, State, Step
from provision.steps.docker.inspect import COMMAND
from provision.steps.facts import HostFacts


class Role(Protocol):
    """What the module of a role says. It has `Settings`, `OWNED` and `steps`; of the rest it may leave out whatever is
    the same as here. Nobody else names a role to say what it is: the functions of this module tell."""

    Settings: type[inventories.Settings]
    """What an operator may set."""
    OWNED: tuple[Owned, ...]
    """The finders of everything that carries the role's mark."""
    LATE: bool = False
    """Whether it comes in the last wave, after all other roles on all hosts, and is told what became of these
    (`HostFacts.fleet`)."""
    SERVES: bool = False
    """Whether it looks at whether instances serve."""
    DECLARES_INSTANCES: bool = False
    """Whether the instances of gpu hosts are its own; exactly one role says so, and has `instances` and `serving`."""
    STARTS_CONTAINERS: bool = False
    """Whether it starts containers: what prepares the host comes before the first role that does."""
    BRINGS_MODELS: bool = False
    """Whether it brings instances the models that are declared."""
    ROUTES: bool = False
    """Whether it says which instances get requests."""
    GROUPS: tuple[str, ...] = ()
    """Groups of the inventory, beside those of every inventory, whose hosts are worked on for this role."""
    FACTS: Collection[str] = facts.PARTS
    """The parts of the host facts that its steps look at."""

    @staticmethod
    def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
        """The steps of the role on a host, in order; none where it has nothing to do."""

    @staticmethod
    def instances(host_name: str, settings: Any) -> tuple[Instance, ...]:
        """The instances that a gpu host declares by these settings of the role."""

    @staticmethod
    def serving(settings: Any) -> Serving:
        """What holds for instances that are on a host and not declared any more."""

    @staticmethod
    def problems(host: Host, inventory: Inventory) -> Iterable[Problem]:
        """What is wrong with a host among the others."""
        return ()

    @staticmethod
    def warnings(host: Host, inventory: Inventory) -> Iterable[str]:
        """What looks wrong with a host among the others."""
        return ()

    @staticmethod
    def waits_for(host: Host, inventory: Inventory) -> str:
        """The name of the other host that alone makes what this host needs; empty if there is none."""
        return ""

    @staticmethod
    def peers(host: Host, inventory: Inventory) -> Iterable[Host]:
        """The hosts, beside its balancers or its gpu hosts, the way to which is among this host's facts."""
        return ()

    @staticmethod
    def concerns(host: Host, inventory: Inventory) -> Iterable[Host]:
        """Of a late role: the hosts that its part on this host tells of. A run over one of them includes this part."""
        return ()


@dataclass(frozen=True)
class Past:
    """Stands for the state that an entry is brought to, where no recorded state is given.

    Args:
        meaning: which state that is.
    """

    meaning: str


UNSET: Final = Past("what the step wants")
PRESENT: Final = Past("what the host has, as if that were put back")


@dataclass(frozen=True)
class Entry:
    """A step in its place, with the state that a run brings it to.

    Args:
        role: the role it belongs to.
        step: the step.
        past: the recorded state that a rollback puts back, None for a thing that was not there; `UNSET` for what the
            step wants; `PRESENT` for the state that the host has, as if that were put back.
    """

    role: str
    step: Step
    past: State | Past = field(default=UNSET, repr=False)

    def fact(self) -> Fact:
        """How to read the state, so that it compares with `want`."""
        return self.step.fact() if isinstance(self.past, Past) else self.step.restored_fact(self.past)

    def want(self, facts: HostFacts, have: State) -> State:
        """The wanted state.

        Args:
            facts: what is known of the host.
            have: what was found.

        Raises:
            BlockedError: known only after another step.
            RefusalError: this host must not be touched, or the past state cannot be put back on it.
        """
        if self.past == UNSET:
            return self.step.want(facts, have)
        past = have if isinstance(self.past, Past) else self.past
        return None if past is None else self.step.restore(facts, have, past)

    @property
    def gone(self) -> str:
        """Why the thing is removed, where it is."""
        return self.step.gone if self.past == UNSET else "was not there before"


def order() -> tuple[str, ...]:
    """The role names, in the order in which a host goes through them."""
    return cast(tuple[str, ...], importlib.import_module("provision.roles").ORDER)


def role(name: str) -> Any:
    """A role's module, see `Role`; an optional attribute may be missing there."""
    return importlib.import_module(f"provision.roles.{name}")


def _said(name: str, attribute: str) -> Any:
    """An attribute of a role, or the default of `Role`. Not kept: Python keeps the modules, and that is quick."""
    return getattr(role(name), attribute, getattr(Role, attribute))


def _which(attribute: str) -> frozenset[str]:
    return frozenset(name for name in order() if _said(name, attribute))


def late() -> frozenset[str]:
    """The roles of the last wave."""
    return _which("LATE")


def serving() -> frozenset[str]:
    """The roles that look at whether instances serve."""
    return _which("SERVES")


def routing() -> frozenset[str]:
    """The roles that say which instances get requests."""
    return _which("ROUTES")


def bringing_models() -> frozenset[str]:
    """The roles that bring instances their models."""
    return _which("BRINGS_MODELS")


def declaring() -> str:
    """The role whose settings declare the instances, and which removes those that are not declared any more."""
    (name,) = _which("DECLARES_INSTANCES")
    return name


def concerned(host: Host, inventory: Inventory, roles: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Late role -> the names of the hosts that its part on a host tells of.

    Args:
        host: one host of the inventory.
        inventory: all of it.
        roles: the roles of the run; others are left out.
    """
    names = late() & frozenset(roles)
    return {name: frozenset(other.name for other in _said(name, "concerns")(host, inventory)) for name in names}


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
    groups = frozenset(group for name in order() for group in _said(name, "GROUPS"))
    inventory = inventories.load(path, roles=sections(), overrides=overrides, groups=groups)
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
    name = declaring()
    engine, settings = role(name), host.settings[name]
    instances: tuple[Instance, ...] = engine.instances(host.name, settings) if host.gpu else ()
    return dataclasses.replace(host, instances=instances, undeclared=engine.serving(settings))


def _warnings(inventory: Inventory) -> list[str]:
    """What the roles have to say about the hosts, each sentence once."""
    said: dict[str, None] = {}
    for name in order():
        for host in inventory.hosts:
            said.update(dict.fromkeys(_said(name, "warnings")(host, inventory)))
    return list(said)


def _fleet_problems(inventory: Inventory) -> Iterator[Problem]:
    for host in inventory.hosts:
        for name in order():
            yield from _said(name, "problems")(host, inventory)
        if host.gpu and not host.instances:
            yield host.problem(declaring(), ("instances",), f"{host.name} is in the group gpu and has no instance")


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
    starting = _which("STARTS_CONTAINERS")
    start = next((number for number, entry in enumerate(entries) if entry.role in starting), len(entries))
    early = [entry for entry in entries[start:] if entry.step.prepares_host]
    return [*entries[:start], *early, *(entry for entry in entries[start:] if not entry.step.prepares_host)]


def owned() -> tuple[tuple[str, Owned], ...]:
    """The finders of everything that carries our mark, last role first: what depends is removed before its base."""
    return tuple((name, finder) for name in reversed(order()) for finder in role(name).OWNED)


def facts_command(host: Host, inventory: Inventory, parts: Collection[str] = facts.PARTS) -> Run:
    """The command that reads a host's facts, with its way to the addresses of its balancers, or of its gpu hosts,
    and of the hosts that roles call its peers.

    Args:
        host: one host of the inventory.
        inventory: all of it.
        parts: what is read beside the host itself, see `facts.PARTS`; of a host without cards nothing is.
    """
    peers = (peer for name in order() for peer in _said(name, "peers")(host, inventory) if peer.name != host.name)
    others = (*topology.counterparts(host, inventory), *peers)
    addresses = dict.fromkeys(other.connection.address for other in others)
    chosen = frozenset(parts) if host.gpu else frozenset()
    return facts.command(tuple(addresses), duration_seconds(shared_settings.toolkit(host).smi_timeout), chosen)


def facts_needed(
    host: Host, inventory: Inventory, roles: Collection[str], others: Collection[Run], *, guards: bool
) -> Run:
    """The command that reads as much of a host's facts as these roles look at: a role's `FACTS`, all where it has none.

    Args:
        host: one host of the inventory.
        inventory: all of it.
        roles: names of roles.
        others: what is read beside it. The look at Docker also says where containers are published.
        guards: whether the guards of the host are asked too.
    """
    parts = {part for name in roles for part in _said(name, "FACTS")}
    parts |= {facts.CARDS, facts.AT_FIRST} if guards else set()
    return facts_command(host, inventory, parts - ({facts.PUBLISHED, facts.AT_FIRST} if COMMAND in others else set()))


def waiting(inventory: Inventory, roles: Collection[str]) -> Mapping[str, str]:
    """Name of each host that waits for another host's build -> the name of that other host.

    Args:
        inventory: all hosts.
        roles: the roles of this run; for the work of others nobody waits.
    """
    pairs = (
        (host, _said(name, "waits_for")(host, inventory))
        for name in order()
        if name in roles
        for host in inventory.hosts
    )
    return {host.name: maker for host, maker in pairs if maker not in ("", host.name)}


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
