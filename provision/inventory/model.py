"""The parts of a loaded inventory."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from provision.errors import Problem, UsageError
from provision.inventory.secret import Secret, secrets_in
from provision.inventory.settings import KeyPath, Settings
from provision.inventory.value import Value, locate

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Address, login and jump hosts of one machine.

    Args:
        address: DNS name or IP address to connect to.
        port: TCP port of sshd.
        user: login name.
        key_files: private keys to try before agent and default keys, as absolute paths; may be empty.
        password: the user's SSH password, or None.
        become: whether commands need sudo; by default true unless the user is root.
        become_password: sudo's password, or None (`password` is no substitute).
        known_hosts: files of known host keys as absolute paths, first match wins; never empty, some may not exist.
        host_key_alias: the name to look up in known_hosts instead of the address, or empty.
        connect_timeout: seconds for one connection attempt.
        timeout_factor: by how much the limits of commands on the machine are longer than usual; from 1 on.
        jumps: machines to go through, in order; each has no `jumps` of its own.
    """

    address: str
    port: int = 22
    user: str = "root"
    key_files: tuple[str, ...] = ()
    password: Secret | None = None
    become: bool = False
    become_password: Secret | None = None
    known_hosts: tuple[str, ...] = ()
    host_key_alias: str = ""
    connect_timeout: float = 10.0
    timeout_factor: int = 1
    jumps: tuple["Connection", ...] = ()


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Settings that hold for every instance of a host.

    Args:
        engine: the model server in the container, such as `ollama`; also the name of its role.
        image: reference of the container's image.
        listen_address: the declared address to listen on; empty for the address by which the host reaches its
            balancers.
        admit: addresses and networks with access, besides the balancers.
        drain_timeout: seconds to wait for streams before an instance is replaced.
        max_unavailable: how many instances of a model may be out of the upstream at once: a number, or a percentage
            such as `25%`.
        network_pool: addresses for a Docker network of each instance; empty for Docker's bridge.
        site: the site of the host; empty where the inventory has no sites.
    """

    engine: str = ""
    image: str = ""
    listen_address: str = ""
    admit: tuple[str, ...] = ()
    drain_timeout: float = 0.0
    max_unavailable: int | str = 1
    network_pool: str = ""
    site: str = ""


@dataclass(frozen=True)
class Carried:
    """A public name that a model of an instance carries beside its own name.

    Args:
        name: the name for clients, as the inventory has the name.
        version: the model, as `Instance.models` has the name.
        share: percent of the requests for the public name that all instances with the version get together.
    """

    name: str
    version: str
    share: int


@dataclass(frozen=True, kw_only=True)
class Instance(Serving):
    """One model server in a container, as its role declares it: all that other roles and the rollout read.

    Args:
        host: the name of the host.
        name: the name of the container; by default `ollama1` and so on.
        gpus: the cards, as the operator wrote them: indices, UUIDs of cards, and UUIDs of MIG devices.
        port: the TCP port.
        storage: the place of the models: `volume`, for a Docker volume of the instance's name, or a directory of the
            host.
        models: names of the models.
        carried: public names, each with the model that carries the name.
        parallel: requests answered at once (OLLAMA_NUM_PARALLEL); with `parallel_auto` the least number.
        context: tokens of context of each request; 0 where the engine has no such setting; with `context_auto` the
            least number.
        cache_type: type of the numbers of the context, such as `q8_0`.
        at_once: how many models are loaded at once.
        weight: the share in the upstream.
        parallel_auto: whether the instance takes the proposal of the estimate for `parallel`.
        context_auto: whether the instance takes the proposal of the estimate for `context`.
        pool: the pool whose clients alone reach the instance through a balancer; empty for the common pool.
    """

    host: str
    name: str
    gpus: tuple[int | str, ...]
    port: int
    storage: str = "volume"
    models: tuple[str, ...] = ()
    carried: tuple[Carried, ...] = ()
    parallel: int = 1
    context: int = 0
    cache_type: str = "f16"
    at_once: int = 1
    weight: int = 1
    parallel_auto: bool = False
    context_auto: bool = False
    pool: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names for clients: public names first, then the models."""
        return tuple(dict.fromkeys((*(each.name for each in self.carried), *self.models)))


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine of the inventory.

    Args:
        name: the name in the inventory.
        groups: every group of the host, parents before children, without `all`.
        connection: address and login.
        settings: role name -> the role's validated settings; complete.
        variables: the operator's own variables, as plain values with `Secret` for secrets.
        instances: the declared instances (filled by `role_interface`).
        undeclared: settings for instances on the host that are no longer declared (filled by `role_interface`).
        sources: role name -> the merged mapping with the place of every value, for `problem` and `show`.
        files: role name -> what the role read from files of this machine that its settings name (filled by
            `role_interface`).
    """

    name: str
    groups: tuple[str, ...] = ()
    connection: Connection
    settings: Mapping[str, Settings] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()
    undeclared: Serving = Serving()
    sources: Mapping[str, Value] = field(default_factory=dict, repr=False, compare=False)
    files: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def of(self, cls: type[S]) -> S:
        """Return the settings of the role with this Settings class. Raises LookupError if there is no such role."""
        for settings in self.settings.values():
            if type(settings) is cls:
                return settings
        message = f"{self.name} has no settings of {cls.__qualname__}"
        raise LookupError(message)

    def problem(self, role: str, path: KeyPath, message: str) -> Problem:
        """Return a problem with the file and line of a setting.

        Args:
            role: name of the role.
            path: place inside the role's settings, such as `("instances", 0, "port")`.
            message: the problem.
        """
        return locate(self.sources[role], path).problem(message)

    def secrets(self) -> tuple[Secret, ...]:
        """Return every secret that holds for this host, from any file."""
        return tuple(secrets_in([self.settings, self.sources, self.variables, self.connection, self.files]))

    @property
    def serving(self) -> Serving:
        """Settings for every instance on the host, declared or not."""
        return self.instances[0] if self.instances else self.undeclared

    @property
    def gpu(self) -> bool:
        """Whether the host belongs to the group `gpu`."""
        return "gpu" in self.groups

    @property
    def balancer(self) -> bool:
        """Whether the host belongs to the group `balancer`."""
        return "balancer" in self.groups


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All hosts, in the order of the file.

    Args:
        path: the inventory file, as given.
        hosts: every host.
        warnings: harmless oddities, each a line for people.
        advice: role -> sentences about its settings, for the commands that can act on advice.
        accepted: role -> sentences about risks accepted by the operator.
    """

    path: str
    hosts: tuple[Host, ...]
    warnings: tuple[str, ...] = ()
    advice: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    accepted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def host(self, name: str) -> Host:
        """Return the host of a name. Raises UsageError with the nearest name if there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        from provision.inventory.near import did_you_mean

        message = f"no such host: {name}{did_you_mean(name, [host.name for host in self.hosts])}"
        raise UsageError(message)

    def group(self, name: str) -> tuple[Host, ...]:
        """Return the hosts of a group, children included; none if there is no such group."""
        return self.hosts if name == "all" else self._groups.get(name, ())

    @cached_property
    def _groups(self) -> Mapping[str, tuple[Host, ...]]:
        """The hosts of every group. Cached, because several roles ask for each host."""
        groups: dict[str, list[Host]] = {}
        for host in self.hosts:
            for name in host.groups:
                groups.setdefault(name, []).append(host)
        return {name: tuple(hosts) for name, hosts in groups.items()}

    def select(self, patterns: Sequence[str]) -> tuple[Host, ...]:
        """Return the hosts that Ansible patterns select, in file order; all hosts for no pattern.

        Args:
            patterns: as after `--limit`: `gpu,!gpu-03`, `rack1:&gpu`, `gpu-[01:05]`, `gpu[0:3]`, `@FILE`.

        Raises:
            UsageError: a pattern matches nothing, or nothing is left.
        """
        from provision.inventory.patterns import select

        return select(self.hosts, patterns)

    def replace(self, hosts: Sequence[Host], *warnings: str) -> "Inventory":
        """Return the same inventory with new hosts and with some warnings added."""
        return dataclasses.replace(self, hosts=tuple(hosts), warnings=(*self.warnings, *warnings))
