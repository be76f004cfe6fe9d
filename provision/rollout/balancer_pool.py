"""Balancer pools: the members of an upstream, their marks, and the wait until an instance is idle.

A run marks members over a connection of its own, because the run may change the balancer's configuration at the same
time.
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
from provision.plan import planner
from provision.plan.role_interface import Entry
from provision.runs import interrupt
from provision.runs.context import Context
from provision.ssh.transport import Transport
from provision.steps.base import BlockedError, RefusalError, State, converged
from provision.steps.facts import HostFacts
from provision.steps.nginx import member_update, upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.member_update import MemberUpdate
from provision.steps.nginx.upstream import Drained, Member

POLL = 5  # seconds that one count of connections may wait on the balancer
PATIENCE = 600.0  # seconds to wait for another run's lock before a healthy instance stays out
KEPT = 2  # generations with changed marks to keep: somebody may be reading the files


class BalancerPool:
    """The upstream of one balancer. Safe for many threads.

    Args:
        host: the balancer.
        session: a connection for this pool alone, opened at the first use.
        context: shared by all hosts of the run.
    """

    def __init__(self, host: Host, session: Transport, context: Context) -> None:
        self.host = host
        self.session = session
        self.context = context
        self.touched = False
        """Whether this run wrote anything on the balancer."""
        self.reloads = 0
        """How often nginx has loaded marks that this run changed."""
        self._hide = Mask(host.secrets())
        self._lease = context.lease(session, host.connection.timeout_factor)
        self._performer = Performer(host.name, session, self._lease, context, self._say)
        self._updating = threading.Lock()  # an update is a read and a write
        self._failed: HostError | None = None  # error of the last update, if any
        self._out: set[str] = set()  # labels that this run has marked down and not yet marked up
        self._lease.wanted = lambda: bool(self._out)
        self._own: list[str] = []  # generations made by this run and kept, oldest first
        entries = context.setup.catalog.steps(host, context.inventory)
        entry = next(entry for entry in entries if entry.step.routes)
        self._role, self._step = entry.role, cast(Balancing, entry.step)

    @property
    def step_id(self) -> str:
        """Return the id of the step that renders the upstream."""
        return self._step.id

    @property
    def locked(self) -> bool:
        """Whether this run may hold the lock of the balancer."""
        return self._lease.held

    def members(self) -> dict[str, Member]:
        """Return label -> member of the upstream, also while nginx is stopped: nginx may start again any moment.

        Takes no lock.

        Raises:
            HostError: the upstream cannot be read.
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
        """Change marks of members, and have nginx load the change; see `Upstream.updated`.

        Returns:
            whether any mark changed.

        Raises:
            HostError: the marks are not changed, or not known to be loaded.
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
        """Wait on the balancer until nginx has no connection to some instances.

        Args:
            addresses: `ADDRESS:PORT` of instances that are marked `down`.
            deadline: the end of the wait, by `time.monotonic`.
            waiting: called with the number of open connections, again and again; may raise to end the wait.

        Returns:
            the number of connections left, and whether the instances still answer: a dead instance ends no stream.

        Raises:
            HostError: the balancer cannot count its connections.
        """
        while True:
            count, answers = self._connections(addresses, deadline - time.monotonic())
            if not (count and answers) or time.monotonic() >= deadline:
                return count, answers
            waiting(count)

    def _connections(self, addresses: Sequence[str], seconds: float) -> tuple[int, bool]:
        """Count the connections left, after a wait of at most `POLL` seconds."""
        health = self._step.engine.health
        waiting = member_update.wait(addresses, max(0, min(POLL, round(seconds))), health)
        with self._named():
            renewed, answer = self.session.batch([self._lease.acquire(waiting.timeout), waiting], stop=False)
            self._lease.took(renewed)
        word, _, count = answer.text.strip().partition(" ")
        if answer.exit or not count.isdigit():
            raise HostError(f"{self.host.name}: {waiting} failed", exit_status=answer.exit, stderr=answer.error)
        return int(count), word == "open"

    def finish(self) -> None:
        """Give the lock back and close the connection.

        After a lost connection a command may still be running on the balancer: then the lock is left to expire.
        """
        error = self._failed and interrupt.for_operator(self._failed, self.context, locked=self.locked)
        ending = self._performer.closing(interrupt.result(error, changed=True), error)
        with contextlib.suppress(HostError):  # the lease expires by itself
            self._lease.end(ending, cut_off=self.host.name in self.context.cut_off)
        self.session.close()

    def _locked(self, *, back: bool) -> State:
        """Take or renew the lock, and read the upstream. Wait for another run's lock as long as `--lock-wait` says.

        Args:
            back: whether an instance is to be uncordoned: then wait at least `PATIENCE`, also in a run that is
                stopping.
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
        """Parse the state of the upstream.

        Raises:
            FactError: the state cannot be read.
        """
        fact = self._step.fact()
        try:
            return planner.parse(fact, {fact.command: answer}, self._step.id)
        except BlockedError as error:
            hint = "deploy the balancer with all its roles first"
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
        answers = self._performer.perform(change, [command], done=False)
        now = planner.parse(step.fact(), answers, step.id)
        if not converged(now, want):
            raise diagnostics.not_converged(change, now)
        self._own = [*self._own[-KEPT:], now["id"]] if now else []
        self.reloads += bool(have and have["exe"])
        return True

    def _say(self, kind: str, step: str = "", text: str = "") -> None:
        self.context.listen(Event(self.host.name, kind, step, self._hide(text)))

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Remember the error of an update."""
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
        """Put the balancer's name before an error message, and mask the balancer's secrets.

        The error may be shown for the gpu host that waits for the balancer, and a gpu host masks only its own secrets.
        """
        try:
            yield
        except HostError as error:
            if not error.message.startswith(f"{self.host.name}: "):
                error.message = f"{self.host.name}: {error.message}"
            error.masked(self._hide)
            raise


MakePool = Callable[[Host, Transport, Context], BalancerPool]
"""Makes the pool of a balancer, from the host, a connection, and the context of the run."""


class BalancerPools:
    """The pools of all balancers that one run asks or changes. Safe for many threads.

    Args:
        context: shared by the hosts of the run.
        become_password: sudo's password for the balancers (`-K`), or None for the password in the inventory.
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
        """Return the pools that this run has used so far."""
        return tuple(self._pools.values())

    def of(self, host: Host) -> list[BalancerPool]:
        """Return the pools of the balancers that may send to a host's instances, sorted by name.

        Args:
            host: a gpu host.
        """
        senders = sorted(topology.balancers(host, self.context.inventory), key=lambda balancer: balancer.name)
        with self._lock:
            for balancer in senders:
                if balancer.name not in self._pools:
                    session = self.context.setup.transport(balancer.connection, self._password)
                    self._pools[balancer.name] = self._make(balancer, session, self.context)
            return [self._pools[balancer.name] for balancer in senders]

    def sending_to(self, host: Host, label: str) -> list[BalancerPool]:
        """Return the pools whose balancer sent to an instance at the run's first look; skip unreadable balancers.

        Args:
            host: the host of the instance.
            label: the label of the instance.
        """
        members = ((pool, self.first_members(pool).get(label)) for pool in self.of(host))
        return [pool for pool, member in members if member is not None and not member.down]

    def first_members(self, pool: BalancerPool) -> Mapping[str, Member]:
        """Return label -> member of a pool at the run's first look; empty for an unreadable balancer.

        Each balancer is asked once, even a dead balancer.
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
    """Update every pool, also after a failure, and raise the first error at the end.

    The error becomes an error of a gpu host. An unreachable balancer does not make the gpu host `unreachable`.
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
    """Turn the error of a lost or unreadable balancer into a plain error of the gpu host that needs the balancer.

    Args:
        context: of the run. After the second Ctrl-C the connection was cut on purpose, and the error stays as raised.
    """
    try:
        yield
    except (UnreachableError, FactError) as error:
        if context.cut.is_set():
            raise
        raise HostError(error.message, error.hint, command=error.command, stderr=error.stderr) from error


def still_running(count: int, of: str = "") -> str:
    """Return a number of streams in words.

    Args:
        count: the number.
        of: the names of the instances; may be empty.
    """
    whose = f" of {of}" if of else ""
    return f"1 stream{whose} still runs" if count == 1 else f"{count} streams{whose} still run"
