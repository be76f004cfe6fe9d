"""One host of a run across hosts: its work, its traffic, and what becomes of it."""

from dataclasses import dataclass, field

from provision.apply.host_run import HostRun
from provision.errors import HostError, LockedError
from provision.events import Event
from provision.plan import role_interface
from provision.plan.planner import HostPlan
from provision.rollout.outcome import Outcome
from provision.rollout.traffic import HostTraffic
from provision.runs import interrupt
from provision.runs.context import Context, Stopped


@dataclass(eq=False)
class HostPart:
    """One host's part of the run.

    Args:
        run: does its work.
        traffic: takes its instances out, and gives them back.
        outcome: what becomes of it.
        planned: what is to change of all but the last roles; None before the host was read.
    """

    run: HostRun
    traffic: HostTraffic
    outcome: Outcome
    planned: HostPlan | None = field(default=None)

    @property
    def name(self) -> str:
        """The host's name."""
        return self.outcome.host

    @property
    def is_well(self) -> bool:
        """Whether nothing has failed on the host."""
        return self.outcome.error is None

    @property
    def serves(self) -> bool:
        """Whether the run looks at its instances."""
        return self.run.host.gpu and bool(self.run.roles & role_interface.serving())

    @property
    def has_changes(self) -> bool:
        """Whether anything but the last roles is to change."""
        return self.planned is not None and bool(self.planned.changes)

    @property
    def changing(self) -> frozenset[str]:
        """Names of the instances that its changes concern, or `EVERY`; none once the host is worked on."""
        if self.run.plans or self.planned is None:
            return frozenset()
        return self.run.disruption.concerned(self.planned.changes)

    def needs_connection(self, later: frozenset[str]) -> bool:
        """Whether its connection is still needed: for its lock, or for roles that are still to come.

        Args:
            later: those roles.
        """
        return self.run.locked or any(entry.role in later for entry in self.run.steps.entries)

    def fail(self, error: HostError, context: Context) -> None:
        """Note what failed, with nothing secret in it. Nobody waits any longer for what only this host makes.

        Args:
            error: what failed.
            context: of the run.
        """
        error = interrupt.told(error, context, locked=self.run.locked)
        if self.run.locked and interrupt.is_cut_off(error, context):
            context.cut_off.add(self.name)
        self.outcome.error = error.masked(self.run.hide)
        if not isinstance(error, LockedError | Stopped):  # nothing is known to be wrong with those hosts
            context.failed.add(self.name)
        context.working.discard(self.name)
        context.listen(Event(self.name, "failed", error.step, error.message))
