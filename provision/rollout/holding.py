"""Instances that are made on hosts which the balancers list already: they get no requests before they can serve.

Such a host was installed anew, or its container was removed by hand. Each balancer is asked once in a run, and only
when an instance is made: what it sends to changes meanwhile by this run alone.
"""

import threading
from collections.abc import Callable

from provision.errors import HostError, RefusedError, UnreachableError
from provision.inventory import Host
from provision.rollout.balancer_pool import Marker, tell_all


class Holding:
    """What the balancers of one run send to. May be used by many threads.

    Args:
        markers: gives the balancers that may send to a host's instances.
    """

    def __init__(self, markers: Callable[[Host], list[Marker]]) -> None:
        self._markers = markers
        self._guard = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._listed: dict[str, frozenset[str]] = {}

    def hold(self, host: Host, name: str) -> bool:
        """Have no balancer send to an instance. One that cannot be asked keeps no host from being set up.

        Args:
            host: its host.
            name: its label.

        Returns:
            whether one did.

        Raises:
            HostError: one does, and could not be told: it would send to what has no model yet.
            RefusedError: somebody else edited the upstream of one: it may send to it.
        """
        found = [marker for marker in self._markers(host) if name in self._sends_to(marker)]
        tell_all(found, lambda marker: self._hold(marker, name))
        return bool(found)

    @staticmethod
    def _hold(marker: Marker, name: str) -> None:
        try:
            marker.mark(down=[name])
        except UnreachableError as error:  # the balancer is, and not the gpu host whose error it becomes
            raise HostError(error.message, error.hint, command=error.command, stderr=error.stderr) from error

    def _sends_to(self, marker: Marker) -> frozenset[str]:
        """Labels of those that a balancer sends to; none where it cannot be asked.

        Raises:
            RefusedError: somebody else edited its upstream: nobody knows what it sends to.
        """
        name = marker.host.name
        with self._guard:
            asking = self._asking.setdefault(name, threading.Lock())
        with asking:  # a dead one is waited for once, and not by every host
            if name not in self._listed:
                try:
                    self._listed[name] = frozenset(label for label, one in marker.look().items() if not one.down)
                except RefusedError:
                    raise
                except HostError:
                    self._listed[name] = frozenset()
            return self._listed[name]
