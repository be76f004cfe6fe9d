"""Where the models of an instance are, as `Instance.storage` says it: a Docker volume, or a directory of the host."""

import posixpath
from collections.abc import Iterator, Sequence

from provision.inventory import Instance
from provision.steps.base import Step
from provision.steps.docker.volume import Volume
from provision.steps.system.file import Directory

VOLUME = "volume"
"""Not a directory of the host, but a Docker volume of the instance's name."""


def place(own: str | None, common: str, name: str) -> str:
    """The storage of one instance: `volume`, or a directory of the host.

    Args:
        own: `volume`, a directory, or None where the instance has the common storage.
        common: `volume`, or a directory below which each instance has its own.
        name: of the instance.
    """
    return posixpath.normpath(own or (VOLUME if common == VOLUME else f"{common}/{name}"))


def is_at(folder: str, storage: str, name: str) -> bool:
    """Whether a container's folder on the host is this storage.

    Args:
        folder: source of its mount.
        storage: `volume`, or a directory.
        name: of the instance.
    """
    return folder.endswith(f"/volumes/{name}/_data") if storage == VOLUME else folder == storage


def steps(instances: Sequence[Instance]) -> Iterator[Step]:
    """What makes the storage of a host's instances: a volume of its own, or a directory that several may share.

    Args:
        instances: of one host.
    """
    yield from (Volume(name=instance.name) for instance in instances if instance.storage == VOLUME)
    folders = dict.fromkeys(instance.storage for instance in instances if instance.storage != VOLUME)
    yield from (Directory(path=folder, foreign=True) for folder in folders)
