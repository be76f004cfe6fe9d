"""The interface between the changes of one host and the balancers. `rollout` implements it: a host knows no other."""

from collections.abc import Collection
from typing import Any, Protocol, TypeVar


class Slot(Protocol):
    """Instances of a host that go out of the upstream together."""

    @property
    def instances(self) -> tuple[str, ...]:
        """Names of the instances."""


T = TypeVar("T", bound=Slot)


class Traffic(Protocol[T]):
    """Takes instances of one host out of the upstream, and has them admitted again; see
    `rollout.traffic.HostTraffic`."""

    def request(self, names: frozenset[str], step: str) -> T | None:
        """Return the slot for some instances; None if no balancer sends to any of the instances."""

    def cordon(self, slot: T) -> bool:
        """Mark the instances `down` on every balancer; False while the slot does not fit."""

    def drain(self, slot: T) -> None:
        """Wait until the streams of the instances have ended."""

    def uncordon(self, slot: T) -> None:
        """Test the instances, and have balancers send to every healthy instance."""

    def abandon(self, slot: T | None) -> None:
        """Admit the healthy instances after an error."""

    def hold(self, name: str) -> bool:
        """Mark an instance `down` before it is made."""

    def missing(self, name: str) -> None:
        """Note that a cordoned instance is gone and cannot be tested now."""

    def prove(self, name: str, step: str) -> bool:
        """Make sure that an instance has passed its test in this run; True if the test was made now."""

    def finish(self) -> None:
        """Admit the instances that are still out, at the end of the host's part."""

    def lost_cards(self, names: Collection[str]) -> None:
        """Note the instances with a lost card, by the latest plan."""


class NoTraffic:
    """The traffic of a host without balancers."""

    def request(self, names: frozenset[str], step: str) -> None:
        """Return None: no instance is in an upstream."""

    def cordon(self, slot: Any) -> bool:
        """Never called."""
        return True

    def drain(self, slot: Any) -> None:
        """Never called."""

    def uncordon(self, slot: Any) -> None:
        """Never called."""

    def abandon(self, slot: Any) -> None:
        """Do nothing: no instance is out."""

    def hold(self, name: str) -> bool:
        """Return False: no balancer sends to the instance."""
        return False

    def missing(self, name: str) -> None:
        """Never called."""

    def prove(self, name: str, step: str) -> bool:
        """Return False: a host without balancers has no test."""
        return False

    def finish(self) -> None:
        """Do nothing: no instance is out."""

    def lost_cards(self, names: Collection[str]) -> None:
        """Do nothing: nobody waits for the instances."""
