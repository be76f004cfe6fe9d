"""Two roles for the tests of inventories, so that the tests do not change with the real roles."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from provision.inventory import (
    Duration,
    ImageRef,
    ModelName,
    Name,
    Port,
    Secret,
    Settings,
    Sha256,
    Text,
    Url,
    Version,
)
from provision.inventory.settings import KeyPath


class Card(Settings):
    """One instance."""

    gpus: tuple[int, ...]
    """Indices of its cards."""
    name: Name | None = None
    """Name of its container."""
    port: Port | None = None
    """Where it listens."""
    token: Secret | None = None
    """What it wants to hear."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        if not self.gpus:
            yield ("gpus",), "needs at least one card"


class Limits(Settings):
    """Limits of a container."""

    memory: Text | None = None
    """Most memory."""
    pids: int = 4096
    """Most processes."""


class Ollama(Settings):
    """One container per card.

    This paragraph is for engineers.
    """

    image: ImageRef = "ollama/ollama:0.34.4"
    """The image, by tag or digest."""
    models: tuple[ModelName, ...] = ()
    """Models to pull."""
    instances: tuple[Card, ...] = ()
    """The containers of a host."""
    keep_alive: Duration = "-1"
    """How long an idle model stays in GPU memory."""
    env: dict[str, str | int | Secret] = Field(default_factory=dict)
    """More environment."""
    limits: Limits = Limits(pids=512)
    """What a container may use."""
    key: Secret | None = None
    """A secret."""
    mode: Literal["fast", "slow"] = "fast"
    """How."""
    debug: bool = False
    """Say more."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        for index, card in enumerate(self.instances):
            if card.port in [other.port for other in self.instances[:index] if other.port]:
                yield ("instances", index, "port"), f"port {card.port} is used twice"


class Nginx(Settings):
    """Compiled from source."""

    version: Version = "1.26.3"
    """Which release."""
    accept_known_vulnerabilities: bool = False
    """Whether holes are accepted."""
    url: Url | None = None
    """Where the tarball is."""
    sha256: Sha256 | None = None
    """What the tarball must be."""


ROLES: dict[str, type[Settings]] = {"ollama": Ollama, "nginx": Nginx}
