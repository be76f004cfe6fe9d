"""The keeper of a run's leases: renews every lease of the run, also while the run waits."""

import contextlib
import threading
from typing import Protocol

from provision.errors import HostError
from provision.runs.setup import Timings

DEFAULT = Timings()


class Renewed(Protocol):
    """A lease, as the keeper sees it."""

    def is_due(self, every: float) -> bool:
        """Whether the last renewal is more than `every` seconds ago."""

    def renew(self, every: float) -> None:
        """Renew the lease if due."""


class LeaseKeeper:
    """Renews the leases of one run from its own thread, which runs while the run has any lease.

    Each renewal has a short-lived thread, so that a host without an answer does not delay the renewal of another host's
    lease. The program does not wait for the threads at its end.

    Args:
        every: seconds between two renewals of a lease.
        look: seconds between two checks for due leases.
    """

    def __init__(self, every: float = DEFAULT.renewal, look: float = DEFAULT.keeper_look) -> None:
        self.every = every
        self.look = look
        self.cut = threading.Event()
        """Set when the operator cuts the connections: no renewal begins afterwards."""
        self._leases: set[Renewed] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def join(self, lease: Renewed) -> None:
        """Renew a lease from now on."""
        with self._changed:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._thread.start()

    def leave(self, lease: Renewed) -> None:
        """Begin no further renewal of a lease."""
        with self._changed:
            self._leases.discard(lease)
            self._changed.notify()

    def stop(self) -> None:
        """Begin no further renewal of any lease: the run has ended."""
        with self._changed:
            self._leases.clear()
            self._changed.notify()

    def _keep(self) -> None:
        with self._changed:
            while self._leases and not self.cut.is_set():
                for lease in self._leases:
                    if lease.is_due(self.every):
                        threading.Thread(target=self._renew, args=(lease,), name="renewal", daemon=True).start()
                self._changed.wait(self.look)
            self._thread = None

    def _renew(self, lease: Renewed) -> None:
        """Renew a lease. The next exec reports an error: the exec takes the lock again, or shows the new holder."""
        with contextlib.suppress(HostError):
            lease.renew(self.every)
