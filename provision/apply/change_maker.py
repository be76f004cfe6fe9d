"""One change of a host: made anew from the present state, carried out, and proved; and the repair of instances.

`apply` comes first, and its parts follow. `host_run` says which change comes when.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from provision.apply import diagnostics
from provision.apply.disruption import Disruption
from provision.apply.host_reader import HostReader
from provision.apply.host_steps import HostSteps
from provision.apply.step_runner import Performer
from provision.apply.traffic import Traffic
from provision.command import Run
from provision.errors import HostError
from provision.plan import planner
from provision.plan.change_order import creates, is_container, is_missing
from provision.plan.planner import Change
from provision.plan.role_interface import Entry
from provision.runs.context import Context, Stopped
from provision.steps.base import EVERY, BlockedError, State, converged
from provision.steps.facts import HostFacts, LateFacts


class ChangeMaker:
    """Makes the changes of one host, one at a time. Used by one thread at a time.

    Args:
        steps: the steps of the host.
        reader: the answers of the host.
        disruption: the streams that a change would cut.
        traffic: takes instances of the host out of the upstream.
        performer: runs the commands of a change.
        context: shared by the hosts of the run.
        say: tells the listener about an event: kind, step, text, seconds.
    """

    def __init__(
        self,
        steps: HostSteps,
        reader: HostReader,
        disruption: Disruption,
        traffic: Traffic[Any],
        performer: Performer,
        context: Context,
        say: Callable[..., None],
    ) -> None:
        self.steps = steps
        self.reader = reader
        self.disruption = disruption
        self.traffic = traffic
        self.context = context
        self.say = say
        self.changed: list[str] = []
        """The ids of the changed steps, in order."""
        self.hurt = False
        """Whether a failed change may have hurt instances that were not taken out."""
        self._performer = performer

    def apply(self, change: Change, following: Sequence[Run], hurt: frozenset[str], *, done: bool) -> None:
        """Make one change. Reads from before an earlier change do not count: read again first.

        Args:
            change: as planned; made anew from the present state.
            following: the commands to read after the change, in the same exec.
            hurt: the instances that may be disrupted: out of the upstream, or without requests.
            done: whether the lock can be given back in the same exec.
        """
        if self.context.stop.is_set():
            raise Stopped("stopped before " + change.step.id, "run the command again to go on")
        begun = time.monotonic()
        step = change.step
        self.say("changing", step.id, change.reason)
        try:
            settled = self.settle(change)
            if settled is not None and self._waits(settled):
                self.reader.forget()
                settled = self.settle(change)
            if settled is None:
                self.say("ok", step.id)
                return
            self.disruption.refuse_others(settled, hurt)
            self._carry_out(settled, following, hurt, done=done)
        except HostError as error:
            error.step = error.step or step.id
            if self.changed and error.hint == planner.NOTHING_CHANGED:
                error.hint = "earlier changes stay; repair the cause, then run the command again"
            raise
        if change.is_consequence:
            self.say("ok", step.id)
            return
        self.changed.append(step.id)
        self.say("changed", step.id, change.reason, time.monotonic() - begun)

    def _waits(self, change: Change) -> bool:
        """Have the balancers send nothing to a new instance, or the instance of a previous container tested; return
        whether either took time."""
        step = change.step
        if step.follows_test:
            return self.traffic.prove(step.part_of, step.id)
        return creates(change) and self.traffic.hold(step.part_of)

    def settle(self, change: Change) -> Change | None:
        """Make the change anew from the present state; None if nothing differs any more."""
        entry, step = change.entry, change.step
        facts = cast(HostFacts, LateFacts(self.reader.recent_facts))
        try:
            have = self.reader.state(entry.fact(), step.id)
            if change.action == "remove":
                return None if have is None else planner.make_change(entry, have, None)
            want = planner.wanted(entry, facts, have)
        except BlockedError as error:
            raise diagnostics.unknown(step.id, "still cannot be read", error) from error
        return None if converged(have, want) else planner.make_change(entry, have, want)

    def _carry_out(self, change: Change, following: Sequence[Run], hurt: frozenset[str], *, done: bool) -> None:
        """Run the commands of a change, and make sure that the host is as wanted afterwards."""
        alone = change.step.part_of or change.step.stands_apart or hurt == EVERY  # each instance is tested later
        try:
            have = self._run(change, following, done=done)
            if not converged(have, change.want):
                raise diagnostics.not_converged(change, have)
        except HostError:
            self.hurt = self.hurt or not alone
            raise

    def _run(self, change: Change, following: Sequence[Run], *, done: bool) -> State:
        """Run the commands of a change, then read the fact of the change and the following facts."""
        fact = change.entry.fact()
        self.reader.forget()
        self.reader.renew(self._performer.perform(change, list(dict.fromkeys([fact.command, *following])), done=done))
        try:
            return self.reader.state(fact, change.step.id)
        except BlockedError as error:
            raise diagnostics.unknown(change.step.id, "cannot be read after it was changed", error) from error

    def repair_all(self, instances: Collection[str]) -> None:
        """Repair the instances that broke while Docker or systemd were busy, before the test."""
        for entry in self.steps.entries:
            if entry.step.part_of not in instances:
                continue
            if is_container(entry.step) and is_missing(entry, self.reader.ask([entry.step.fact().command])):
                self.traffic.missing(entry.step.part_of)
            else:
                self._repair(entry)

    def _repair(self, entry: Entry) -> None:
        step = entry.step
        try:
            have = self.reader.state(step.fact(), step.id)
        except BlockedError as error:
            raise diagnostics.unknown(step.id, "cannot be read any more", error) from error
        want = step.repaired(have)
        if not converged(have, want):
            self._run(planner.make_change(entry, have, want), [], done=False)
            self.changed.append(step.id)
