"""The router of a balancer that reads bodies, as far as nginx's configuration needs the router."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from provision.steps.nginx.balanced_engine import BalancedEngine
from provision.steps.nginx.replica_sets import ReplicaSet


class Router(Protocol):
    """Finds the instances of a request by the model in its body."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the files."""

    @property
    def is_keyed(self) -> bool:
        """Whether a client needs a key."""

    def files(self, sets: Sequence[ReplicaSet], engine: BalancedEngine) -> Mapping[str, bytes]:
        """Return name -> bytes of the files.

        Args:
            sets: the replica sets of the balancer, in the order of their blocks. The root belongs to the first.
            engine: the engine of the instances.
        """
