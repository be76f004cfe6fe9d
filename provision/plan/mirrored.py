"""The section `mirrors` in the settings of the roles, and all addresses outside the site. Pure.

`resolved` is the only place that knows which address wins: a setting of a role, `mirrors`, or the default of the role.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from provision.inventory import Host, Inventory, shared_settings
from provision.inventory.mirrors import Outside

Mirrored = Callable[[Any, Any], Mapping[str, Any]]
"""`mirrored` of a role, see `Role`."""


def resolved(host: Host, mirrored: Mapping[str, Mirrored]) -> Host:
    """Return the host with the addresses of `mirrors` in the settings that the inventory leaves unset.

    Args:
        host: a host as the inventory's loader makes it.
        mirrored: role -> its function `mirrored`.
    """
    mirrors = shared_settings.mirrors(host)
    settings = {}
    for name, given in host.settings.items():
        found = mirrored[name](given, mirrors) if mirrors is not None and name in mirrored else {}
        unset = {key: value for key, value in found.items() if value and key not in given.model_fields_set}
        settings[name] = given.model_copy(update=unset) if unset else given
    return replace(host, settings=settings)


def outside(host: Host, inventory: Inventory) -> tuple[Outside, ...]:
    """Return every address outside the site that a host asks, in the order of the roles.

    Args:
        host: one host of the inventory.
        inventory: the whole inventory.
    """
    from provision.plan import role_interface

    return tuple(dict.fromkeys(_outside(host, inventory, role_interface.order(), role_interface.role)))


def _outside(host: Host, inventory: Inventory, names: tuple[str, ...], role: Callable[[str], Any]) -> Iterator[Outside]:
    for name in names:
        find = getattr(role(name), "outside", None)
        yield from find(host, inventory) if find else ()
