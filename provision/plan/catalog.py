"""The source of steps and finders."""

from collections.abc import Callable
from dataclasses import dataclass

from provision.inventory import Host, Inventory
from provision.plan import role_interface
from provision.plan.role_interface import Entry
from provision.steps.base import Owned


@dataclass(frozen=True)
class Catalog:
    """The source of steps and finders: by default the roles of `provision.roles`.

    Args:
        steps: returns every step of a host, in order; see `role_interface.steps`.
        owned: returns the finders of everything that carries our mark, with their roles; see `role_interface.owned`.
    """

    steps: Callable[[Host, Inventory], tuple[Entry, ...]] = role_interface.steps
    owned: Callable[[], tuple[tuple[str, Owned], ...]] = role_interface.owned
