"""The storage of an instance's models, as in `Instance.storage`: a Docker volume, or a directory of the host."""

import posixpath
from collections.abc import Iterator, Sequence

from provision.inventory import Instance
from provision.steps.base import Step
from provision.steps.docker.volume import Volume
from provision.steps.system.file import Directory

VOLUME = "volume"
"""A Docker volume of the instance's name, in place of a directory of the host."""


def place(own: str | None, common: str, name: str) -> str:
    """Return the storage of one instance: `volume`, or a directory of the host.

    Args:
        own: `volume`, a directory, or None for the common storage.
        common: `volume`, or a directory with a directory for each instance.
        name: the name of the instance.
    """
    return posixpath.normpath(own or (VOLUME if common == VOLUME else f"{common}/{name}"))


def is_at(folder: str, storage: str, name: str) -> bool:
    """Whether a container's folder on the host is a storage.

    Args:
        folder: source of the container's mount.
        storage: `volume`, or a directory.
        name: the name of the instance.
    """
    return folder.endswith(f"/volumes/{name}/_data") if storage == VOLUME else folder == storage


def steps(instances: Sequence[Instance]) -> Iterator[Step]:
    """Yield the storage of a host's instances: a volume for each, or a directory that several may share.

    Args:
        instances: of one host.
    """
    yield from (Volume(name=instance.name) for instance in instances if instance.storage == VOLUME)
    folders = dict.fromkeys(instance.storage for instance in instances if instance.storage != VOLUME)
    yield from (Directory(path=folder, foreign=True) for folder in folders)
