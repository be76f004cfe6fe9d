"""The interface of a role, and the steps of every host in the fixed order. Pure, except for reading inventory files."""

import dataclasses
import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from provision import inventory as inventories
from provision.command import Run
from provision.errors import InventoryError, Problem, ProvisionError
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
from provision.inventory.mirrors import Outside
from provision.plan import local_files, mirrored
from provision.steps import facts
from provision.steps.base import Fact, Owned, State, Step
from provision.steps.docker import inspect
from provision.steps.facts import HostFacts


class Role(Protocol):
    """The interface of a role's module. `Settings`, `OWNED` and `steps` are required; the rest has the defaults below.
    No code outside this module asks for a role by name: the functions below answer."""

    Settings: type[inventories.Settings]
    """The settings of the role."""
    OWNED: tuple[Owned, ...]
    """The finders of everything that carries the role's mark."""
    LATE: bool = False
    """Whether the role comes in the last wave, after all other roles on all hosts, and its steps get the state of the
    fleet (`Step.in_fleet`)."""
    SERVES: bool = False
    """Whether the role checks that instances serve."""
    DECLARES_INSTANCES: bool = False
    """Whether the role declares instances of gpu hosts, as the role of an engine does. Such a role has `instances` and
    `serving`. A host has the instances of one role."""
    STARTS_CONTAINERS: bool = False
    """Whether the role starts containers. Steps that prepare the host come before the first role with containers."""
    BRINGS_MODELS: bool = False
    """Whether the role brings instances their declared models."""
    ROUTES: bool = False
    """Whether the role routes requests to instances."""
    GROUPS: tuple[str, ...] = ()
    """Groups of the inventory, beside `gpu` and `balancer`, whose hosts have steps of this role."""
    FACTS: Collection[str] = facts.PARTS
    """The costly parts of the host facts that steps of the role read."""

    @staticmethod
    def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
        """Yield the steps of the role on a host, in order; nothing if the role has no work there."""

    @staticmethod
    def instances(host_name: str, settings: Any) -> tuple[Instance, ...]:
        """Return the instances that the settings of a gpu host declare."""

    @staticmethod
    def serving(settings: Any) -> Serving:
        """Return the settings for instances on a host that are no longer declared."""

    @staticmethod
    def mirrored(settings: Any, mirrors: Any) -> Mapping[str, Any]:
        """Return setting -> address by the section `mirrors`, for settings that the inventory leaves unset."""
        return {}

    @staticmethod
    def files(host: Host, inventory: Inventory, renew_within: int) -> Any:
        """Return the content of local files, named by settings of the role; None for no file. Certificates with an end
        within `renew_within` days are made anew, and not written yet. See `plan/local_files.py`."""
        return None

    @staticmethod
    def keep(host: Host) -> str:
        """Write a new file of `files`; return the path, or an empty text."""
        return ""

    @staticmethod
    def outside(host: Host, inventory: Inventory) -> Iterable[Outside]:
        """Return the addresses outside the site that the role asks from a host."""
        return ()

    @staticmethod
    def problems(host: Host, inventory: Inventory) -> Iterable[Problem]:
        """Return the problems of a host among the rest of the fleet."""
        return ()

    @staticmethod
    def warnings(host: Host, inventory: Inventory) -> Iterable[str]:
        """Return warnings about a host among the rest of the fleet."""
        return ()

    @staticmethod
    def advice(host: Host, inventory: Inventory) -> Iterable[str]:
        """Return sentences about the settings, for `inventory check` and for a plan that changes the role."""
        return ()

    @staticmethod
    def accepted(host: Host, inventory: Inventory) -> Iterable[str]:
        """Return sentences about risks accepted by the operator, for `inventory check`, plans and `verify`."""
        return ()

    @staticmethod
    def waits_for(host: Host, inventory: Inventory) -> str:
        """Return the name of the host whose build this host needs; empty if none."""
        return ""

    @staticmethod
    def peers(host: Host, inventory: Inventory) -> Iterable[Host]:
        """Return hosts to which this host's facts include a route, beside its balancers or gpu hosts."""
        return ()

    @staticmethod
    def concerns(host: Host, inventory: Inventory) -> Iterable[Host]:
        """Of a late role: return the hosts that its steps on this host depend on. A run over any of these hosts
        includes this host."""
        return ()


@dataclass(frozen=True)
class Past:
    """Stands for the target state of an entry without a recorded state.

    Args:
        meaning: the state, in words.
    """

    meaning: str


UNSET: Final = Past("what the step wants")
PRESENT: Final = Past("what the host has, as if that were put back")


@dataclass(frozen=True)
class Entry:
    """A step with its role, and the state that a run brings about.

    Args:
        role: the role of the step.
        step: the step.
        past: the recorded state that a rollback restores, None for a thing that was absent; `UNSET` for the wanted
            state of the step; `PRESENT` for the state on the host, as if restored.
    """

    role: str
    step: Step
    past: State | Past = field(default=UNSET, repr=False)

    def fact(self) -> Fact:
        """Return the fact whose state compares with `want`."""
        return self.step.fact() if isinstance(self.past, Past) else self.step.restored_fact(self.past)

    def want(self, facts: HostFacts, have: State) -> State:
        """Return the wanted state.

        Args:
            facts: facts about the host.
            have: the state on the host.

        Raises:
            BlockedError: known only after another step.
            RefusalError: the step refuses this host, or the past state cannot be restored here.
        """
        if self.past == UNSET:
            return self.step.want(facts, have)
        past = have if isinstance(self.past, Past) else self.past
        return None if past is None else self.step.restore(facts, have, past)

    @property
    def gone(self) -> str:
        """Why the thing is removed, if it is."""
        return self.step.gone if self.past == UNSET else "was not there before"


def order() -> tuple[str, ...]:
    """Return the names of the roles, in the order in which a host runs them."""
    return cast(tuple[str, ...], importlib.import_module("provision.roles").ORDER)


def role(name: str) -> Any:
    """Return the module of a role, see `Role`. An optional attribute may be missing in the module."""
    return importlib.import_module(f"provision.roles.{name}")


def _value(name: str, attribute: str) -> Any:
    """Return an attribute of a role, or the default of `Role`. No cache: Python caches modules, so a call is quick."""
    return getattr(role(name), attribute, getattr(Role, attribute))


def _which(attribute: str) -> frozenset[str]:
    return frozenset(name for name in order() if _value(name, attribute))


def late() -> frozenset[str]:
    """Return the roles of the last wave."""
    return _which("LATE")


def serving() -> frozenset[str]:
    """Return the roles that check whether instances serve."""
    return _which("SERVES")


def routing() -> frozenset[str]:
    """Return the roles that route requests to instances."""
    return _which("ROUTES")


def bringing_models() -> frozenset[str]:
    """Return the roles that bring instances their models."""
    return _which("BRINGS_MODELS")


def declaring(host: Host) -> str:
    """Return the role whose settings declare a host's instances. The role also removes undeclared instances.

    Args:
        host: one host of the inventory.
    """
    return host.serving.engine or _of_engines()[0]


def _of_engines() -> list[str]:
    """Return the roles that declare instances, in their order."""
    return [name for name in order() if _value(name, "DECLARES_INSTANCES")]


def concerned(host: Host, inventory: Inventory, roles: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return late role -> names of the hosts that its steps on a host depend on.

    Args:
        host: one host of the inventory.
        inventory: the whole inventory.
        roles: the roles of the run. Late roles outside the run are left out.
    """
    names = late() & frozenset(roles)
    return {name: frozenset(other.name for other in _value(name, "concerns")(host, inventory)) for name in names}


def sections() -> dict[str, type[Settings]]:
    """Return every section of settings in an inventory: one for each role, and the load test."""
    return {**{name: role(name).Settings for name in order()}, "loadtest": inventories.LoadTest}


def load(path: str, overrides: Sequence[str] = (), *, served: bool = True, renew_within: int = 0) -> Inventory:
    """Read an inventory and validate all of it.

    Args:
        path: the inventory file.
        overrides: `-e` words: `role.key=value` or `@FILE`.
        served: whether every gpu host needs an instance; False for a look at hosts before anybody knows their cards.
        renew_within: days before the end of a certificate within which our authority renews it; 0 for none.

    Raises:
        InventoryError: with every problem of the inventory.
    """
    groups = frozenset(group for name in order() for group in _value(name, "GROUPS"))
    inventory = inventories.load(path, roles=sections(), overrides=overrides, groups=groups)
    inventory = inventory.replace([with_instances(host) for host in inventory.hosts])
    inventory = local_files.read(inventory, {name: _value(name, "files") for name in order()}, renew_within)
    warnings = [text for texts in _sentences("warnings", inventory).values() for text in texts]
    inventory = inventory.replace(inventory.hosts, *dict.fromkeys(warnings))
    problems = list(_fleet_problems(inventory, served=served))
    if problems:
        raise InventoryError(problems, inventory.warnings)
    advice, accepted = (_sentences(name, inventory) for name in ("advice", "accepted"))
    return dataclasses.replace(inventory, advice=advice, accepted=accepted)


def with_instances(host: Host) -> Host:
    """Return the host with the addresses of its mirrors, its declared instances, and the settings for undeclared
    instances.

    Args:
        host: a host as the inventory's loader makes it, with the settings of every role.
    """
    host = mirrored.resolved(host, {name: _value(name, "mirrored") for name in order()})
    declared = _declared(host)
    name = next((name for name, instances in declared.items() if instances), _of_engines()[0])
    undeclared: Serving = role(name).serving(host.settings[name])
    return dataclasses.replace(host, instances=declared.get(name, ()), undeclared=undeclared)


def _declared(host: Host) -> dict[str, tuple[Instance, ...]]:
    """Role -> the instances that a host declares by the settings of that role."""
    names = _of_engines() if host.gpu else []
    return {name: role(name).instances(host.name, host.settings[name]) for name in names}


def _sentences(attribute: str, inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """Return role -> its sentences about all hosts, each sentence once; roles without a sentence are left out."""
    texts = {
        name: dict.fromkeys(text for host in inventory.hosts for text in _value(name, attribute)(host, inventory))
        for name in order()
    }
    return {name: tuple(sentences) for name, sentences in texts.items() if sentences}


def _fleet_problems(inventory: Inventory, *, served: bool) -> Iterator[Problem]:
    for host in inventory.hosts:
        for name in order():
            yield from _value(name, "problems")(host, inventory)
        if served and host.gpu and not host.instances:
            yield host.problem(declaring(host), ("instances",), f"{host.name} is in the group gpu and has no instance")
        several = [name for name, instances in _declared(host).items() if instances]
        for name in several[1:]:
            problem = (
                f"{host.name} has instances of {several[0]} too: a host serves with one engine, so remove one list"
            )
            yield host.problem(name, ("instances",), problem)


def steps(host: Host, inventory: Inventory) -> tuple[Entry, ...]:
    """Return every step of a host, in order.

    Args:
        host: one host of the inventory.
        inventory: the whole inventory: upstream and firewall depend on all of it.

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
    """Move the steps that prepare the host before the first role that starts containers."""
    starting = _which("STARTS_CONTAINERS")
    start = next((number for number, entry in enumerate(entries) if entry.role in starting), len(entries))
    early = [entry for entry in entries[start:] if entry.step.prepares_host]
    return [*entries[:start], *early, *(entry for entry in entries[start:] if not entry.step.prepares_host)]


def owned() -> tuple[tuple[str, Owned], ...]:
    """Return the finders of everything that carries our mark, last role first: a dependent goes before its base."""
    return tuple((name, finder) for name in reversed(order()) for finder in role(name).OWNED)


def facts_command(host: Host, inventory: Inventory, parts: Collection[str] = facts.PARTS) -> Run:
    """Return the command that reads a host's facts, with routes to its balancers or gpu hosts, and to its roles' peers.

    Args:
        host: one host of the inventory.
        inventory: the whole inventory.
        parts: the costly parts to read, see `facts.PARTS`; a host without cards has none.
    """
    peers = (peer for name in order() for peer in _value(name, "peers")(host, inventory) if peer.name != host.name)
    others = (*topology.counterparts(host, inventory), *peers)
    addresses = dict.fromkeys(other.connection.address for other in others)
    chosen = frozenset(parts) if host.gpu else frozenset()
    return facts.command(tuple(addresses), duration_seconds(shared_settings.toolkit(host).smi_timeout), chosen)


def facts_needed(
    host: Host, inventory: Inventory, roles: Collection[str], others: Collection[Run], *, guards: bool
) -> Run:
    """Return the command that reads a host's facts, limited to the parts that some roles read (`FACTS`, or all parts).

    Args:
        host: one host of the inventory.
        inventory: the whole inventory.
        roles: names of roles.
        others: commands in the same read. The read of Docker also tells where containers are published.
        guards: whether the guards of the host are read too.
    """
    parts = {part for name in roles for part in _value(name, "FACTS")}
    parts |= {facts.CARDS, facts.AT_FIRST} if guards else set()
    parts -= {facts.PUBLISHED, facts.AT_FIRST} if inspect.command() in others else set()
    return facts_command(host, inventory, parts)


def waiting(inventory: Inventory, roles: Collection[str]) -> Mapping[str, str]:
    """Return host -> the host to wait for, because that host builds for both.

    Args:
        inventory: all hosts.
        roles: the roles of this run. Nobody waits for a role outside the run.
    """
    pairs = (
        (host, _value(name, "waits_for")(host, inventory))
        for name in order()
        if name in roles
        for host in inventory.hosts
    )
    return {host.name: maker for host, maker in pairs if maker not in ("", host.name)}
