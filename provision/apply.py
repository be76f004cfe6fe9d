"""One host of a run: read, plan, lock, change, read again."""

import dataclasses
import io
import threading
import time
from collections.abc import Mapping, Sequence

from provision import lock, plan
from provision.artifacts import Store
from provision.command import Answer, Command, Obtain, Put, Run
from provision.errors import CommandError, FactError, HostError, NotConvergedError
from provision.events import Event, Listener
from provision.inventory import Host, Inventory, Mask
from provision.plan import Change, HostPlan
from provision.sequence import Entry, owned, peers, steps
from provision.ssh import Session, first_failure
from provision.steps import facts as host_facts
from provision.steps.base import BlockedError, State, converged, differing
from provision.steps.facts import Fleet, HostFacts

PASSES = 3  # a change may make another step differ (a restart behind it); more rounds than this is a fight
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
    """

    run_id: str
    inventory: Inventory
    roles: frozenset[str]
    listen: Listener
    store: Store
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    failed: set[str] = dataclasses.field(default_factory=set)
    working: set[str] = dataclasses.field(default_factory=set)


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
        self.entries = steps(host, context.inventory)
        self.declared = frozenset(entry.step.id for entry in self.entries)
        self.finders = tuple((role, finder) for role, finder in owned() if role in self.roles)
        self.facts = HostFacts()
        self.changed: list[str] = []
        self.plans: list[HostPlan] = []
        self.hide = Mask(host.secrets())
        self._peers = peers(host, context.inventory)
        self._answers: Mapping[Run, Answer] = {}
        self._locked = False
        self._renewed = 0.0

    def say(self, kind: str, step: str = "", text: str = "", seconds: float = 0.0) -> None:
        """Tell the listener what happens on this host."""
        self.context.listen(Event(self.host.name, kind, step, self.hide(text), seconds))

    def read(self) -> None:
        """Read everything, in one exec."""
        self.say("reading")
        self._take(self.session.batch(self._reads(), stop=False))

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
        for _ in range(PASSES):
            if not todo.changes:
                return
            fresh = not self._locked
            if not self._locked:
                self._lock(todo, roles, fleet)
            for change in todo.changes:
                self._apply(change, fleet, fresh=fresh)
                fresh = False
            self.read()
            todo = self.plan(roles, fleet)
        if todo.changes:
            raise _unsettled(todo)

    def finish(self) -> None:
        """Give the lock back."""
        if self._locked:
            self._locked = False
            self.session.batch([lock.release(self.context.run_id)], stop=False)

    def _hidden(self, change: Change) -> Change:
        """The change with nothing secret in what is shown of it."""
        shown = {name: self.hide(getattr(change, name)) for name in ("reason", "diff", "impact")}
        return dataclasses.replace(change, **shown)

    def _reads(self) -> list[Run]:
        chosen = (e for e in self.entries if e.role in self.roles or e.step.guards_host)
        commands = [host_facts.command(self._peers), *plan.facts_of(chosen, self.finders)]
        return list(dict.fromkeys(commands))

    def _take(self, answers: Sequence[Answer]) -> None:
        commands = self._reads()
        self._answers = dict(zip(commands, answers, strict=True))
        self.facts = _parse_facts(answers[0])

    def _facts(self, fleet: Fleet | None) -> HostFacts:
        return dataclasses.replace(self.facts, fleet=fleet) if fleet else self.facts

    def _lock(self, planned: HostPlan, roles: frozenset[str], fleet: Fleet | None) -> None:
        """Lock, read again in the same exec, and stop if the host is no longer what was planned for."""
        self._locked = True  # before the answer: it may be lost, and giving back what is not ours does nothing
        answers = self.session.batch([lock.acquire(self.context.run_id), *self._reads()], stop=False)
        lock.checked(answers[0])
        self._take(answers[1:])
        now = self.plan(roles, fleet)
        if _outline(now) != _outline(planned):
            raise HostError("the host changed while it was being planned for", "run it again")

    def _apply(self, change: Change, fleet: Fleet | None, *, fresh: bool) -> None:
        """Make one change. What was read before an earlier change is not trusted: it is read again first."""
        if self.context.stop.is_set():
            raise Stopped("stopped before " + change.step.id, "run it again to go on")
        begun = time.monotonic()
        step = change.step
        self.say("changing", step.id, change.reason)
        try:
            if change.pending or not fresh:
                settled = self._settle(change, fleet)
                if settled is None:
                    self.say("ok", step.id)
                    return
                change = settled
            have = self._run(change)
        except HostError as error:
            error.step = error.step or step.id
            if self.changed and error.hint == plan.NOTHING_CHANGED:
                error.hint = "what was changed before it stays; mend it and run it again"
            raise
        if not converged(have, change.want):
            raise _not_converged(change, have)
        self.changed.append(step.id)
        self.say("changed", step.id, change.reason, time.monotonic() - begun)

    def _settle(self, change: Change, fleet: Fleet | None) -> Change | None:
        """The change as it is now, or None if there is nothing left to change."""
        step = change.step
        reads = [host_facts.command(self._peers), step.fact().command]
        answers = self.session.batch(reads, stop=False)
        self.facts = _parse_facts(answers[0])
        try:
            have = plan.parse(step.fact(), {reads[1]: answers[1]}, step.id)
            if change.action == "remove":
                return None if have is None else plan.make_change(Entry(change.role, step), have, None)
            want = plan.wanted(step, self._facts(fleet), have)
        except BlockedError as error:
            raise FactError(f"{step.id} still cannot be read", step=step.id, stderr=error.evidence) from error
        return None if converged(have, want) else plan.make_change(Entry(change.role, step), have, want)

    def _run(self, change: Change) -> State:
        """Run a change's commands and read its fact again, in as few execs as they allow."""
        fact = change.step.fact()
        batch: list[Run | Put] = []
        for command in change.commands:
            if isinstance(command, Run | Put) and _is_short(command):
                batch.append(command)
                continue
            self._batch(change, batch)
            self._long(change, command)
            batch = []
        answers = self._batch(change, [*batch, _never_failing(fact.command)])
        try:
            return plan.parse(fact, {fact.command: answers[-1]}, change.step.id)
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

    def _batch(self, change: Change, commands: Sequence[Run | Put]) -> list[Answer]:
        """Run short commands in one exec that renews the lock first; the first that fails is an error."""
        if not commands:
            return []
        seconds = sum(command.timeout for command in commands if isinstance(command, Run))
        batch = [lock.acquire(self.context.run_id, seconds), *commands]
        answers = self.session.batch(batch, stop=True)
        lock.checked(answers[0])
        self._renewed = time.monotonic()
        number = first_failure(batch, answers)
        if number is not None:
            raise _command_error(change, batch[number], answers[number])
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
            raise _command_error(change, run, answer)

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


def _parse_facts(answer: Answer) -> HostFacts:
    try:
        return host_facts.parse(answer.text)
    except plan.GARBLED as error:
        raise FactError(
            f"the host facts cannot be read: {error}", exit_status=answer.exit, stderr=answer.error
        ) from error


def _outline(planned: HostPlan) -> list[tuple[str, str, str, State, State]]:
    return [(c.step.id, c.action, c.reason, c.have, c.want) for c in planned.changes]


def _is_short(command: Run | Put) -> bool:
    """Whether it can share an exec with others."""
    return not command.job if isinstance(command, Run) else len(command.content) <= INLINE


def _never_failing(run: Run) -> Run:
    """The same read, for a batch that stops at a failure: its parser judges the exit code, not the batch."""
    return dataclasses.replace(run, ok=())


def _command_error(change: Change, command: Command, answer: Answer) -> CommandError:
    reason = "took too long" if answer.exit == 124 else f"exited {answer.exit}"
    return CommandError(
        f"{change.step.id}: {command} {reason}",
        "mend what it says and run it again: what is done stays done",
        step=change.step.id,
        command=str(command),
        exit_status=answer.exit,
        stderr="\n".join(answer.error.splitlines()[-30:])[-4000:],
    )


def _not_converged(change: Change, have: State) -> NotConvergedError:
    said = "still there" if change.want is None else "; ".join(change.step.diff(have, change.want))
    keys = ", ".join(key for key, _ in differing(have, change.want))
    return NotConvergedError(
        f"{change.step.id}: every command succeeded, and the host still differs" + (f" in {keys}" if keys else ""),
        "something else may be changing this host; look at it, then run it again",
        step=change.step.id,
        stderr=said[:2000],
    )


def _unsettled(todo: HostPlan) -> NotConvergedError:
    ids = ", ".join(change.step.id for change in todo.changes)
    evidence = "\n".join(f"{c.step.id}: {c.reason}: {'; '.join(c.diff)}"[:600] for c in todo.changes)
    return NotConvergedError(
        f"after {PASSES} rounds these still differ: {ids}",
        "something on the host undoes them; look at it, then run it again",
        stderr=evidence,
    )
