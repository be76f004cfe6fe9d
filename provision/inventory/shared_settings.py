"""What may be known of a role's settings outside that role: by other roles, by the plan, by the load test.

A role never imports another. Each class here names the settings of one role that others read; the role's own
`Settings` declares them, with their defaults. What others read of `ollama` is in `Instance`.
"""

from typing import Protocol, cast

from provision.inventory.model import Host


class DockerSettings(Protocol):
    """What others read of the role `docker`."""

    @property
    def lock_timeout(self) -> str:
        """How long to wait for another program that has apt locked: a duration."""


class ToolkitSettings(Protocol):
    """What others read of the role `nvidia_toolkit`."""

    @property
    def version(self) -> str:
        """The version of the toolkit's packages."""

    @property
    def smi_timeout(self) -> str:
        """How long nvidia-smi may take: a duration."""


class NginxSettings(Protocol):
    """What others read of the role `nginx`."""

    @property
    def version(self) -> str:
        """The version to build."""

    @property
    def binary(self) -> str:
        """The path of the program that is built."""


class BalancerSettings(Protocol):
    """What others read of the role `balancer`."""

    @property
    def listen(self) -> tuple[str, ...]:
        """Addresses it listens on; never empty."""

    @property
    def port(self) -> int:
        """TCP port that clients use."""


def docker(host: Host) -> DockerSettings:
    """Return a host's settings of the role `docker`, as far as others may know them."""
    return cast(DockerSettings, host.settings["docker"])


def toolkit(host: Host) -> ToolkitSettings:
    """Return a host's settings of the role `nvidia_toolkit`, as far as others may know them."""
    return cast(ToolkitSettings, host.settings["nvidia_toolkit"])


def nginx(host: Host) -> NginxSettings:
    """Return a host's settings of the role `nginx`, as far as others may know them."""
    return cast(NginxSettings, host.settings["nginx"])


def balancer(host: Host) -> BalancerSettings:
    """Return a host's settings of the role `balancer`, as far as others may know them."""
    return cast(BalancerSettings, host.settings["balancer"])
