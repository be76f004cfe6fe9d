"""Where the models of each instance are: the containers and the models must agree on it, so it is said here."""

import posixpath
from collections.abc import Sequence
from typing import Protocol, cast

from provision.inventory import Host

VOLUME = "volume"
"""Not a directory of the host, but a Docker volume of the instance's name."""


class Item(Protocol):
    """What is said for one instance."""

    @property
    def storage(self) -> str | None:
        """`volume`, a directory, or None for what holds for all."""


class Settings(Protocol):
    """What is said for all of them."""

    @property
    def storage(self) -> str:
        """`volume`, or a directory below which each instance has its own."""

    @property
    def instances(self) -> Sequence[Item]:
        """The instances, in the order of the host's."""


def of(host: Host) -> dict[str, str]:
    """Instance -> `volume`, or the directory of the host where its models are.

    Args:
        host: a host with its instances.
    """
    settings = cast(Settings, host.settings["ollama"])
    pairs = zip(host.instances, settings.instances, strict=True)
    return {one.name: posixpath.normpath(item.storage or below(settings.storage, one.name)) for one, item in pairs}


def below(storage: str, name: str) -> str:
    """What the storage of all instances means for one of them."""
    return VOLUME if storage == VOLUME else f"{storage}/{name}"


def is_at(folder: str, storage: str, name: str) -> bool:
    """Whether a container's folder on the host is this storage.

    Args:
        folder: source of its mount.
        storage: `volume`, or a directory.
        name: of the instance.
    """
    return folder.endswith(f"/volumes/{name}/_data") if storage == VOLUME else folder == storage
