"""The balancer's view of the servers behind it."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from provision.steps.base import Check


class BalancedEngine(Protocol):
    """The engine of the instances behind a balancer, as far as nginx and its proofs need it."""

    @property
    def name(self) -> str:
        """The name of the group of servers in nginx's configuration."""

    @property
    def health(self) -> str:
        """The path that a serving instance answers with status 200."""

    @property
    def open_paths(self) -> tuple[str, ...]:
        """Paths open to clients by GET, which every instance answers with status 200."""

    @property
    def refused(self) -> tuple[str, ...]:
        """`METHOD PATH` of requests that a balancer must refuse."""

    def stream(self, live: Any, url: str, model: str, serving: Mapping[str, str]) -> Iterator[Check]:
        """Prove that a streamed answer comes through a balancer.

        Args:
            live: testinfra's host.
            url: URL of the balancer, without a path.
            model: a model on every instance.
            serving: label -> `ADDRESS:PORT`, of the instances that get requests.
        """
