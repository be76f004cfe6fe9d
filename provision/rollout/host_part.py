"""One host of a run across hosts: its work, its traffic, its outcome."""

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
        run: the work on the host.
        traffic: cordons and admits the host's instances.
        outcome: the result so far.
        planned: the changes of all roles but the late roles; None before the host is read.
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
        """Whether the run looks at the host's instances."""
        return self.run.host.gpu and bool(self.run.roles & role_interface.serving())

    @property
    def has_changes(self) -> bool:
        """Whether the plan changes anything outside the late roles."""
        return self.planned is not None and bool(self.planned.changes)

    @property
    def changing(self) -> frozenset[str]:
        """Names of the instances that planned changes concern, or `EVERY`; empty once work on the host has begun."""
        if self.run.plans or self.planned is None:
            return frozenset()
        return self.run.disruption.concerned(self.planned.changes)

    def needs_connection(self, later: frozenset[str]) -> bool:
        """Whether the connection is still needed: for the lock, or for roles to come.

        Args:
            later: the roles to come.
        """
        return self.run.locked or any(entry.role in later for entry in self.run.steps.entries)

    def fail(self, error: HostError, context: Context) -> None:
        """Note an error with its secrets masked. Hosts that wait for this host's build wait no longer.

        Args:
            error: the error.
            context: of the run.
        """
        error = interrupt.for_operator(error, context, locked=self.run.locked)
        if self.run.locked and interrupt.is_cut_off(error, context):
            context.cut_off.add(self.name)
        self.outcome.error = error.masked(self.run.hide)
        if not isinstance(error, LockedError | Stopped):  # a locked or stopped host is not known to be broken
            context.failed.add(self.name)
        context.working.discard(self.name)
        context.listen(Event(self.name, self.outcome.result, error.step, error.message))
