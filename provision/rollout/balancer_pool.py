"""The marks of one balancer's upstream, changed while its own configuration may be worked on elsewhere in the run."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from provision.apply import diagnostics
from provision.apply.step_runner import Performer
from provision.command import Answer
from provision.errors import FactError, HostError, RefusedError, UnreachableError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.plan import planner, role_order
from provision.plan.role_order import LAST, Entry
from provision.runs import interrupt
from provision.runs.context import Context
from provision.ssh.session import Session
from provision.steps.base import BlockedError, RefusalError, State, converged
from provision.steps.facts import HostFacts
from provision.steps.nginx import member_update, upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.member_update import Marking
from provision.steps.nginx.upstream import Drained, Member, Place

POLL = 5  # seconds that one look at the connections may wait on the balancer
ROLE = LAST[0]
PATIENCE = 600.0  # seconds that somebody else's lock is waited for before an instance that is well stays out
KEPT = 2  # generations with only other marks that are kept: somebody may be reading them


class Marker:
    """Marks instances in the upstream of one balancer. May be used by many threads.

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
        self._marking = threading.Lock()  # a mark is a read and a write
        self._failed: HostError | None = None  # what became of the last mark
        self._own: list[str] = []  # the generations that were made here and are kept, the newest last
        entries = role_order.steps(host, context.inventory)
        self._step = next(entry.step for entry in entries if isinstance(entry.step, Balancing))

    @property
    def locked(self) -> bool:
        """Whether the balancer may hold this run's lock."""
        return self._lease.held

    def look(self) -> dict[str, Member]:
        """Who is in the upstream, also while nginx does not run: it may run again any moment. Takes no lock.

        Raises:
            HostError: it cannot be read.
        """
        with self._marking, self._named():
            have = self._read()
        return upstream.members(upstream.text_of(have))

    def mark(
        self,
        *,
        down: Collection[str] = (),
        up: Mapping[str, Place] = MappingProxyType({}),
        drain: Mapping[str, Drained] = MappingProxyType({}),
        undrain: Collection[str] = (),
    ) -> bool:
        """Change marks, and have nginx load them; see `upstream.marked`.

        Returns:
            whether anything was to be changed.

        Raises:
            HostError: it did not come to that.
        """
        with self._marking, self._named(), self._noted():
            have = self._locked(back=bool(up))
            if have is None or upstream.FILE not in have["files"]:
                return False
            step = Marking(
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
            return self._change(step, have)

    def wait(self, addresses: Sequence[str], seconds: float) -> tuple[int, bool]:
        """Wait on the balancer for streams to end; not for longer than one look takes.

        Args:
            addresses: `ADDRESS:PORT` of instances that are marked `down`.
            seconds: how long at most.

        Returns:
            how many connections are left, and whether it is of use to wait for them.
        """
        waiting = member_update.wait(addresses, max(0, min(POLL, round(seconds))))
        with self._named():
            renewed, answer = self.session.batch([self._lease.acquire(waiting.timeout), waiting], stop=False)
            self._lease.took(renewed)
        word, _, count = answer.text.strip().partition(" ")
        if answer.exit or not count.isdigit():
            raise HostError(f"{self.host.name}: {waiting} failed", exit_status=answer.exit, stderr=answer.error)
        return int(count), word == "open"

    def renew(self) -> None:
        """Keep the lock, if it is held: an instance is out of the upstream and is to get back in.

        Raises:
            HostError: it is somebody else's by now, or the balancer is lost.
        """
        if self._lease.held:
            with self._named():
                self._lease.renew()

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

    def _change(self, step: Marking, have: State) -> bool:
        try:
            want = step.want(HostFacts(), have)
        except RefusalError as error:
            raise RefusedError(str(error), step=step.id) from error
        if converged(have, want):
            return False
        change = dataclasses.replace(planner.make_change(Entry(ROLE, step), have, want), reason=step.reason)
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


def tell_all(markers: Sequence[Marker], tell: Callable[[Marker], None]) -> None:
    """Tell every balancer, also after one that could not be told; the first error is raised then."""
    first: HostError | None = None
    for marker in markers:
        try:
            tell(marker)
        except HostError as error:
            first = first or error
    if first is not None:
        raise first
