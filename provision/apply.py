"""One host of a run: read, plan, lock, change, read again."""

import dataclasses
import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

from provision import evidence, lock, plan
from provision.artifacts import Store
from provision.command import Answer, Command, Obtain, Put, Run
from provision.errors import FactError, HostError, LockedError
from provision.events import Event, Listener
from provision.inventory import Host, Inventory, Mask
from provision.plan import Change, HostPlan
from provision.sequence import LAST, Entry, owned, peers, steps
from provision.ssh import Session, first_failure
from provision.steps import facts as host_facts
from provision.steps.base import BlockedError, Owned, State, converged
from provision.steps.facts import Fleet, HostFacts, LateFacts

PASSES = 3  # a change may make another step differ (a restart behind it); more rounds than this is a fight
LOCK_POLL = 2.0  # seconds between two looks at a lock that somebody else has
INLINE = 48 * 1024  # bytes of a file that ride in a script; larger ones have an exec of their own


class Stopped(HostError):  # noqa: N818 - a wish of the operator, not an error
    """The operator interrupted the run; the host was left between two steps."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What the hosts of one run share.

    Args:
        run_id: the run's id.
        inventory: all of it: upstream and firewall come from the whole.
        roles: names of the roles that are looked at.
        listen: is told what happens; called from many threads.
        store: where artifacts are kept.
        stop: set when the operator wants to stop; asked between steps.
        failed: names of hosts that have failed so far.
        working: names of hosts that are being worked on or still will be.
        lock_wait: seconds to wait for a host that somebody else has.
    """

    run_id: str
    inventory: Inventory
    roles: frozenset[str]
    listen: Listener
    store: Store
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    failed: set[str] = dataclasses.field(default_factory=set)
    working: set[str] = dataclasses.field(default_factory=set)
    lock_wait: float = 0.0


class HostRun:
    """One host during one run. Used by one thread at a time.

    Args:
        host: the host.
        session: the connection; opened by the first read.
        context: what it shares with the other hosts.
        roles: names of the roles that are looked at on this host; those of the run when None.
    """

    def __init__(self, host: Host, session: Session, context: Context, roles: frozenset[str] | None = None) -> None:
        self.host = host
        self.session = session
        self.context = context
        self.roles = context.roles if roles is None else roles
        self.facts = HostFacts()
        self.changed: list[str] = []
        self.plans: list[HostPlan] = []
        self.hide = Mask(host.secrets())
        self._peers = peers(host, context.inventory)
        self._answers: dict[Run, Answer] = {}
        self._known: dict[Run, Answer] = {}  # what was read under the lock since the last change
        self._locked = False
        self._renewed = 0.0

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every step of the host, in its place."""
        return steps(self.host, self.context.inventory)

    @cached_property
    def declared(self) -> frozenset[str]:
        """The ids of all its steps."""
        return frozenset(entry.step.id for entry in self.entries)

    @cached_property
    def finders(self) -> tuple[tuple[str, Owned], ...]:
        """What looks for orphans of the roles that are looked at."""
        return tuple((role, finder) for role, finder in owned() if role in self.roles)

    def say(self, kind: str, step: str = "", text: str = "", seconds: float = 0.0) -> None:
        """Tell the listener what happens on this host."""
        self.context.listen(Event(self.host.name, kind, step, self.hide(text), seconds))

    def read(self) -> None:
        """Read everything, in one exec."""
        self.say("reading")
        self.session.begin()  # while it connects, the steps are put together
        reads = self._reads(self.roles)
        self._take(dict(zip(reads, self.session.batch(reads, stop=False), strict=True)))

    def plan(self, roles: frozenset[str], fleet: Fleet | None = None, earlier: Sequence[Change] = ()) -> HostPlan:
        """What would change, of the roles named.

        Args:
            roles: a subset of this run's roles.
            fleet: what is known of the other hosts, for roles that need it.
            earlier: what will have been changed before that.
        """
        facts = self._facts(fleet)
        chosen = roles & self.roles
        # The guards are asked once, in the first wave, whatever roles it has.
        entries = [e for e in self.entries if e.role in chosen or (e.step.guards_host and fleet is None)]
        finders = [(role, finder) for role, finder in self.finders if role in chosen]
        found = plan.plan_host(entries, self.declared, finders, facts, self._answers, {c.step.id: c for c in earlier})
        return dataclasses.replace(found, changes=tuple(map(self._hidden, found.changes)))

    def deploy(self, roles: frozenset[str], fleet: Fleet | None = None) -> None:
        """Make these roles' steps what they should be. A host on which nothing differs is not touched.

        Raises:
            HostError: something failed; what was changed until then is in `changed`.
        """
        todo = self.plan(roles, fleet)
        self.plans.append(todo)
        self._known = {}  # it may be long ago that it was read
        reads = self._scope(roles, fleet)
        last = fleet is not None or not self.context.roles & frozenset(LAST)
        for _ in range(PASSES):
            if not todo.changes:
                return
            if not self._locked:
                todo = self._lock(todo, roles, fleet)
            for change, following in _with_following(todo.changes, reads):
                self._apply(change, fleet, following, done=last and following is reads)
            self._take(self._ask(reads))
            todo = self.plan(roles, fleet)
        if todo.changes:
            raise evidence.unsettled(todo, PASSES)

    def finish(self) -> None:
        """Give the lock back."""
        if self._locked:
            self._locked = False
            self.session.batch([lock.release(self.context.run_id)], stop=False)

    @property
    def locked(self) -> bool:
        """Whether the host may hold this run's lock."""
        return self._locked

    def _hidden(self, change: Change) -> Change:
        """The change with nothing secret in what is shown of it."""
        shown = {name: self.hide(getattr(change, name)) for name in ("reason", "diff", "impact")}
        return dataclasses.replace(change, **shown)

    def _reads(self, roles: frozenset[str], *, guards: bool = True) -> list[Run]:
        """The commands that read everything that planning for these roles looks at; host facts first."""
        chosen = (e for e in self.entries if e.role in roles & self.roles or (guards and e.step.guards_host))
        finders = ((role, finder) for role, finder in self.finders if role in roles)
        return list(dict.fromkeys([host_facts.command(self._peers), *plan.facts_of(chosen, finders)]))

    def _scope(self, roles: frozenset[str], fleet: Fleet | None) -> list[Run]:
        """What is read under the lock: what the last wave's roles need; before it, what comes later too."""
        return self._reads(self.roles) if fleet is None else self._reads(roles, guards=False)

    def _take(self, answers: Mapping[Run, Answer]) -> None:
        """Plan with these answers from now on."""
        self._answers.update(answers)
        self.facts = plan.host_facts(self._answers[host_facts.command(self._peers)])

    def _ask(self, reads: Sequence[Run]) -> Mapping[Run, Answer]:
        """What was read since the last change; what of these was not is read now, in one exec."""
        missing = [read for read in dict.fromkeys(reads) if read not in self._known]
        if missing:
            self._known.update(zip(missing, self.session.batch(missing, stop=False), strict=True))
        return self._known

    def _facts(self, fleet: Fleet | None) -> HostFacts:
        return dataclasses.replace(self.facts, fleet=fleet) if fleet else self.facts

    def _lock(self, planned: HostPlan, roles: frozenset[str], fleet: Fleet | None) -> HostPlan:
        """Lock, read again in the same exec, and stop if the host is no longer what was planned for.

        Returns:
            the plan to carry out: after a wait for somebody else's run it is made anew, for that run changed things.
        """
        self._locked = True  # before the answer: it may be lost, and giving back what is not ours does nothing
        reads = self._scope(roles, fleet)
        first, *answers = self.session.batch([lock.acquire(self.context.run_id), *reads], stop=False)
        waited = self._await_lock(first)
        if waited:
            answers = self.session.batch(reads, stop=False)
        self._known = dict(zip(reads, answers, strict=True))
        self._take(self._known)
        now = self.plan(roles, fleet)
        if not waited and _outline(now) != _outline(planned):
            raise HostError("the host changed while it was being planned for", "run it again")
        return now

    def _await_lock(self, answer: Answer) -> bool:
        """Make sure that the lock was taken, or wait for it as long as is allowed; whether it had to be waited for.

        Raises:
            LockedError: somebody else still has it.
        """
        deadline = time.monotonic() + self.context.lock_wait
        waited = False
        while True:
            try:
                lock.checked(answer)
            except LockedError as error:
                if time.monotonic() >= deadline or self.context.stop.is_set():
                    raise
                self.say("progress", "lock", f"waiting: {error.message}")
            else:
                return waited
            waited = True
            time.sleep(LOCK_POLL)
            answer = self.session.batch([lock.acquire(self.context.run_id)], stop=False)[0]

    def _apply(self, change: Change, fleet: Fleet | None, following: Sequence[Run], *, done: bool) -> None:
        """Make one change. What was read before an earlier change is not trusted: it is read again first.

        Args:
            change: as planned; made anew from what is now there.
            fleet: what is known of the other hosts.
            following: what is to be read after it, in the same exec.
            done: whether the lock can be given back then, in the same exec.
        """
        if self.context.stop.is_set():
            raise Stopped("stopped before " + change.step.id, "run it again to go on")
        begun = time.monotonic()
        step = change.step
        self.say("changing", step.id, change.reason)
        try:
            settled = self._settle(change, fleet)
            if settled is None:
                self.say("ok", step.id)
                return
            change = settled
            have = self._run(change, following, done=done)
        except HostError as error:
            error.step = error.step or step.id
            if self.changed and error.hint == plan.NOTHING_CHANGED:
                error.hint = "what was changed before it stays; mend it and run it again"
            raise
        if not converged(have, change.want):
            raise evidence.not_converged(change, have)
        self.changed.append(step.id)
        self.say("changed", step.id, change.reason, time.monotonic() - begun)

    def _settle(self, change: Change, fleet: Fleet | None) -> Change | None:
        """The change as it is now, or None if there is nothing left to change."""
        step, fact = change.step, change.step.fact()
        facts = cast(HostFacts, LateFacts(self._read_facts, fleet or Fleet()))
        try:
            have = plan.parse(fact, self._ask([fact.command]), step.id)
            if change.action == "remove":
                return None if have is None else plan.make_change(Entry(change.role, step), have, None)
            want = plan.wanted(step, facts, have)
        except BlockedError as error:
            raise FactError(f"{step.id} still cannot be read", step=step.id, stderr=error.evidence) from error
        return None if converged(have, want) else plan.make_change(Entry(change.role, step), have, want)

    def _read_facts(self) -> HostFacts:
        command = host_facts.command(self._peers)
        self.facts = plan.host_facts(self._ask([command])[command])
        return self.facts

    def _run(self, change: Change, following: Sequence[Run], *, done: bool) -> State:
        """Run a change's commands, read its fact again and what comes next, in as few execs as they allow."""
        fact = change.step.fact()
        self._known = {}
        batch: list[Run | Put] = []
        for command in change.commands:
            if isinstance(command, Run | Put) and _is_short(command):
                batch.append(command)
                continue
            if batch:
                self._batch(change, batch)
            self._long(change, command)
            batch = []
        reads = list(dict.fromkeys([fact.command, *following]))
        ends = [lock.release(self.context.run_id)] if done else []
        answers = self._batch(change, batch, [*reads, *ends])[len(batch) :]
        self._known = dict(zip(reads, answers, strict=False))
        self._locked = not (done and answers[-1].exit == 0)
        try:
            return plan.parse(fact, self._known, change.step.id)
        except BlockedError as error:
            raise FactError(f"{change.step.id} cannot be read after it was changed", stderr=error.evidence) from error

    def _long(self, change: Change, command: Command) -> None:
        """Run a command that has an exec of its own."""
        if isinstance(command, Obtain):
            self._obtain(change, command)
        elif isinstance(command, Put):
            self.session.upload(io.BytesIO(command.content), command.path, command.mode, command.owner)
        else:
            self._job(change, command)

    def _batch(self, change: Change, commands: Sequence[Run | Put], after: Sequence[Run] = ()) -> list[Answer]:
        """Run short commands in one exec that renews the lock first; the first that fails is an error.

        Args:
            change: whose they are.
            commands: what to run.
            after: what to run then, whether it fails or not: parsers judge the exit codes of reads.
        """
        seconds = sum(command.timeout for command in commands if isinstance(command, Run))
        batch = [lock.acquire(self.context.run_id, seconds), *commands, *map(_never_failing, after)]
        answers = self.session.batch(batch, stop=True)
        lock.checked(answers[0])
        self._renewed = time.monotonic()
        number = first_failure(batch, answers)
        if number is not None:
            raise evidence.command_failed(change, batch[number], answers[number])
        return answers[1:]

    def _renew(self) -> None:
        """Keep the lock while something long is waited for."""
        if time.monotonic() - self._renewed > lock.RENEW_SECONDS:
            self._renewed = time.monotonic()
            lock.checked(self.session.batch([lock.acquire(self.context.run_id)], stop=False)[0])

    def _job(self, change: Change, run: Run) -> None:
        def show(line: str) -> None:
            self._renew()
            text = run.progress(line) if run.progress else line.strip()
            if text:
                self.say("progress", change.step.id, text[:200])

        answer = self.session.job(run, show, self.context.stop.is_set)
        if not run.good(answer.exit):
            raise evidence.command_failed(change, run, answer)

    def _obtain(self, change: Change, wanted: Obtain) -> None:
        with self.context.store.single_flight(wanted.key, lambda: self._waiting(change, wanted)):
            path = self.context.store.find(wanted.key)
            if path is None and wanted.host in ("", self.host.name):
                self._make(change, wanted)
                return
        while path is None:
            self._waiting(change, wanted)
            time.sleep(0.5)
            path = self.context.store.find(wanted.key)
        with path.open("rb") as source:
            self.session.upload(source, wanted.path)

    def _waiting(self, change: Change, wanted: Obtain) -> None:
        """Called while another host makes an artifact; raises when there is nothing to wait for."""
        self.say("progress", change.step.id, f"waiting for {wanted}")
        self._renew()
        if self.context.stop.is_set():
            raise Stopped("stopped while waiting", "run it again to go on")
        if wanted.host and wanted.host not in self.context.working:
            became = "failed" if wanted.host in self.context.failed else "is not in this run, or had nothing to make"
            hint = f"see to {wanted.host}, run with it, or let another host make it"
            raise HostError(f"{wanted}: only {wanted.host} may make it, and it {became}", hint)

    def _make(self, change: Change, wanted: Obtain) -> None:
        for command in wanted.make:
            if isinstance(command, Run) and command.job:
                self._job(change, command)
            else:
                self._batch(change, [command])
        with self.context.store.adding(wanted.key) as path, path.open("wb") as target:
            self.session.download(wanted.path, target)


def _with_following(changes: Sequence[Change], reads: list[Run]) -> Iterator[tuple[Change, list[Run]]]:
    """Every change with what is to be read after it: the fact of the next one, and after the last one everything."""
    for number, change in enumerate(changes, 1):
        yield change, [changes[number].step.fact().command] if number < len(changes) else reads


def _outline(planned: HostPlan) -> list[tuple[str, str, str, State, State]]:
    return [(c.step.id, c.action, c.reason, c.have, c.want) for c in planned.changes]


def _is_short(command: Run | Put) -> bool:
    """Whether it can share an exec with others."""
    return not command.job if isinstance(command, Run) else len(command.content) <= INLINE


def _never_failing(run: Run) -> Run:
    """The same read, for a batch that stops at a failure: its parser judges the exit code, not the batch."""
    return dataclasses.replace(run, ok=())
