"""The merged inventory, for people."""

from typing import Any

from provision.inventory.model import Inventory


def show(inventory: Inventory, host: str | None = None) -> dict[str, Any]:
    """Return everything that holds for every host, or for one, with secrets masked.

    Args:
        inventory: a loaded inventory.
        host: the name of the only host to show, or None.

    Raises:
        UsageError: there is no such host.
    """
    raise NotImplementedError
