"""Where a run stands: on which hosts something is under way; and when a host's part of the run is over, what is known
of its instances: which of them the balancers send to."""

from collections.abc import Sequence

from provision.apply.host_run import HostRun
from provision.errors import FactError, HostError, LockedError, UnreachableError
from provision.plan.role_order import INSTANCES
from provision.rollout.budget import Rolling
from provision.runs.context import Stopped
from provision.runs.journal import Journal
from provision.steps.instance.boot import FOLDER

BESIDE = ("image:", "model:", "volume:")  # steps that put something beside what runs, and change nothing of it
SHARED = ("firewall:", f"file:{FOLDER}/")  # what is written anew for one more instance: fine for all where it succeeded


def keeps_marks(run: HostRun, error: HostError | None, journal: Journal | None) -> bool:
    """Whether the instances of a host that failed serve as before, but for those of which something else is known.

    Args:
        run: the host.
        error: what failed, or None.
        journal: what this run wrote there.
    """
    if error is None or isinstance(error, UnreachableError):
        return False
    if run.turn.failed:
        return True
    parts = {entry.step.id: entry.step.part_of for entry in run.entries}
    changed = journal.changes if journal is not None else []
    beside = (
        step.startswith(BESIDE) or parts.get(step) in run.turn.made or (step.startswith(SHARED) and step != error.step)
        for step in changed
    )
    return all(beside) and not isinstance(error, FactError)


def is_unfinished(run: HostRun, error: HostError | None) -> bool:
    """Whether what is new on a host may not be able to serve yet: the run stopped before, or left out roles."""
    if error is not None:
        return isinstance(error, Stopped | LockedError)
    return run.host.gpu and bool(run.roles & INSTANCES) and not run.roles >= INSTANCES


def under_way(runs: Sequence[HostRun], rolling: Rolling) -> list[str]:
    """Names of the hosts that may hold the run's lock: what is done there is not broken off.

    Args:
        runs: the hosts of the run.
        rolling: knows the balancers on which marks are changed.
    """
    told = {marker.host.name for marker in rolling.known if marker.locked}
    return sorted(told | {run.host.name for run in runs if run.locked})
