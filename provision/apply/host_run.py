"""One host of a run: read, plan, lock, change group after group, prove.

Below, `deploy` is told from the whole to its parts. What the host said is in `host_reader`, whose streams a change
would cut in `disruption`, and how a change's commands are run in `step_runner`.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from provision.apply import diagnostics
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
from provision.plan.change_order import Group, creates, groups, is_container, is_missing
from provision.plan.planner import Change, HostPlan
from provision.plan.role_interface import Entry, late, serving
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.session import Session
from provision.steps.base import EVERY, BlockedError, State, converged
from provision.steps.facts import Fleet, HostFacts, LateFacts

PASSES = 3  # a change may make another step differ (a restart behind it); more rounds than this is a fight


class HostRun:
    """One host during one run. Used by one thread at a time.

    Args:
        host: the host.
        session: the connection; opened by the first read.
        context: what it shares with the other hosts.
        roles: names of the roles that are looked at on this host; those of the run when None.
        lease: the host's lock; one of its own when None.
        traffic: takes instances of the host out of the upstream; when None no balancer sends to any.
        past: the steps that a rollback puts back, in their order; what is declared when None.
    """

    def __init__(
        self,
        host: Host,
        session: Session,
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
        self.steps = HostSteps(host, context.inventory, self.roles, past)
        self.reader = HostReader(self.steps, session)
        self.disruption = Disruption(self.reader)
        self.traffic: Traffic[Any] = traffic or NoTraffic()
        self.hide = Mask(host.secrets())
        self.changed: list[str] = []
        self.plans: list[HostPlan] = []
        self.refused: Mapping[str, str] = {}
        """Instance -> why it cannot be worked on, by the latest plan."""
        self._lease = lease or context.lease(session)
        self._performer = Performer(host.name, session, self._lease, context, self.say)
        self._planned_under_lock = False  # what recovery locked was not read under the lock
        self._hurt = False  # whether a change failed that may concern instances which were not taken out for it

    @property
    def locked(self) -> bool:
        """Whether the host may hold this run's lock."""
        return self._lease.held

    def say(self, kind: str, step: str = "", text: str = "", seconds: float = 0.0) -> None:
        """Tell the listener what happens on this host."""
        self.context.listen(Event(self.host.name, kind, step, self.hide(text), seconds))

    def read(self) -> None:
        """Read everything, in one exec."""
        self.say("reading")
        self.reader.read()

    def plan(self, roles: frozenset[str], fleet: Fleet | None = None, earlier: Sequence[Change] = ()) -> HostPlan:
        """What would change, of the roles named.

        Args:
            roles: a subset of this run's roles.
            fleet: what is known of the other hosts, for roles that need it.
            earlier: what will have been changed before that.
        """
        answers, facts = self.reader.answers, self.reader.facts
        if fleet:
            facts = dataclasses.replace(facts, fleet=fleet)
        # The guards are asked once, in the first wave, whatever roles it has.
        entries = list(self.steps.goals_of(roles, guards=fleet is None))
        finders = [(role, finder) for role, finder in self.steps.finders if role in roles]
        before = {change.step.id: change for change in earlier}
        plan = planner.plan_host(entries, self.steps.declared, finders, facts, answers, before)
        if fleet is None:
            self.refused = plan.refused
            self.traffic.lost_cards(gpu_loss.lost(plan.refused, self.steps.entries, answers, facts))
        changes = (
            planner.hidden(self.disruption.with_cost(change, self.context.store), self.hide) for change in plan.changes
        )
        return dataclasses.replace(plan, changes=tuple(changes))

    def deploy(self, roles: frozenset[str], fleet: Fleet | None = None) -> Iterator[Any]:
        """Make these roles' steps what they should be. A host on which nothing differs is not touched.

        Args:
            roles: names of a wave's roles.
            fleet: what is known of the other hosts, in the last wave; None before it.

        Yields:
            a slot whenever instances must go out of the upstream; is resumed when there may be room for them.

        Raises:
            HostError: something failed; what was changed until then is in `changed`.
        """
        yield from self._converge(roles, fleet)
        if fleet is None and self.host.gpu and self.roles & serving():
            self.traffic.finish()

    def _converge(self, roles: frozenset[str], fleet: Fleet | None) -> Iterator[Any]:
        """Plan, lock, change, and plan again from what was read after that, until nothing differs."""
        todo = self._agreed(self.plan(roles, fleet), fleet)
        self.plans.append(todo)
        self.reader.forget()  # it may be long ago that it was read
        # While it is worked on, a balancer may be told of others' instances, and be locked for that.
        last = fleet is not None or not (self.context.roles & late() or self.host.balancer)
        for _ in range(PASSES):
            if not todo.changes:
                return
            if not (self.locked and self._planned_under_lock):
                todo = self._lock(todo, roles, fleet)
            proofs = self.reader.of_containers(todo.changes)
            reads = list(dict.fromkeys([*self.reader.needed_for(todo.changes, roles, fleet), *proofs]))
            yield from self._roll(todo.changes, fleet, reads, last=last)
            self.reader.take(self.reader.ask(reads))
            todo = self.plan(roles, fleet)
            if proofs:
                self._prove(roles)
        if todo.changes:
            self._hurt = True
            raise diagnostics.unsettled(todo, PASSES)

    def _agreed(self, todo: HostPlan, fleet: Fleet | None) -> HostPlan:
        """The plan, if an operator who was asked agreed to it; that of the last wave depends on the other hosts."""
        return planner.agreed(self.context.confirmed.get(self.host.name), todo) if fleet is None else todo

    def _lock(self, planned: HostPlan, roles: frozenset[str], fleet: Fleet | None) -> HostPlan:
        """Lock, read again in the same exec, and stop if there is something to change that was not planned.

        Returns:
            the plan to carry out: it is made anew where the host had to wait for others of this run, or for the end of
        somebody else's run, which changed things.
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
            raise HostError(message[:500], "run it again: it shows what is to be done now")
        return now

    def _roll(
        self, changes: Sequence[Change], fleet: Fleet | None, reads: Sequence[Run], *, last: bool
    ) -> Iterator[Any]:
        """Make the changes, group after group.

        Args:
            changes: as planned.
            fleet: what is known of the other hosts.
            reads: what is to be read after the last one.
            last: whether the lock can be given back after that.
        """
        order = groups(changes, self.disruption.of)
        for group, following in itertools.zip_longest(order, order[1:]):
            then = _facts(following.changes) if following else reads
            yield from self._change(group, fleet, then, done=last and following is None)

    def _change(self, group: Group, fleet: Fleet | None, then: Sequence[Run], *, done: bool) -> Iterator[Any]:
        """Make the changes of one group, with the instances out of the upstream that they would hurt.

        Args:
            group: the changes.
            fleet: what is known of the other hosts.
            then: what is to be read after the last of them.
            done: whether the lock can be given back after that.
        """
        first = group.changes[0].step.id
        with _about(first):
            hurt = self._hurt_by(group, fleet)
            slot = self.traffic.request(hurt, first) if hurt else None
            try:
                if slot is not None:
                    asked = time.monotonic()
                    yield slot  # until there is room for it
                    self._confirm(asked)
                    while not self.traffic.cordon(slot):
                        yield slot
                        self._confirm(asked)
                    self.traffic.drain(slot)
                    self.reader.forget()  # that may have taken long
                for change, following in itertools.zip_longest(group.changes, group.changes[1:]):
                    reads = _facts([following]) if following else then
                    self._apply(change, fleet, reads, hurt, done=done and slot is None and following is None)
                if slot is not None:
                    self._repair_all(slot.instances)
            except Exception:
                self.traffic.abandon(slot)
                raise
        if slot is not None:
            self.traffic.uncordon(slot)

    def _confirm(self, asked: float) -> None:
        """After a long wait, make sure that the host is still there, and locked by this run, before anything goes out.

        Args:
            asked: when the wait began, on the monotonic clock.

        Raises:
            HostError: it is not.
        """
        if time.monotonic() - asked > self.context.long_wait:
            self._lease.took(self.session.batch([self._lease.acquire()], stop=False)[0])

    def _hurt_by(self, group: Group, fleet: Fleet | None) -> frozenset[str]:
        """The instances that the changes of a group would hurt, as the host is now: they must go out for it."""
        self.reader.ask(_facts(group.changes))
        changes = filter(None, (self._early(change, fleet) for change in group.changes))
        names = {name for change in changes for name in self.disruption.within(change, group)}
        if names and group.instances:
            names |= group.instances
        return EVERY if names >= EVERY else frozenset(names)

    def _early(self, change: Change, fleet: Fleet | None) -> Change | None:
        """A change as it is before its group begins; as planned, where only the changes before it tell."""
        try:
            return self._settle(change, fleet)
        except UnreachableError:
            raise
        except HostError:
            return change

    def _apply(
        self, change: Change, fleet: Fleet | None, following: Sequence[Run], hurt: frozenset[str], *, done: bool
    ) -> None:
        """Make one change. What was read before an earlier change is not trusted: it is read again first.

        Args:
            change: as planned; made anew from what is now there.
            fleet: what is known of the other hosts.
            following: what is to be read after it, in the same exec.
            hurt: the instances that may be hurt: they are out, or nothing is sent to them.
            done: whether the lock can be given back then, in the same exec.
        """
        if self.context.stop.is_set():
            raise Stopped("stopped before " + change.step.id, "run it again to go on")
        begun = time.monotonic()
        step = change.step
        self.say("changing", step.id, change.reason)
        try:
            settled = self._settle(change, fleet)
            if settled is not None and creates(settled) and self.traffic.hold(step.part_of):
                self.reader.forget()  # that may have taken long
                settled = self._settle(change, fleet)
            if settled is None:
                self.say("ok", step.id)
                return
            self.disruption.refuse_others(settled, hurt)
            self._carry_out(settled, following, hurt, done=done)
        except HostError as error:
            error.step = error.step or step.id
            if self.changed and error.hint == planner.NOTHING_CHANGED:
                error.hint = "what was changed before it stays; mend it and run it again"
            raise
        self.changed.append(step.id)
        self.say("changed", step.id, change.reason, time.monotonic() - begun)

    def _settle(self, change: Change, fleet: Fleet | None) -> Change | None:
        """The change as it is now, or None if there is nothing left to change."""
        entry, step = change.entry, change.step
        facts = cast(HostFacts, LateFacts(self.reader.recent_facts, fleet or Fleet()))
        try:
            have = self.reader.state(entry.fact(), step.id)
            if change.action == "remove":
                return None if have is None else planner.make_change(entry, have, None)
            want = planner.wanted(entry, facts, have)
        except BlockedError as error:
            raise diagnostics.unknown(step.id, "still cannot be read", error) from error
        return None if converged(have, want) else planner.make_change(entry, have, want)

    def _carry_out(self, change: Change, following: Sequence[Run], hurt: frozenset[str], *, done: bool) -> None:
        """Run a change's commands, and make sure that the host is as wanted after it."""
        alone = change.step.part_of or change.step.stands_apart or hurt == EVERY  # each of all is tested after it
        try:
            have = self._run(change, following, done=done)
            if not converged(have, change.want):
                raise diagnostics.not_converged(change, have)
        except HostError:
            self._hurt = self._hurt or not alone
            raise

    def _run(self, change: Change, following: Sequence[Run], *, done: bool) -> State:
        """Run a change's commands, and read its fact again and what comes next."""
        fact = change.entry.fact()
        self.reader.forget()
        self.reader.renew(self._performer.perform(change, list(dict.fromkeys([fact.command, *following])), done=done))
        try:
            return self.reader.state(fact, change.step.id)
        except BlockedError as error:
            raise diagnostics.unknown(change.step.id, "cannot be read after it was changed", error) from error

    def _repair_all(self, instances: Collection[str]) -> None:
        """Put right what broke of instances while Docker or systemd were busy, before they prove themselves."""
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

    def _prove(self, roles: frozenset[str]) -> None:
        """After changes, every instance still sees its cards. Where its role is looked at, that is planned for anyway.

        Raises:
            HostError: one does not.
        """
        others = [entry for entry in self.steps.containers if entry.role not in roles & self.roles]
        for entry in (entry for entry in others if entry.step.part_of not in self.refused):
            have = gpu_loss.blind(entry, self.reader.ask([entry.step.fact().command]))
            if have is not None:
                self._hurt = True
                raise diagnostics.lost_cards(entry.step.id, have)

    def keeps_marks(self, error: HostError) -> bool:
        """Whether the instances of this host serve as before, though it failed, but for those that went out.

        Args:
            error: what failed.
        """
        return not (self._hurt or isinstance(error, UnreachableError | FactError))

    def finish(self, result: str = "changed", error: HostError | None = None) -> None:
        """Write what came of it, where something was changed, and give the lock back.

        Args:
            result: as the recap names it.
            error: what failed on this host, with nothing secret in it; or None.
        """
        cut_off = self.host.name in self.context.cut_off or interrupt.is_cut_off(error, self.context)
        self._lease.end(self._performer.closing(result, error), cut_off=cut_off)


@contextlib.contextmanager
def _about(step: str) -> Iterator[None]:
    """Have an error name a step, where it names none yet."""
    try:
        yield
    except HostError as error:
        error.step = error.step or step
        raise


def _facts(changes: Sequence[Change]) -> list[Run]:
    """What tells how these changes stand now."""
    return [change.entry.fact().command for change in changes]
