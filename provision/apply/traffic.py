"""What one host's changes ask of the balancers. `rollout` answers: a host knows no other."""

from collections.abc import Collection
from typing import Any, Protocol, TypeVar


class Slot(Protocol):
    """Instances of a host that go out of the upstream together."""

    @property
    def instances(self) -> tuple[str, ...]:
        """Their names."""


T = TypeVar("T", bound=Slot)


class Traffic(Protocol[T]):
    """Takes instances of one host out of the upstream, and gives them back; see `rollout.traffic.HostTraffic`."""

    def request(self, names: frozenset[str], step: str) -> T | None:
        """The slot that these instances need to go out; None where no balancer sends to any of them."""

    def cordon(self, slot: T) -> bool:
        """Have no balancer send anything new to them; False while there is no room for them."""

    def drain(self, slot: T) -> None:
        """Wait until their streams have ended."""

    def uncordon(self, slot: T) -> None:
        """Have them prove themselves, and the balancers send to those that do."""

    def abandon(self, slot: T | None) -> None:
        """Give back those that are well, after an error."""

    def hold(self, name: str) -> bool:
        """Have no balancer send to an instance that is about to be made."""

    def missing(self, name: str) -> None:
        """An instance that went out is not there, and need not prove itself now."""

    def finish(self) -> None:
        """Give back what is still out, at the end of the host's part of the run."""

    def lost_cards(self, names: Collection[str]) -> None:
        """Know which instances lost a card, by the latest plan."""


class NoTraffic:
    """The traffic of a host that no balancer sends to."""

    def request(self, names: frozenset[str], step: str) -> None:
        """Nothing is out."""

    def cordon(self, slot: Any) -> bool:
        """Never asked."""
        return True

    def drain(self, slot: Any) -> None:
        """Never asked."""

    def uncordon(self, slot: Any) -> None:
        """Never asked."""

    def abandon(self, slot: Any) -> None:
        """Nothing is out."""

    def hold(self, name: str) -> bool:
        """Nothing is sent to it."""
        return False

    def missing(self, name: str) -> None:
        """Never asked."""

    def finish(self) -> None:
        """Nothing is out."""

    def lost_cards(self, names: Collection[str]) -> None:
        """Nobody waits for them."""
