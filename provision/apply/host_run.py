"""One host of a run: read, plan, lock, change group after group, prove.

`deploy` comes first, and its parts follow. `host_reader` has the answers of the host, `disruption` the streams that a
change would cut, `change_maker` makes a change, and `step_runner` runs the commands of a change.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from provision.apply import card_room, diagnostics, disk_room, way_back
from provision.apply.change_maker import ChangeMaker
from provision.apply.disruption import Disruption
from provision.apply.host_reader import HostReader
from provision.apply.host_steps import HostSteps
from provision.apply.step_runner import Performer
from provision.apply.traffic import NoTraffic, Traffic
from provision.command import Run
from provision.errors import FactError, HostError, UnreachableError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.plan import gpu_loss, planner
from provision.plan.change_order import Group, groups, with_releases
from provision.plan.planner import Change, HostPlan
from provision.plan.role_interface import Entry, late, serving
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.transport import Transport
from provision.steps.base import EVERY
from provision.steps.fleet_state import FleetState

PASSES = 3  # a change may make another step differ (a restart behind it); more rounds are a fight with another program


class HostRun:
    """One host during one run. Used by one thread at a time.

    Args:
        host: the host.
        session: the connection, opened by the first read.
        context: shared by the hosts of the run.
        roles: names of the roles on this host; by default the roles of the run.
        lease: the lock of the host; a new lease by default.
        traffic: takes instances of the host out of the upstream; by default no balancer sends to the host.
        past: the steps that a rollback restores, in their order; None for the declared steps.
    """

    def __init__(
        self,
        host: Host,
        session: Transport,
        context: Context,
        roles: frozenset[str] | None = None,
        lease: Lease | None = None,
        traffic: Traffic[Any] | None = None,
        past: tuple[Entry, ...] | None = None,
    ) -> None:
        self.host = host
        self.session = session
        self.context = context
        self.roles = context.roles if roles is None else roles
        self.steps = HostSteps(host, context.inventory, self.roles, context.setup.catalog, past)
        self.reader = HostReader(self.steps, session)
        self.disruption = Disruption(self.reader)
        self.traffic: Traffic[Any] = traffic or NoTraffic()
        self.hide = Mask(host.secrets())
        self.plans: list[HostPlan] = []
        self.refused: Mapping[str, str] = {}
        """Instance -> the reason of the refusal, by the latest plan."""
        self.unfit: Mapping[str, str] = {}
        """Instance -> why its models do not fit its cards; refused, or forced by the operator."""
        self.forced: tuple[str, ...] = ()
        """Refusals by cards and by disks that the operator overruled."""
        self._lease = lease or context.lease(session, host.connection.timeout_factor)
        self._performer = Performer(host.name, session, self._lease, context, self.say)
        self._planned_under_lock = False  # a lock taken by recovery comes without a read
        self._maker = ChangeMaker(
            self.steps, self.reader, self.disruption, self.traffic, self._performer, context, self.say
        )
        self.changed = self._maker.changed

    @property
    def locked(self) -> bool:
        """Whether the host may hold this run's lock."""
        return self._lease.held

    def say(self, kind: str, step: str = "", text: str = "", seconds: float = 0.0) -> None:
        """Tell the listener about an event on this host."""
        self.context.listen(Event(self.host.name, kind, step, self.hide(text), seconds))

    def read(self) -> None:
        """Read everything, in one exec."""
        self.say("reading")
        self.reader.read()

    def plan(self, roles: frozenset[str], fleet: FleetState | None = None, earlier: Sequence[Change] = ()) -> HostPlan:
        """Plan the changes of some roles.

        Args:
            roles: a subset of this run's roles.
            fleet: the state of the fleet, for late roles.
            earlier: the changes made before.
        """
        answers, facts = self.reader.answers, self.reader.facts
        # The guards are asked once, in the first wave, whatever roles it has.
        entries = list(self.steps.goals_of(roles, guards=fleet is None))
        if fleet is not None:
            entries = [dataclasses.replace(entry, step=entry.step.in_fleet(fleet)) for entry in entries]
        finders = [(role, finder) for role, finder in self.steps.finders if role in roles]
        before = {change.step.id: change for change in earlier}
        unfit = {} if self.context.force_fit else self.unfit
        plan = planner.plan_host(entries, self.steps.declared, finders, facts, answers, before, unfit)
        if fleet is None:
            self.refused = plan.refused
            self.traffic.lost_cards(gpu_loss.lost(plan.refused, self.steps.entries, answers, facts))
        changes = (
            planner.hidden(self.disruption.with_cost(change, self.context.store), self.hide) for change in plan.changes
        )
        return dataclasses.replace(plan, changes=tuple(changes))

    def with_room(self, plan: HostPlan, roles: frozenset[str]) -> HostPlan:
        """Return the plan without instances whose models do not fit their cards, and with a note for each step whose
        size is unknown. Ask the host only about changes that pull or make a container, in one exec.

        Args:
            plan: of this host.
            roles: of the plan.

        Raises:
            UnfitError: a disk has too little room for what the changes bring, and the operator forces nothing.
        """
        models = card_room.loads(plan, self.steps.entries if self.steps.past is None else ())
        reads = list(dict.fromkeys([*disk_room.reads(plan), *card_room.reads(models)]))
        answers = dict(zip(reads, self.session.batch(reads, stop=False), strict=True)) if reads else {}
        fit = card_room.judged(models, self.reader.facts, answers)
        self.unfit = {name: self.hide(why) for name, why in fit.unfit.items()}
        if self.unfit and not self.context.force_fit:
            plan = self.plan(roles)
        can_force = self.steps.past is None  # a deploy would undo what a rollback restores
        checked = disk_room.checked(plan, lambda wanted: [answers[read] for read in wanted], can_force=can_force)
        if checked.shortage and not self.context.force_fit:
            raise checked.shortage
        if self.context.force_fit:
            disks = (checked.shortage.message,) if checked.shortage else ()
            self.forced = (*self.unfit.values(), *map(self.hide, disks))
        notes = dict(checked.plan.notes)
        for step, note in fit.notes.items():
            notes[step] = "; ".join(filter(None, (notes.get(step, ""), note)))
        return dataclasses.replace(checked.plan, notes={step: self.hide(note) for step, note in notes.items()})

    def deploy(self, roles: frozenset[str], fleet: FleetState | None = None) -> Iterator[Any]:
        """Bring the steps of some roles to their wanted state. A host without differences is not touched.

        Args:
            roles: names of a wave's roles.
            fleet: the state of the fleet in the last wave; None before.

        Yields:
            a slot whenever instances must go out of the upstream. The iterator is resumed when the slot may fit.

        Raises:
            HostError: a read or a change failed. `changed` has the changes done so far.
        """
        yield from self._converge(roles, fleet)
        if fleet is None and self.host.gpu and self.roles & serving():
            self.traffic.finish()

    def _converge(self, roles: frozenset[str], fleet: FleetState | None) -> Iterator[Any]:
        """Plan, lock, change, and plan again from the reads after the change, until nothing differs."""
        todo = self._agreed(self.plan(roles, fleet), fleet)
        self.plans.append(todo)
        self.reader.forget()  # the read may be old by now
        # While this thread works on a balancer, another may lock the balancer to mark members.
        last = fleet is not None or not (self.context.roles & late() or self.host.balancer)
        for _ in range(PASSES):
            if not todo.changes:
                return
            if not (self.locked and self._planned_under_lock):
                todo = self._lock(todo, roles, fleet)
            proofs = self.reader.of_containers(todo.changes)
            reads = list(dict.fromkeys([*self.reader.needed_for(todo.changes, roles, fleet), *proofs]))
            yield from self._roll(todo.changes, reads, last=last)
            self.reader.take(self.reader.ask(reads))
            todo = self.plan(roles, fleet)
            if proofs:
                self._prove(roles)
        if todo.changes:
            self._maker.hurt = True
            raise diagnostics.unsettled(todo, PASSES)

    def _agreed(self, todo: HostPlan, fleet: FleetState | None) -> HostPlan:
        """Check that the operator agreed to the plan. The plan of the last wave depends on the fleet and is not
        checked."""
        return planner.agreed(self.context.confirmed.get(self.host.name), todo) if fleet is None else todo

    def _lock(self, planned: HostPlan, roles: frozenset[str], fleet: FleetState | None) -> HostPlan:
        """Lock, read again in the same exec, and stop if a change is new since the plan.

        Returns:
            the plan to carry out: made anew if the host waited for hosts of this run, or for another run's lock.
        """
        reads = self.reader.needed_for(planned.changes, roles, fleet)
        lock, *answers = self.session.batch([self._lease.acquire(), *reads], stop=False)
        say = partial(self.say, "progress", "lock")
        waited = self._lease.wait(lock, self.context.lock_wait, self.context.stop, say)
        if waited:
            answers = self.session.batch(reads, stop=False)
        self.reader.renew(dict(zip(reads, answers, strict=True)))
        self.reader.take(self.reader.ask(reads))
        self._planned_under_lock = True
        now = self._agreed(self.plan(roles, fleet), fleet)
        self.reader.take(self.reader.ask(self.reader.of_cards(frozenset(), now.changes)))
        if self.reader.is_fresh and not waited and (others := planner.unplanned(planned, now)):
            message = f"the host changed while it was being planned for: {', '.join(others)}"
            raise HostError(message[:500], "run the command again: the plan shows the present changes")
        return now

    def _roll(self, changes: Sequence[Change], reads: Sequence[Run], *, last: bool) -> Iterator[Any]:
        """Make the changes, group after group.

        Args:
            changes: as planned.
            reads: the commands to read after the last change.
            last: whether the lock can be given back after the last change.
        """
        order = with_releases(groups(changes, self.disruption.of))
        # the rules of the firewall may differ once a planned previous container is gone: keep the lock for that round
        last = last and not any(change.step.follows_test for change in changes)
        for group, following in itertools.zip_longest(order, order[1:]):
            then = _facts(following.changes) if following else reads
            yield from self._change(group, then, done=last and following is None)

    def _change(self, group: Group, then: Sequence[Run], *, done: bool) -> Iterator[Any]:
        """Make the changes of one group, while the disrupted instances are out of the upstream.

        Args:
            group: the changes.
            then: the commands to read after the last change of the group.
            done: whether the lock can be given back after the group.
        """
        first = group.changes[0].step.id
        with _about(first), self._pointing_back(group):
            hurt = self._hurt_by(group)
            slot = self.traffic.request(hurt, first) if hurt else None
            try:
                if slot is not None:
                    begin = time.monotonic()
                    yield slot  # resumed when the slot may fit
                    self._confirm(begin)
                    while not self.traffic.cordon(slot):
                        yield slot
                        self._confirm(begin)
                    self.traffic.drain(slot)
                    self.reader.forget()  # waiting for streams may have taken long
                for change, following in itertools.zip_longest(group.changes, group.changes[1:]):
                    reads = _facts([following]) if following else then
                    self._maker.apply(change, reads, hurt, done=done and slot is None and following is None)
                if slot is not None:
                    self._maker.repair_all(slot.instances)
            except Exception:
                self.traffic.abandon(slot)
                raise
        if slot is not None:
            with self._pointing_back(group):
                self.traffic.uncordon(slot)

    @contextlib.contextmanager
    def _pointing_back(self, group: Group) -> Iterator[None]:
        """Add to an error the command that starts a previous container again, if a change of the group has kept any."""
        try:
            yield
        except HostError as error:
            if not isinstance(error, UnreachableError | Stopped):
                known = self.plans[0].changes if self.plans else ()
                begun = self._performer.journal.changes
                way_back.add(error, group.changes, begun, known, self.reader, self.context.run_id)
            raise

    def _confirm(self, begin: float) -> None:
        """After a long wait, make sure that the host still answers and is locked by this run, before instances go out.

        Args:
            begin: begin of the wait, by the monotonic clock.

        Raises:
            HostError: the host is lost, or locked by another run.
        """
        if time.monotonic() - begin > self.context.setup.timings.long_wait:
            self._lease.took(self.session.batch([self._lease.acquire()], stop=False)[0])

    def _hurt_by(self, group: Group) -> frozenset[str]:
        """Return the instances that the changes of a group disrupt, as the host is now."""
        self.reader.ask(_facts(group.changes))
        changes = filter(None, (self._early(change) for change in group.changes))
        names = {name for change in changes for name in self.disruption.within(change, group)}
        if names and group.instances:
            names |= group.instances
        return EVERY if names >= EVERY else frozenset(names)

    def _early(self, change: Change) -> Change | None:
        """Settle a change before its group begins; return it as planned if only earlier changes of the group can
        tell."""
        try:
            return self._maker.settle(change)
        except UnreachableError:
            raise
        except HostError:
            return change

    def _prove(self, roles: frozenset[str]) -> None:
        """Check that every instance still sees its cards. Instances of a planned role are left to the next plan.

        Raises:
            HostError: an instance does not see its cards.
        """
        others = [entry for entry in self.steps.containers if entry.role not in roles & self.roles]
        for entry in (entry for entry in others if entry.step.part_of not in self.refused):
            have = gpu_loss.blind(entry, self.reader.ask([entry.step.fact().command]))
            if have is not None:
                self._maker.hurt = True
                raise diagnostics.lost_cards(entry.step.id, have)

    def keeps_marks(self, error: HostError) -> bool:
        """Whether the instances of this failed host serve as before, except for the instances that went out.

        Args:
            error: the failure.
        """
        return not (self._maker.hurt or isinstance(error, UnreachableError | FactError))

    def finish(self, result: str = "changed", error: HostError | None = None) -> None:
        """End the journal, if anything was changed, and give the lock back.

        Args:
            result: as in the recap.
            error: the failure on this host with secrets masked, or None.
        """
        cut_off = self.host.name in self.context.cut_off or interrupt.is_cut_off(error, self.context)
        self._lease.end(self._performer.closing(result, error), cut_off=cut_off)


@contextlib.contextmanager
def _about(step: str) -> Iterator[None]:
    """Add the id of a step to an error without a step."""
    try:
        yield
    except HostError as error:
        error.step = error.step or step
        raise


def _facts(changes: Sequence[Change]) -> list[Run]:
    """Return the commands that read the present state of some changes."""
    return [change.entry.fact().command for change in changes]
