"""Settings of a role for readers outside the role: further roles, the plan, the load test.

A role never imports another role. Each class here names the settings of one role that others read; the role's own
`Settings` declares them, with their defaults. `Instance` has the settings of `ollama` that others read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from provision.inventory.mirrors import MirrorUrl
from provision.inventory.model import Host
from provision.inventory.proxy import ProxyUrl


class ProxySettings(Protocol):
    """The shared settings of the role `proxy`."""

    @property
    def http(self) -> ProxyUrl | None:
        """The proxy for http:// addresses; None for none."""

    @property
    def https(self) -> ProxyUrl | None:
        """The proxy for https:// addresses; None for none."""

    @property
    def no_proxy(self) -> tuple[str, ...]:
        """Places to reach without the proxy."""


class MirrorSettings(Protocol):
    """The shared settings of the role `mirrors`."""

    @property
    def nginx(self) -> str:
        """Folder of nginx's tarballs; empty for nginx's own."""

    @property
    def hub(self) -> tuple[str, ...]:
        """Mirrors of Docker Hub."""

    @property
    def model_registry(self) -> str:
        """Registry for models without a registry in their name; empty for Ollama's."""

    @property
    def models(self) -> Mapping[str, str]:
        """Model -> name under which the model is pulled."""

    def url(self, name: str) -> MirrorUrl | None:
        """Return the mirror of a repository, or None for the maker's own address."""

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield the path of the setting, and the address without a login, of every mirror."""

    def has(self, key: str) -> bool:
        """Return whether the section, with its preset, has an address under a key."""


class DockerSettings(Protocol):
    """The shared settings of the role `docker`."""

    @property
    def repository(self) -> str:
        """Base URL of Docker's repository."""

    @property
    def lock_timeout(self) -> str:
        """How long to wait for another program that has apt locked: a duration."""

    @property
    def data_root(self) -> str | None:
        """Docker's folder for data; None for Docker's own."""

    @property
    def registry_mirrors(self) -> tuple[str, ...]:
        """Addresses of mirrors of Docker Hub, asked before Docker Hub."""

    @property
    def registries(self) -> Mapping[str, Any]:
        """Registry of images -> login."""

    @property
    def containerd_images(self) -> bool:
        """Whether a Docker that a deploy installs keeps images in containerd's store, on a host without an older
        store."""

    @property
    def daemon(self) -> Mapping[str, Any]:
        """More keys of daemon.json."""


class ToolkitSettings(Protocol):
    """The shared settings of the role `nvidia_toolkit`."""

    @property
    def repository(self) -> str:
        """Base URL of the toolkit's repository."""

    @property
    def version(self) -> str:
        """The version of the toolkit's packages."""

    @property
    def smi_timeout(self) -> str:
        """How long nvidia-smi may take: a duration."""


class NginxSettings(Protocol):
    """The shared settings of the role `nginx`."""

    @property
    def version(self) -> str:
        """The version to build."""

    def built(self, *, njs: bool) -> "NginxBuild":
        """Return the build, with or without nginx' JavaScript module."""


class NginxBuild(Protocol):
    """A build of nginx."""

    @property
    def binary(self) -> str:
        """The path of the program."""

    @property
    def module(self) -> str:
        """The path of the JavaScript module that nginx loads; empty for none."""

    @property
    def configure_args(self) -> tuple[str, ...]:
        """The arguments of `configure`."""

    @property
    def patches(self) -> tuple[Any, ...]:
        """The patches of the source."""


@runtime_checkable
class VipSettings(Protocol):
    """The common address of the balancers."""

    @property
    def address(self) -> str:
        """The IPv4 address."""

    @property
    def router_id(self) -> int:
        """VRRP's number of the group."""


class BalancerSettings(Protocol):
    """The shared settings of the role `balancer`."""

    @property
    def vip(self) -> VipSettings | None:
        """The common address of the balancers; None for none."""

    @property
    def site(self) -> str:
        """The site of the balancer; empty where the inventory has no sites."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """`ADDRESS:PORT` of every address for clients."""

    @property
    def redirects(self) -> tuple[str, ...]:
        """`ADDRESS:PORT` of every address that redirects to TLS."""

    @property
    def status_port(self) -> int:
        """The port on 127.0.0.1 for nginx's counters and generation."""

    @property
    def shutdown_timeout(self) -> str:
        """How long streams may go on after a reload: a duration."""

    @property
    def listen(self) -> tuple[str, ...]:
        """The addresses to listen on; never empty."""

    @property
    def port(self) -> int:
        """The TCP port for clients."""

    @property
    def router(self) -> str:
        """How the model of a request at the root is found: `none` or `njs`."""

    @property
    def clients(self) -> str:
        """File of the clients and their keys, beside the inventory; empty where nobody needs a key."""


class Certificate(Protocol):
    """The certificate of a balancer, as the load of the inventory read it."""

    @property
    def trust(self) -> bytes:
        """Certificates in PEM of the authorities that clients trust; empty for those that a machine trusts anyway."""

    @property
    def clients(self) -> bytes:
        """Certificates in PEM of the authorities of clients; empty where clients need no certificate."""

    @property
    def name(self) -> str:
        """A name of the certificate."""

    @property
    def end(self) -> str:
        """The day of its end."""

    @property
    def is_new(self) -> bool:
        """Whether the load made the certificate, which is not written yet."""

    @property
    def hindered(self) -> str:
        """Why a certificate that was to be renewed was not; empty where it was, or need not be."""

    def covers(self, name: str) -> bool:
        """Return whether the certificate has a name or an address."""


class EngineSettings(Protocol):
    """The shared settings of the role that declares a host's instances."""

    @property
    def tolerate(self) -> tuple[str, ...]:
        """Names of containers, and of programs outside Docker, that may use the cards of instances."""


@dataclass(frozen=True)
class _Direct:
    """No proxy."""

    http: ProxyUrl | None = None
    https: ProxyUrl | None = None
    no_proxy: tuple[str, ...] = ()


def proxy(host: Host) -> ProxySettings:
    """Return the shared settings of the role `proxy` on a host; no proxy for a host without such a section, which a
    program has made without the loader."""
    return cast(ProxySettings, host.settings.get("proxy", _Direct()))


def mirrors(host: Host) -> MirrorSettings | None:
    """Return the shared settings of the role `mirrors` on a host; None for a host without such a section, which a
    program has made without the loader."""
    return cast("MirrorSettings | None", host.settings.get("mirrors"))


def mirror_key(host: Host, role: str, setting: str, mirror: str) -> str:
    """Return the path of the setting that an address comes from.

    Args:
        host: the host.
        role: the role of the setting.
        setting: the setting of the role, which wins where the inventory has the setting.
        mirror: the key of the section `mirrors` that stands for the setting.
    """
    source, given = host.sources.get(role), mirrors(host)
    is_written = source is not None and isinstance(source.data, dict) and setting in source.data
    return f"mirrors.{mirror}" if given and given.has(mirror) and not is_written else f"{role}.{setting}"


def docker(host: Host) -> DockerSettings:
    """Return the shared settings of the role `docker` on a host."""
    return cast(DockerSettings, host.settings["docker"])


def toolkit(host: Host) -> ToolkitSettings:
    """Return the shared settings of the role `nvidia_toolkit` on a host."""
    return cast(ToolkitSettings, host.settings["nvidia_toolkit"])


def engine(host: Host) -> EngineSettings:
    """Return the shared settings of the role that declares the instances of a gpu host."""
    return cast(EngineSettings, host.settings[host.serving.engine])


def nginx(host: Host) -> NginxSettings:
    """Return the shared settings of the role `nginx` on a host."""
    return cast(NginxSettings, host.settings["nginx"])


def certificate(host: Host) -> Certificate | None:
    """Return the certificate of a balancer; None for a balancer without TLS."""
    reading = host.files.get("balancer")
    return cast("Certificate | None", reading and reading.certificate)


def balancer(host: Host) -> BalancerSettings:
    """Return the shared settings of the role `balancer` on a host."""
    return cast(BalancerSettings, host.settings["balancer"])


def vip(host: Host) -> VipSettings | None:
    """Return the common address of a balancer; None for none, and for a host without a section `balancer`, which a
    program has made without the loader."""
    settings = cast("BalancerSettings | None", host.settings.get("balancer"))
    return settings.vip if settings else None
