"""The folders of a run on a host."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HostPaths:
    """The folders in which a run keeps its own files on a host.

    Args:
        run: folder that a boot empties: the lock of a run, and jobs.
        state: folder that outlives a boot: the lock by hand, journals, and the bytes for a rollback.
    """

    run: str = "/run/provision"
    state: str = "/var/lib/provision"

    @property
    def jobs(self) -> str:
        """Return the folder of jobs."""
        return f"{self.run}/jobs"

    @property
    def lock_by_hand(self) -> str:
        """Return the file of a lock by hand."""
        return f"{self.state}/lock"

    @property
    def journal(self) -> str:
        """Return the folder of journals."""
        return f"{self.state}/journal"

    @property
    def store(self) -> str:
        """Return the folder of states and replaced files, root's alone."""
        return f"{self.state}/store"


DEFAULT = HostPaths()
