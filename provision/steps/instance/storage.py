"""Where the models of an instance are, as `Instance.storage` says it: a Docker volume, or a directory of the host."""

import posixpath

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
