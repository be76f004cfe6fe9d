"""Local files, named by settings: roles read the files at the load of an inventory, and write new files before a run
changes hosts.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from provision.inventory import Host, Inventory

Files = Callable[[Host, Inventory, int], Any]
"""`files` of a role, see `Role`."""


def read(inventory: Inventory, files: Mapping[str, Files], renew_within: int) -> Inventory:
    """Return the inventory with the content of local files of each role, as `Host.files`.

    Args:
        inventory: all hosts, with the settings of every role.
        files: role -> its function `files`.
        renew_within: days before the end of a certificate within which our authority renews it; 0 for none.
    """

    def with_files(host: Host) -> Host:
        every = ((name, of_role(host, inventory, renew_within)) for name, of_role in files.items())
        found = {name: value for name, value in every if value is not None}
        return dataclasses.replace(host, files=found) if found else host

    return inventory.replace([with_files(host) for host in inventory.hosts])


def keep(inventory: Inventory, hosts: Collection[str], roles: Collection[str]) -> tuple[str, ...]:
    """Write new files of the load of an inventory, such as certificates, before a run changes hosts.

    Args:
        inventory: the loaded inventory.
        hosts: names of the hosts of the run.
        roles: names of the roles of the run.

    Returns:
        the paths of the new files.

    Raises:
        UsageError: a file cannot be written.
    """
    from provision.plan import role_interface

    chosen = [host for host in inventory.hosts if host.name in hosts]
    named = [getattr(role_interface.role(name), "keep", role_interface.Role.keep) for name in sorted(roles)]
    return tuple(path for of_role in named for host in chosen if (path := of_role(host)))
