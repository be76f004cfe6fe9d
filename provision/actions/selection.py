"""The hosts and steps that a request selects. Nothing is connected to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.actions.request import Request
    from provision.inventory import Host, Inventory
    from provision.plan.role_interface import Entry


@dataclass(frozen=True)
class SelectedHost:
    """One host that a run would work on.

    Args:
        host: the host.
        entries: its steps of the selected roles, in order.
        roles: names of the selected roles that have steps on the host, in order.
        is_chosen: whether the request names the host. A balancer outside of `--limit` takes part with the late roles
            alone, when a chosen host is behind the balancer.
    """

    host: Host
    entries: tuple[Entry, ...]
    roles: tuple[str, ...]
    is_chosen: bool


@dataclass(frozen=True)
class Selected:
    """What a request selects.

    Args:
        inventory: all hosts.
        hosts: the selected hosts, in the order of the inventory.
    """

    inventory: Inventory
    hosts: tuple[SelectedHost, ...]


def selected(request: Request) -> Selected:
    """The hosts and steps of a plan, deploy or verification with this request.

    Removals of undeclared things are left out: only the hosts know of them.

    Args:
        request: the inventory, the hosts and the roles.

    Raises:
        ProvisionError: the inventory cannot be used, or a pattern or role matches nothing.
    """
    from provision.plan import role_choice, role_interface
    from provision.rollout.outcome import selection

    inventory = role_interface.load(request.inventory, request.overrides)
    chosen = inventory.select(request.limit)
    names = {host.name for host in chosen}
    selected = []
    for host, roles in selection(inventory, chosen, role_choice.choose(request.tags, request.skip_tags)):
        entries = tuple(entry for entry in role_interface.steps(host, inventory) if entry.role in roles)
        ordered = tuple(dict.fromkeys(entry.role for entry in entries))
        selected.append(SelectedHost(host, entries, ordered, host.name in names))
    return Selected(inventory, tuple(selected))
