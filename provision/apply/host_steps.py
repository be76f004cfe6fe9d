"""The steps of one host in one run: what is declared, what the run brings about, and what looks for orphans."""

from collections.abc import Iterator
from functools import cached_property

from provision.inventory import Host, Inventory
from provision.plan.change_order import is_container
from provision.plan.role_interface import Entry, owned, steps
from provision.steps.base import Owned, Step


class HostSteps:
    """The steps of one host; put together when they are first asked for.

    Args:
        host: the host.
        inventory: all of it.
        roles: names of the roles that the run looks at on this host.
        past: the steps that a rollback puts back, in their order; what is declared when None.
    """

    def __init__(
        self, host: Host, inventory: Inventory, roles: frozenset[str], past: tuple[Entry, ...] | None = None
    ) -> None:
        self.host = host
        self.inventory = inventory
        self.roles = roles
        self.past = past

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every declared step of the host, in its place."""
        return steps(self.host, self.inventory)

    @cached_property
    def declared(self) -> frozenset[str]:
        """The ids of all declared steps."""
        return frozenset(entry.step.id for entry in self.entries)

    @property
    def goals(self) -> tuple[Entry, ...]:
        """The steps that this run brings to their wanted state."""
        return self.entries if self.past is None else self.past

    def goals_of(self, roles: frozenset[str], *, guards: bool) -> Iterator[Entry]:
        """The goals of some roles.

        Args:
            roles: names of roles; those that the run does not look at have none.
            guards: whether the guards of the host are among them, whatever their role is.
        """
        chosen = roles & self.roles
        return (entry for entry in self.goals if entry.role in chosen or (guards and entry.step.guards_host))

    @cached_property
    def finders(self) -> tuple[tuple[str, Owned], ...]:
        """What looks for orphans of the roles that are looked at. A rollback leaves them to the next deploy."""
        finders = ((role, finder) for role, finder in owned() if role in self.roles and self.past is None)
        return tuple((role, finder) for role, finder in finders if not self.declared >= finder.finds > frozenset())

    @property
    def containers(self) -> list[Entry]:
        """The declared steps that are the container of an instance."""
        return [entry for entry in self.entries if is_container(entry.step)]

    @cached_property
    def balancing(self) -> Step | None:
        """The step that says whom a balancer sends to; None on other hosts."""
        return next((entry.step for entry in self.entries if entry.step.routes), None)
