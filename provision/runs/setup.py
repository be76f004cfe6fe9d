"""The setup of a run: the way to hosts, folders on hosts, times, operator, and source of steps.

The command line uses the defaults. A program hands in a setup of its own: `provision.testing` has fake hosts for tests.
"""

import dataclasses
import time
from collections.abc import Callable

from provision.inventory import Connection
from provision.plan.catalog import Catalog
from provision.runs import lock
from provision.runs.lock import HostLock
from provision.ssh.host_paths import HostPaths
from provision.ssh.session import Session
from provision.ssh.transport import Connect, Transport


@dataclasses.dataclass(frozen=True)
class Timings:
    """The times of a run, in seconds.

    Args:
        lease: shortest lease of a lock on a host; every exec of the run renews the lease.
        renewal: time between two renewals by the keeper of the leases.
        keeper_look: time between two looks of the keeper at the leases.
        last_renewal: longest wait for a renewal under way, before a lock is given back.
        lock_poll: time between two looks at another run's lock.
        long_wait: a host that waited longer for a slot is asked again before an instance goes out.
    """

    lease: float = lock.LEASE_SECONDS
    renewal: float = lock.RENEW_SECONDS
    keeper_look: float = 5.0
    last_renewal: float = 5.0
    lock_poll: float = 2.0
    long_wait: float = 60.0


@dataclasses.dataclass(frozen=True)
class Setup:
    """The setup of a run.

    Args:
        connect: makes the transport to a host.
        paths: the folders of runs on a host.
        timings: the times of a run.
        who: operator and machine, as shown to others.
        catalog: the source of steps and finders.
        clock: returns the seconds since 1970 on this machine.
    """

    connect: Connect = Session
    paths: HostPaths = dataclasses.field(default_factory=HostPaths)
    timings: Timings = dataclasses.field(default_factory=Timings)
    who: str = dataclasses.field(default_factory=lock.who)
    catalog: Catalog = dataclasses.field(default_factory=Catalog)
    clock: Callable[[], float] = time.time

    def transport(self, connection: Connection, become_password: str | None) -> Transport:
        """Make the transport to a host; the transport connects at the first use.

        Args:
            connection: the way to the host.
            become_password: sudo's password (`-K`), or None for the password in the inventory.
        """
        return self.connect(connection, become_password, self.paths)

    @property
    def host_lock(self) -> HostLock:
        """Return the commands for the lock of a host."""
        return HostLock(self.paths, self.who, self.timings.lease, self.timings.renewal)
