"""The pools of the balancers: who is in one, who gets requests, and the wait until an instance is idle.

A run changes members of a pool over a connection of its own, while the balancer's own configuration may be worked on
elsewhere in the run.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import cast

from provision.apply import diagnostics
from provision.apply.step_runner import Performer
from provision.command import Answer
from provision.errors import FactError, HostError, RefusedError, UnreachableError
from provision.events import Event
from provision.inventory import Host, Mask, topology
from provision.plan import planner, role_interface
from provision.plan.role_interface import Entry
from provision.runs import interrupt
from provision.runs.context import Context
from provision.ssh.session import Session
from provision.steps.base import BlockedError, RefusalError, State, converged
from provision.steps.facts import HostFacts
from provision.steps.nginx import member_update, upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.member_update import MemberUpdate
from provision.steps.nginx.upstream import Drained, Member

POLL = 5  # seconds that one look at the connections may wait on the balancer
PATIENCE = 600.0  # seconds that somebody else's lock is waited for before an instance that is well stays out
KEPT = 2  # generations with only other marks that are kept: somebody may be reading them


class BalancerPool:
    """The upstream of one balancer. May be used by many threads.

    Args:
        host: the balancer.
        session: a connection of its own; opened when it is needed.
        context: what it shares with the hosts of the run.
    """

    def __init__(self, host: Host, session: Session, context: Context) -> None:
        self.host = host
        self.session = session
        self.context = context
        self.touched = False
        """Whether something was written on the balancer."""
        self._hide = Mask(host.secrets())
        self._lease = context.lease(session)
        self._performer = Performer(host.name, session, self._lease, context, self._say)
        self._updating = threading.Lock()  # an update is a read and a write
        self._failed: HostError | None = None  # what became of the last update
        self._out: set[str] = set()  # labels that this run has marked down, and not up again
        self._lease.wanted = lambda: bool(self._out)
        self._own: list[str] = []  # the generations that were made here and are kept, the newest last
        entries = role_interface.steps(host, context.inventory)
        entry = next(entry for entry in entries if entry.step.routes)
        self._role, self._step = entry.role, cast(Balancing, entry.step)

    @property
    def step_id(self) -> str:
        """Id of the step whose upstream this is."""
        return self._step.id

    @property
    def locked(self) -> bool:
        """Whether the balancer may hold this run's lock."""
        return self._lease.held

    def members(self) -> dict[str, Member]:
        """Who is in the upstream, also while nginx does not run: it may run again any moment. Takes no lock.

        Raises:
            HostError: it cannot be read.
        """
        with self._updating, self._named():
            have = self._read()
            if not upstream.text_of(have):
                return {}
            try:
                return {member.label: member for member in member_update.present(have).members}
            except RefusalError as error:
                raise RefusedError(str(error), step=self._step.id) from error

    def update(
        self,
        *,
        down: Collection[str] = (),
        up: Mapping[str, str] = MappingProxyType({}),
        drain: Mapping[str, Drained] = MappingProxyType({}),
        undrain: Collection[str] = (),
    ) -> bool:
        """Change marks, and have nginx load them; see `Upstream.updated`.

        Returns:
            whether anything was to be changed.

        Raises:
            HostError: it did not come to that.
        """
        with self._updating, self._named(), self._noted():
            have = self._locked(back=bool(up))
            if have is None or upstream.FILE not in have["files"]:
                return False
            step = MemberUpdate(
                name=self._step.name,
                files={},
                binary=have["exe"] or self._step.binary,
                status_port=self._step.status_port,
                down=frozenset(down),
                up=up,
                drain=drain,
                undrain=frozenset(undrain),
                forget=self._own[0] if len(self._own) > KEPT else "",
            )
            changed = self._change(step, have)
            self._out = (self._out | set(down)) - set(up)
            return changed

    def wait_idle(self, addresses: Sequence[str], deadline: float, waiting: Callable[[int], None]) -> tuple[int, bool]:
        """Wait on the balancer until nginx has no connection to instances any more.

        Args:
            addresses: `ADDRESS:PORT` of instances that are marked `down`.
            deadline: the end of the wait, by `time.monotonic`.
            waiting: is told the number of connections while there are some; may raise to end the wait.

        Returns:
            how many connections are left, and whether the instances still answer: one that does not ends no stream.

        Raises:
            HostError: the balancer does not tell.
        """
        while True:
            count, answers = self._connections(addresses, deadline - time.monotonic())
            if not (count and answers) or time.monotonic() >= deadline:
                return count, answers
            waiting(count)

    def _connections(self, addresses: Sequence[str], seconds: float) -> tuple[int, bool]:
        """How many connections are left after a wait that is not longer than one look takes."""
        waiting = member_update.wait(addresses, max(0, min(POLL, round(seconds))))
        with self._named():
            renewed, answer = self.session.batch([self._lease.acquire(waiting.timeout), waiting], stop=False)
            self._lease.took(renewed)
        word, _, count = answer.text.strip().partition(" ")
        if answer.exit or not count.isdigit():
            raise HostError(f"{self.host.name}: {waiting} failed", exit_status=answer.exit, stderr=answer.error)
        return int(count), word == "open"

    def finish(self) -> None:
        """Give the lock back and close the connection.

        The lock of what may still be done, because a connection was lost meanwhile, is left to end by itself.
        """
        error = self._failed and interrupt.told(self._failed, self.context, locked=self.locked)
        said = self._performer.closing(interrupt.result(error, changed=True), error)
        with contextlib.suppress(HostError):  # the lease ends by itself
            self._lease.end(said, cut_off=self.host.name in self.context.cut_off)
        self.session.close()

    def _locked(self, *, back: bool) -> State:
        """Take the lock, or renew it, and read; wait for somebody else as long as the run may.

        Args:
            back: whether an instance gets back in: that is worth a wait, also for a run that is to stop.
        """
        lease, context = self._lease, self.context
        seconds, stop = context.lock_wait, context.stop
        if back:
            seconds, stop = max(seconds, PATIENCE), context.cut
        taken, read = self.session.batch([lease.acquire(), self._step.fact().command], stop=False)
        waited = lease.wait(taken, seconds, stop, lambda text: self._say("progress", "lock", text))
        return self._read() if waited else self._parsed(read)

    def _read(self) -> State:
        return self._parsed(self.session.batch([self._step.fact().command], stop=False)[0])

    def _parsed(self, answer: Answer) -> State:
        """The state.

        Raises:
            FactError: it cannot be known.
        """
        fact = self._step.fact()
        try:
            return planner.parse(fact, {fact.command: answer}, self._step.id)
        except BlockedError as error:
            hint = "deploy it with all its roles first"
            raise FactError(f"{self._step.id}: {error}", hint, stderr=error.evidence) from error

    def _change(self, step: MemberUpdate, have: State) -> bool:
        try:
            want = step.want(HostFacts(), have)
        except RefusalError as error:
            raise RefusedError(str(error), step=step.id) from error
        if converged(have, want):
            return False
        change = dataclasses.replace(planner.make_change(Entry(self._role, step), have, want), reason=step.reason)
        self._say("changing", step.id, change.reason)
        self.touched = True
        command = step.fact().command
        found = self._performer.perform(change, [command], done=False)
        now = planner.parse(step.fact(), found, step.id)
        if not converged(now, want):
            raise diagnostics.not_converged(change, now)
        self._own = [*self._own[-KEPT:], now["id"]] if now else []
        return True

    def _say(self, kind: str, step: str = "", text: str = "") -> None:
        self.context.listen(Event(self.host.name, kind, step, self._hide(text)))

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Remember whether a mark failed."""
        self._failed = None
        try:
            yield
        except HostError as error:
            self._failed = error
            if self.locked and isinstance(error, UnreachableError):
                self.context.cut_off.add(self.host.name)
            raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Have an error say which balancer it is about, and hide that one's secrets.

        It may be shown as an error of the gpu host that waits for it, which knows only its own.
        """
        try:
            yield
        except HostError as error:
            if not error.message.startswith(f"{self.host.name}: "):
                error.message = f"{self.host.name}: {error.message}"
            error.masked(self._hide)
            raise


MakePool = Callable[[Host, Session, Context], BalancerPool]
"""Makes the pool of a balancer, of the host, a connection to it, and the context of the run."""


class BalancerPools:
    """The pools of all balancers that one run has to do with. May be used by many threads.

    Args:
        context: what the hosts of the run share.
        become_password: sudo's password for the balancers (`-K`), or None for the inventory's.
        make: makes the pool of a balancer.
    """

    def __init__(
        self,
        context: Context,
        become_password: str | None = None,
        make: MakePool = BalancerPool,
    ) -> None:
        self.context = context
        self._password = become_password
        self._make = make
        self._pools: dict[str, BalancerPool] = {}
        self._first: dict[str, Mapping[str, Member]] = {}
        self._asking: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def known(self) -> tuple[BalancerPool, ...]:
        """The pools that this run has had to do with so far."""
        return tuple(self._pools.values())

    def of(self, host: Host) -> list[BalancerPool]:
        """The pools of the balancers that may send to a host's instances, by name.

        Args:
            host: a gpu host.
        """
        senders = sorted(topology.balancers(host, self.context.inventory), key=lambda balancer: balancer.name)
        with self._lock:
            for balancer in senders:
                if balancer.name not in self._pools:
                    session = Session(balancer.connection, self._password)
                    self._pools[balancer.name] = self._make(balancer, session, self.context)
            return [self._pools[balancer.name] for balancer in senders]

    def sending_to(self, host: Host, label: str) -> list[BalancerPool]:
        """The pools that sent to an instance when this run first asked. A balancer that cannot be asked is passed over.

        Args:
            host: the host of the instance.
            label: its label.
        """
        asked = ((pool, self.first_members(pool).get(label)) for pool in self.of(host))
        return [pool for pool, member in asked if member is not None and not member.down]

    def first_members(self, pool: BalancerPool) -> Mapping[str, Member]:
        """Label -> member of a pool when this run first asked; nothing where the balancer cannot be asked.

        Each balancer is asked once, also a dead one.
        """
        name = pool.host.name
        with self._lock:
            asking = self._asking.setdefault(name, threading.Lock())
        with asking:
            if name not in self._first:
                self._first[name] = {}
                with contextlib.suppress(HostError):
                    self._first[name] = pool.members()
            return self._first[name]

    def finish(self) -> None:
        """Give the balancers' locks back and close the connections."""
        for pool in self.known:
            pool.finish()

    def close(self) -> None:
        """Cut the connections to the balancers."""
        for pool in self.known:
            pool.session.close()


def update_all(pools: Sequence[BalancerPool], update: Callable[[BalancerPool], object]) -> None:
    """Update every pool, also after one that failed; the first error is raised at the end.

    A balancer that cannot be reached does not make the gpu host, whose error it becomes, an unreachable one.
    """
    first: HostError | None = None
    for pool in pools:
        try:
            with about_balancer(pool.context):
                update(pool)
        except HostError as error:
            first = first or error
    if first is not None:
        raise first


@contextlib.contextmanager
def about_balancer(context: Context) -> Iterator[None]:
    """Have a balancer that was lost or cannot be read not make that of the gpu host, whose error it becomes.

    Args:
        context: of the run; after its second Ctrl-C the connection was cut on purpose.
    """
    try:
        yield
    except (UnreachableError, FactError) as error:
        if context.cut.is_set():
            raise
        raise HostError(error.message, error.hint, command=error.command, stderr=error.stderr) from error
