"""One host of a run: read, plan, lock, change, read again."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast

from provision.apply import diagnostics
from provision.apply.step_runner import Performer
from provision.apply.traffic import NoTraffic, Traffic
from provision.command import Answer, Run
from provision.errors import FactError, HostError, UnreachableError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.plan import gpu_loss, planner
from provision.plan.change_order import Group, creates, groups, is_container, is_missing, may_run
from provision.plan.planner import Change, HostPlan
from provision.plan.role_order import Entry, facts_command, facts_needed, late, owned, serving, steps
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.session import Session
from provision.steps.base import EVERY, BlockedError, Owned, State, Step, converged
from provision.steps.facts import TITLE, Fleet, HostFacts, LateFacts
from provision.steps.nginx import upstream as marks

FRESH = 60.0  # seconds for which a host is taken to be what it was read to be
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
        self.past = past
        self.facts = HostFacts()
        self.changed: list[str] = []
        self.plans: list[HostPlan] = []
        self.hide = Mask(host.secrets())
        self._host_facts = facts_command(host, context.inventory)
        self._answers: dict[Run, Answer] = {}
        self._known: dict[Run, Answer] = {}  # what was read under the lock since the last change
        self._read_at = 0.0
        self._lease = lease or context.lease(session)
        self._performer = Performer(host.name, session, self._lease, context, self.say)
        self.traffic: Traffic[Any] = traffic or NoTraffic()
        self.refused: Mapping[str, str] = {}
        """Instance -> why it cannot be worked on, by the latest plan."""
        self._hurt = False  # whether a change failed that may concern instances which were not taken out for it

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every step of the host, in its place."""
        return steps(self.host, self.context.inventory)

    @property
    def goals(self) -> tuple[Entry, ...]:
        """The steps that this run makes what they should be."""
        return self.entries if self.past is None else self.past

    @property
    def answers(self) -> Mapping[Run, Answer]:
        """What the host said to every read so far."""
        return self._answers

    @cached_property
    def declared(self) -> frozenset[str]:
        """The ids of all its steps."""
        return frozenset(entry.step.id for entry in self.entries)

    @cached_property
    def finders(self) -> tuple[tuple[str, Owned], ...]:
        """What looks for orphans of the roles that are looked at. A rollback leaves them to the next deploy."""
        finders = ((role, finder) for role, finder in owned() if role in self.roles and self.past is None)
        return tuple((role, finder) for role, finder in finders if not self.declared >= finder.finds > frozenset())

    def say(self, kind: str, step: str = "", text: str = "", seconds: float = 0.0) -> None:
        """Tell the listener what happens on this host."""
        self.context.listen(Event(self.host.name, kind, step, self.hide(text), seconds))

    def read(self) -> None:
        """Read everything, in one exec."""
        self.say("reading")
        if not self._answers:
            self.session.begin()  # while it connects, the steps are put together
        reads = self._reads(self.roles)
        self._take(dict(zip(reads, self.session.batch(reads, stop=False), strict=True)))
        self._read_at = time.monotonic()

    def plan(self, roles: frozenset[str], fleet: Fleet | None = None, earlier: Sequence[Change] = ()) -> HostPlan:
        """What would change, of the roles named.

        Args:
            roles: a subset of this run's roles.
            fleet: what is known of the other hosts, for roles that need it.
            earlier: what will have been changed before that.
        """
        facts = dataclasses.replace(self.facts, fleet=fleet) if fleet else self.facts
        chosen = roles & self.roles
        # The guards are asked once, in the first wave, whatever roles it has.
        entries = [e for e in self.goals if e.role in chosen or (e.step.guards_host and fleet is None)]
        finders = [(role, finder) for role, finder in self.finders if role in chosen]
        found = planner.plan_host(
            entries, self.declared, finders, facts, self._answers, {c.step.id: c for c in earlier}
        )
        if fleet is None:
            self.refused = found.refused
            self.traffic.lost_cards(gpu_loss.lost(found.refused, self.entries, self._answers, facts))
        return dataclasses.replace(
            found, changes=tuple(planner.hidden(self._costed(c), self.hide) for c in found.changes)
        )

    @property
    def knows_upstream(self) -> bool:
        """Whether the upstream of a balancer was read, also where there is none yet."""
        return self._balancing is not None and self._balancing.fact().command in self._answers

    def upstream(self) -> str:
        """The upstream of a balancer as it was read last; empty on other hosts, and where there is none."""
        step = self._balancing
        if step is None or not self.knows_upstream:
            return ""
        with contextlib.suppress(BlockedError, FactError):
            return marks.text_of(planner.parse(step.fact(), self._answers, step.id))
        return ""

    @cached_property
    def _balancing(self) -> Step | None:
        return next((entry.step for entry in self.entries if entry.step.routes), None)

    def deploy(self, roles: frozenset[str], fleet: Fleet | None = None) -> Iterator[Any]:
        """Make these roles' steps what they should be. A host on which nothing differs is not touched.

        Yields:
            a slot whenever instances must go out of the upstream; is resumed when there may be room for them.

        Raises:
            HostError: something failed; what was changed until then is in `changed`.
        """
        yield from self._converge(roles, fleet)
        if fleet is None and self.host.gpu and self.roles & serving():
            self.traffic.finish()

    def keeps_marks(self, error: HostError) -> bool:
        """Whether the instances of this host serve as before, though it failed, but for those that went out.

        Args:
            error: what failed.
        """
        return not (self._hurt or isinstance(error, UnreachableError | FactError))

    def changing(self, changes: Sequence[Change]) -> frozenset[str]:
        """Names of the instances that changes concern, or `EVERY`, by what was read.

        Args:
            changes: as planned.
        """
        names = {change.step.part_of for change in changes if change.step.part_of}
        disrupted = {name for change in changes for name in self._disrupts(change)}
        return EVERY if disrupted >= EVERY else frozenset(names | disrupted)

    def _converge(self, roles: frozenset[str], fleet: Fleet | None) -> Iterator[Any]:
        todo = self._agreed(self.plan(roles, fleet), fleet)
        self.plans.append(todo)
        self._known = {}  # it may be long ago that it was read
        # While it is worked on, a balancer may be told of others' instances, and be locked for that.
        last = fleet is not None or not (self.context.roles & late() or self.host.balancer)
        for _ in range(PASSES):
            if not todo.changes:
                return
            if not self.locked:
                todo = self._lock(todo, roles, fleet)
            proofs = self._proofs(todo.changes)
            reads = list(dict.fromkeys([*self._scope(roles, fleet, todo.changes), *proofs]))
            yield from self._roll(todo.changes, fleet, reads, last=last)
            self._take(self._ask(reads))
            todo = self.plan(roles, fleet)
            if proofs:
                self._prove(roles)
        if todo.changes:
            self._hurt = True
            raise diagnostics.unsettled(todo, PASSES)

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
        order = groups(changes, self._disrupts)
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
        hurt = self._hurts(group, fleet)
        slot = self.traffic.request(hurt, group.changes[0].step.id) if hurt else None
        try:
            if slot is not None:
                yield slot  # until there is room for it
                while not self.traffic.cordon(slot):
                    yield slot
                self.traffic.drain(slot)
                self._known = {}  # that may have taken long
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

    def finish(self, result: str = "changed", error: HostError | None = None) -> None:
        """Write what came of it, where something was changed, and give the lock back.

        Args:
            result: as the recap names it.
            error: what failed on this host, with nothing secret in it; or None.
        """
        cut_off = self.host.name in self.context.cut_off or interrupt.is_cut_off(error, self.context)
        self._lease.end(self._performer.closing(result, error), cut_off=cut_off)

    @property
    def locked(self) -> bool:
        """Whether the host may hold this run's lock."""
        return self._lease.held

    def _costed(self, change: Change) -> Change:
        """The change, with what it costs where a daemon-reload may take the cards of containers."""
        if not (gpu_loss.endangers(change) and self._disrupts(change) == EVERY):
            return change
        said = "takes every instance of this host out meanwhile"
        return dataclasses.replace(change, impact=f"{change.impact}; {said}" if change.impact else said)

    def _reads(self, roles: frozenset[str], *, guards: bool = True) -> list[Run]:
        """The commands that read everything that planning for these roles looks at; host facts first."""
        chosen = (e for e in self.goals if e.role in roles & self.roles or (guards and e.step.guards_host))
        finders = ((role, finder) for role, finder in self.finders if role in roles)
        found = [*planner.facts_of(chosen, finders), *self._endangered(roles - late())]
        facts = facts_needed(self.host, self.context.inventory, roles & self.roles, found, guards=guards)
        return list(dict.fromkeys([facts, *found]))

    def _endangered(self, roles: frozenset[str], changes: Sequence[Change] = ()) -> list[Run]:
        """What tells whether containers can lose their cards.

        Args:
            roles: those of which any step may endanger the cards, whatever there is to change.
            changes: of other roles; only changes that do endanger the cards need to know.
        """
        steps = (e.step for e in self.goals if e.role in roles & self.roles)
        if not self.host.gpu or not (any(s.endangers_cards for s in steps) or any(map(gpu_loss.endangers, changes))):
            return []
        return gpu_loss.reads(self.entries)

    def _scope(self, roles: frozenset[str], fleet: Fleet | None, changes: Sequence[Change]) -> list[Run]:
        """What is read under the lock: what the last wave's roles need; before it, what comes later too."""
        reads = self._reads(self.roles) if fleet is None else self._reads(roles, guards=False)
        return [*reads, *(read for read in self._endangered(frozenset(), changes) if read not in reads)]

    def _proofs(self, changes: Sequence[Change]) -> list[Run]:
        """What tells whether instances still see their cards; not after the balancer's configuration alone changed."""
        if all(change.role in late() and not gpu_loss.endangers(change) for change in changes):
            return []
        return [entry.step.fact().command for entry in self.entries if is_container(entry.step)]

    def _take(self, answers: Mapping[Run, Answer]) -> None:
        """Plan with these answers from now on."""
        self._answers.update(answers)
        self.facts = planner.host_facts(answers, self.facts)

    def _ask(self, reads: Sequence[Run]) -> Mapping[Run, Answer]:
        """What was read since the last change; what of these was not is read now, in one exec."""
        missing = [read for read in dict.fromkeys(reads) if read not in self._known]
        if missing:
            self._known.update(zip(missing, self.session.batch(missing, stop=False), strict=True))
        return self._known

    def _lock(self, planned: HostPlan, roles: frozenset[str], fleet: Fleet | None) -> HostPlan:
        """Lock, read again in the same exec, and stop if there is something to change that was not planned.

        Returns:
            the plan to carry out: it is made anew where the host had to wait for others of this run, or for the end of
        somebody else's run, which changed things.
        """
        reads = self._scope(roles, fleet, planned.changes)
        first, *answers = self.session.batch([self._lease.acquire(), *reads], stop=False)
        say = partial(self.say, "progress", "lock")
        waited = self._lease.wait(first, self.context.lock_wait, self.context.stop, say)
        if waited:
            answers = self.session.batch(reads, stop=False)
        self._known = dict(zip(reads, answers, strict=True))
        self._take(self._known)
        now = self._agreed(self.plan(roles, fleet), fleet)
        self._take(self._ask(self._endangered(frozenset(), now.changes)))
        fresh = time.monotonic() - self._read_at < FRESH
        if fresh and not waited and (others := planner.unplanned(planned, now)):
            said = f"the host changed while it was being planned for: {', '.join(others)}"
            raise HostError(said[:500], "run it again: it shows what is to be done now")
        return now

    def _agreed(self, todo: HostPlan, fleet: Fleet | None) -> HostPlan:
        """The plan, if an operator who was asked agreed to it; that of the last wave depends on the other hosts."""
        return planner.agreed(self.context.confirmed.get(self.host.name), todo) if fleet is None else todo

    def _disrupts(self, change: Change) -> frozenset[str]:
        """Whose streams a change would cut, or whose cards it may take."""
        unsafe = gpu_loss.endangers(change) and not self._reload_safe()
        names = EVERY if unsafe else change.step.disrupts(change.have, change.want)
        return names if names != EVERY or self._may_serve() else frozenset()

    def _may_serve(self) -> bool:
        """Whether an instance may be running, by what was read last."""
        answers = {**self._answers, **self._known}
        return any(may_run(entry, answers) for entry in self.entries if is_container(entry.step))

    def _reload_safe(self) -> bool:
        """Whether containers keep their cards over a daemon-reload, by what was read last; what was not is read now."""
        if not self.host.gpu:
            return True
        missing = [read for read in gpu_loss.reads(self.entries) if read not in self._answers]
        if missing:
            self._take(dict(zip(missing, self.session.batch(missing, stop=False), strict=True)))
        return gpu_loss.are_safe(self.entries, self._answers)

    def _hurts(self, group: Group, fleet: Fleet | None) -> frozenset[str]:
        """The instances that the changes of a group would hurt, as the host is now: they must go out for it."""
        self._ask(_facts(group.changes))
        names = {name for change in group.changes for name in self._hurt_by(self._early(change, fleet), group)}
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

    def _hurt_by(self, change: Change | None, group: Group) -> frozenset[str]:
        if change is None:
            return frozenset()
        if creates(change):  # what another instance holds, it gives up for the new one
            return group.instances - EVERY - {change.step.part_of}
        return self._disrupts(change)

    def _repair_all(self, instances: Collection[str]) -> None:
        """Put right what broke of instances while Docker or systemd were busy, before they prove themselves."""
        for entry in self.entries:
            if entry.step.part_of not in instances:
                continue
            if is_container(entry.step) and is_missing(entry, self._ask([entry.step.fact().command])):
                self.traffic.missing(entry.step.part_of)
            else:
                self._repair(entry)

    def _repair(self, entry: Entry) -> None:
        fact = entry.step.fact()
        try:
            have = planner.parse(fact, self._ask([fact.command]), entry.step.id)
        except BlockedError as error:
            raise diagnostics.unknown(entry.step.id, "cannot be read any more", error) from error
        want = entry.step.repaired(have)
        if not converged(have, want):
            self._run(planner.make_change(entry, have, want), [], done=False)
            self.changed.append(entry.step.id)

    def _prove(self, roles: frozenset[str]) -> None:
        """After changes, every instance still sees its cards. Where its role is looked at, that is planned for anyway.

        Raises:
            HostError: one does not.
        """
        others = [one for one in self.entries if is_container(one.step) and one.role not in roles & self.roles]
        for entry in (one for one in others if one.step.part_of not in self.refused):
            have = gpu_loss.blind(entry, self._ask([entry.step.fact().command]))
            if have is not None:
                self._hurt = True
                raise diagnostics.lost_cards(entry.step.id, have)

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
                self._known = {}  # that may have taken long
                settled = self._settle(change, fleet)
            if settled is None:
                self.say("ok", step.id)
                return
            self._only_hurts(settled, hurt)
            self._carry_out(settled, following, hurt, done=done)
        except HostError as error:
            error.step = error.step or step.id
            if self.changed and error.hint == planner.NOTHING_CHANGED:
                error.hint = "what was changed before it stays; mend it and run it again"
            raise
        self.changed.append(step.id)
        self.say("changed", step.id, change.reason, time.monotonic() - begun)

    def _only_hurts(self, change: Change, hurt: frozenset[str]) -> None:
        """Make sure that a change hurts no instance that still gets requests.

        Raises:
            HostError: it would, because the host changed meanwhile.
        """
        names = frozenset() if creates(change) else self._disrupts(change)
        if hurt != EVERY and not names <= hurt:
            cut = "all instances" if names == EVERY else ", ".join(sorted(names))
            raise HostError(
                f"{change.step.id} would cut the streams of {cut} now, because the host changed meanwhile",
                "run it again: it takes them out of the upstream first",
            )

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

    def _settle(self, change: Change, fleet: Fleet | None) -> Change | None:
        """The change as it is now, or None if there is nothing left to change."""
        entry, step = change.entry, change.step
        fact = entry.fact()
        facts = cast(HostFacts, LateFacts(self._read_facts, fleet or Fleet()))
        try:
            have = planner.parse(fact, self._ask([fact.command]), step.id)
            if change.action == "remove":
                return None if have is None else planner.make_change(entry, have, None)
            want = planner.wanted(entry, facts, have)
        except BlockedError as error:
            raise diagnostics.unknown(step.id, "still cannot be read", error) from error
        return None if converged(have, want) else planner.make_change(entry, have, want)

    def _read_facts(self) -> HostFacts:
        """The host facts as they are since the last change. What was read then has all that the roles look at."""
        known = any(read.title == TITLE for read in self._known)
        self.facts = planner.host_facts(self._known if known else self._ask([self._host_facts]), self.facts)
        return self.facts

    def _run(self, change: Change, following: Sequence[Run], *, done: bool) -> State:
        """Run a change's commands, and read its fact again and what comes next."""
        fact = change.entry.fact()
        self._known = {}
        self._known = dict(self._performer.perform(change, list(dict.fromkeys([fact.command, *following])), done=done))
        try:
            return planner.parse(fact, self._known, change.step.id)
        except BlockedError as error:
            raise diagnostics.unknown(change.step.id, "cannot be read after it was changed", error) from error


def _facts(changes: Sequence[Change]) -> list[Run]:
    """What tells how these changes stand now."""
    return [change.entry.fact().command for change in changes]
