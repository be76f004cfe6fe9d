"""The wanted size and names of a lab. All else follows from these and the number of the lab's subnet."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from provision.errors import UsageError

GPU = "gpu"
BALANCER = "balancer"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


@dataclass(frozen=True)
class Spec:
    """A wanted lab.

    Args:
        name: name of the lab; labs of different names live side by side.
        gpu_hosts: how many hosts with (simulated) GPUs.
        balancers: how many hosts without GPUs.
        gpus: cards per gpu host.
        rtt: round-trip delay in milliseconds between this machine and every host.
        release: Debian or Ubuntu release of the hosts.
        vm: whether hosts are virtual machines with a kernel of their own.
        packages: a folder of .deb files that the site's repository of Docker has too; empty for none.

    Raises:
        UsageError: no lab can have these values.
    """

    name: str = "lab"
    gpu_hosts: int = 2
    balancers: int = 1
    gpus: int = 2
    rtt: float = 0.0
    release: str = "trixie"
    vm: bool = False
    packages: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is no name for a lab",
                "use a lower-case letter, then up to 19 of a-z, 0-9 and -",
            )
        limits = {"gpu_hosts": (0, 180), "balancers": (0, 50), "gpus": (0, 16), "rtt": (0, 2000)}
        for key, (low, high) in limits.items():
            if not low <= getattr(self, key) <= high:
                raise UsageError(f"--{key.replace('_', '-')} must be between {low} and {high}")
        if self.gpu_hosts + self.balancers == 0:
            raise UsageError("a lab needs at least one host")

    def hosts(self) -> list["HostSpec"]:
        """The hosts of the lab, gpu hosts first."""
        gpu = [HostSpec(f"gpu-{n:02}", GPU, 10 + n) for n in range(1, self.gpu_hosts + 1)]
        return gpu + [HostSpec(f"lb-{n:02}", BALANCER, 200 + n) for n in range(1, self.balancers + 1)]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Spec":
        """The spec of a document of lab.json; keys of a newer `provision` are left out.

        Raises:
            UsageError: no lab can have these values.
        """
        return cls(**{field.name: document[field.name] for field in fields(cls) if field.name in document})

    def to_json(self) -> dict[str, Any]:
        """The spec as the document of lab.json."""
        return asdict(self)


@dataclass(frozen=True)
class HostSpec:
    """One host of a lab: its name, its inventory group, and the last number of its address."""

    name: str
    group: str
    number: int
