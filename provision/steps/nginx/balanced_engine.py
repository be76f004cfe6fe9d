"""The balancer's view of the servers behind it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from provision.steps.base import Check


class BalancedEngine(Protocol):
    """The engine of the instances behind a balancer, as far as nginx and its proofs need it."""

    @property
    def name(self) -> str:
        """The name of the first group of servers in nginx's configuration."""

    @property
    def health(self) -> str:
        """The path that a serving instance answers with status 200."""

    @property
    def client_paths(self) -> tuple[str, ...]:
        """Paths open to clients, beside the paths below /v1/."""

    @property
    def open_paths(self) -> tuple[str, ...]:
        """Paths open to clients by GET, which every instance answers with status 200."""

    @property
    def refused(self) -> tuple[str, ...]:
        """`METHOD PATH` of requests that a balancer must refuse."""

    @property
    def lists(self) -> Mapping[str, Callable[[Sequence[str]], str]]:
        """Path that lists models -> the JSON text of a list, from the names of the models."""

    @property
    def own_paths(self) -> str:
        """The begin of the paths whose errors have the engine's own form; empty without such paths."""

    @property
    def own_error(self) -> Callable[[str], str]:
        """Returns the JSON text of an error in the engine's own form."""

    @property
    def spellings(self) -> Callable[[str], tuple[str, ...]]:
        """Returns the forms of a canonical name that clients write, the canonical form first."""

    def stream(
        self,
        live: Any,
        url: str,
        model: str,
        serving: Mapping[str, str],
        config: str = "",
        versions: Sequence[str] = (),
    ) -> Iterator[Check]:
        """Prove that a streamed answer comes through a balancer.

        Args:
            live: testinfra's host.
            url: URL of the balancer, perhaps with the path of a model.
            model: a model on every instance with requests.
            serving: label -> `ADDRESS:PORT`, of the instances that get requests.
            config: file on the host with options of curl for requests to the balancer; empty for none.
            versions: the models that carry the name `model`; empty where the name is a model's own.
        """
