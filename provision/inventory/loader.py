"""From files to an `Inventory`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.inventory.model import Inventory
from provision.inventory.settings import Settings


def load(path: str | Path, *, roles: Mapping[str, type[Settings]], overrides: Sequence[str] = ()) -> Inventory:
    """Read an inventory with its `group_vars/` and `host_vars/`, and check every setting.

    Args:
        path: the inventory file.
        roles: role names with their Settings classes.
        overrides: what `-e` was given: `key=value`, `role.key=value` or `@FILE`; these win over everything.

    Raises:
        InventoryError: the files have problems; it holds all of them.
    """
    raise NotImplementedError
