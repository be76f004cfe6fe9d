"""The steps of one host in one run: the declared steps, the goals of the run, and the finders of orphans."""

from collections.abc import Iterator
from functools import cached_property

from provision.inventory import Host, Inventory
from provision.plan.catalog import Catalog
from provision.plan.change_order import is_container
from provision.plan.role_interface import Entry
from provision.steps.base import Owned, Step
from provision.steps.loading import Loading


class HostSteps:
    """The steps of one host, built at the first use.

    Args:
        host: the host.
        inventory: the whole inventory.
        roles: names of the roles in this run on this host.
        catalog: the source of steps and finders.
        past: the steps that a rollback restores, in their order; None for the declared steps.
    """

    def __init__(
        self,
        host: Host,
        inventory: Inventory,
        roles: frozenset[str],
        catalog: Catalog,
        past: tuple[Entry, ...] | None = None,
    ) -> None:
        self._catalog = catalog
        self.host = host
        self.inventory = inventory
        self.roles = roles
        self.past = past

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every declared step of the host, in order."""
        return self._catalog.steps(self.host, self.inventory)

    @cached_property
    def declared(self) -> frozenset[str]:
        """The ids of all declared steps."""
        return frozenset(entry.step.id for entry in self.entries)

    @property
    def goals(self) -> tuple[Entry, ...]:
        """The steps that this run brings to their wanted state."""
        return self.entries if self.past is None else self.past

    def goals_of(self, roles: frozenset[str], *, guards: bool) -> Iterator[Entry]:
        """Return the goals of some roles.

        Args:
            roles: names of roles; a role outside the run has no goals.
            guards: whether to include the guards of the host, of any role.
        """
        chosen = roles & self.roles
        return (entry for entry in self.goals if entry.role in chosen or (guards and entry.step.guards_host))

    @cached_property
    def finders(self) -> tuple[tuple[str, Owned], ...]:
        """The finders of orphans, of the roles in the run. A rollback leaves orphans to the next deploy."""
        finders = ((role, finder) for role, finder in self._catalog.owned() if role in self.roles and self.past is None)
        return tuple((role, finder) for role, finder in finders if not self.declared >= finder.finds > frozenset())

    @property
    def containers(self) -> list[Entry]:
        """The declared steps that are containers of instances."""
        return [entry for entry in self.entries if is_container(entry.step)]

    @cached_property
    def proposing(self) -> tuple[Loading, ...]:
        """The models of the instances that take a proposal of the estimate; none in a rollback."""
        loadings = (entry.step.loading for entry in self.entries) if self.past is None else iter(())
        return tuple(loading for loading in loadings if loading is not None and loading.proposes)

    @cached_property
    def balancing(self) -> Step | None:
        """The step with the upstream of a balancer; None on gpu hosts."""
        return next((entry.step for entry in self.entries if entry.step.routes), None)
