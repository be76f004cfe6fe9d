"""Taking instances out by hand, until they are given back: recorded on the balancers, not on the instance's host."""

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from provision.actions.instances import chosen
from provision.errors import GuardError, HostError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.rollout.admission import Admission
from provision.rollout.balancer_pool import BalancerPool
from provision.rollout.replicas import Replicas
from provision.rollout.roll import Roll
from provision.runs import interrupt, lock
from provision.runs.context import Context, Stopped
from provision.ssh.session import Session
from provision.steps.nginx.upstream import Drained, label

HINT = "deploy first: an instance that is in no upstream gets no requests anyway"


@dataclass
class Drain:
    """What became of one host: a balancer that was told, or one whose instances were to prove themselves.

    Args:
        host: its name.
        labels: the instances that it was about.
        changed: whether anything was to be changed.
        error: what failed, or None.
    """

    host: str
    labels: tuple[str, ...] = ()
    changed: bool = False
    error: HostError | None = None

    @property
    def result(self) -> str:
        """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`."""
        return interrupt.result(self.error, changed=self.changed)


class Draining:
    """Drains instances, or gives them back.

    Args:
        context: the inventory, the run's id and who is told.
        become_password: sudo's password (`-K`), or None for the inventory's.
        words: `PATTERN` or `PATTERN/INSTANCE`, see `instances.chosen`.
        limit: patterns of the only hosts whose instances are meant; none for all hosts.

    Raises:
        UsageError: a word means no instance.
    """

    guarded = ""  # no guard stops a drain that has begun
    guard_exit = GuardError.exit_code

    def __init__(
        self, context: Context, become_password: str | None, words: Sequence[str], limit: Sequence[str] = ()
    ) -> None:
        self.context = context
        self.chosen = chosen(context.inventory, limit, words)
        self.interrupted = False
        """Whether the operator stopped it."""
        self._ending = False  # nothing is left to do but to give locks back
        self.hide = Mask([one for host in context.inventory.hosts for one in host.secrets()])
        """Masks what is secret on any host."""
        self._password = become_password
        self._roll = Roll.of(context, become_password)
        self._tests: list[Session] = []  # connections over which instances are tested

    def labels(self) -> list[str]:
        """The chosen instances, as `HOST/INSTANCE`."""
        return [label(host.name, name) for host, names in self.chosen for name in names]

    def hosts(self) -> list[str]:
        """Names of the hosts of the chosen instances, and of the balancers that send to them."""
        names = [*(host.name for host, _ in self.chosen), *(pool.host.name for pool in self._pools())]
        return list(dict.fromkeys(names))

    def last(self) -> dict[str, tuple[str, ...]]:
        """The models that nobody would serve any more after a drain, each with the instances that serve it now.

        What is `down` or drained serves nobody. A balancer that cannot be asked is passed over: `drain` tells that.
        """
        replicas, chosen = Replicas(self.context.inventory), set(self.labels())
        own = (replicas.models(host, [label(host.name, one) for one in names]) for host, names in self.chosen)
        models = {model for found in own for some in found.values() for model in some}
        found: dict[str, set[str]] = {}
        for pool in self._pools():
            with contextlib.suppress(HostError):
                members = pool.members()
                up = {name for name, one in members.items() if not one.down}
                for model in models:
                    serving = replicas.serving(model, members) & up
                    if serving and serving <= chosen:
                        found.setdefault(model, set()).update(serving)
        return {model: tuple(sorted(found[model])) for model in sorted(found)}

    def drain(self, why: str, timeout: float | None) -> list[Drain]:
        """Mark them on every balancer that sends to them, and wait for their streams to end.

        Args:
            why: shown to whoever looks; one line.
            timeout: seconds to wait; `ollama.drain_timeout` for None.
        """
        now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
        records = [Drained(name, now, lock.who(), self.hide(why)) for name in self.labels()]
        if timeout is None:
            timeout = max(host.serving.drain_timeout for host, _ in self.chosen)
        deadline = time.monotonic() + timeout
        return self._done(lambda: self._drain(records, deadline))

    def undrain(self) -> list[Drain]:
        """Have each instance prove itself, and give back those that do."""
        return self._done(self._undrain)

    def interrupt(self, *, now: bool) -> None:
        """Stop after the mark that is being made, or at once by cutting the connections. What is only read is cut."""
        self.context.stop.set()
        self.interrupted = self.interrupted or now or not self._ending
        if now:
            self.context.cut.set()
        cut = [pool.session for pool in self._pools() if now or not (pool.locked or self._ending)]
        for session in [*cut, *self._tests]:
            session.close()

    def under_way(self) -> list[str]:
        """Names of the balancers that may hold this run's lock."""
        return [pool.host.name for pool in self._pools() if pool.locked]

    def close(self) -> None:
        """Close every connection, where nothing is drained after all."""
        if not self._ending:
            self._roll.pools.finish()

    def _done(self, work: Callable[[], list[Drain]]) -> list[Drain]:
        """Do it, and give the balancers' locks back."""
        try:
            return work()
        finally:
            self._ending = True
            self._roll.pools.finish()
            self.context.keeper.stop()

    def _drain(self, records: Sequence[Drained], deadline: float) -> list[Drain]:
        found = [self._marked(pool, records) for pool in self._pools()]
        for pool, (outcome, addresses) in zip(self._pools(), found, strict=True):
            if outcome.error is None:
                self._await(pool, outcome, addresses, deadline)
        return [outcome for outcome, _ in found]

    def _undrain(self) -> list[Drain]:
        tested = [one for host, names in self.chosen for one in self._tested(host, names)]
        good = {name for one in tested if one.error is None for name in one.labels}
        back = [self._given_back(pool, good) for pool in self._pools()] if good else []
        return [*(one for one in tested if one.error), *back]

    def _pools(self) -> list[BalancerPool]:
        found = {one.host.name: one for host, _ in self.chosen for one in self._roll.pools.of(host)}
        return [found[name] for name in sorted(found)]

    def _marked(self, pool: BalancerPool, records: Iterable[Drained]) -> tuple[Drain, list[str]]:
        """Mark them on one balancer; and where it reaches them."""
        outcome = Drain(pool.host.name, tuple(one.label for one in records))
        try:
            self._stop_before("it was told")
            members = pool.members()  # not the look before a question: a deploy may have moved them since
            here = {one.label: one for one in records if one.label in members}
            outcome.labels = tuple(here)
            if not here:
                raise HostError(f"{pool.host.name}: none of these is in its upstream", HINT)
            outcome.changed = pool.update(drain=here)
        except HostError as error:
            outcome.error = self._told(error, pool)
            return outcome, []
        return outcome, [members[name].at for name in here]

    def _await(self, pool: BalancerPool, outcome: Drain, addresses: Sequence[str], deadline: float) -> None:
        """Wait until none of their streams is left on one balancer."""
        ended = "their streams had ended; nothing new is sent to them"

        def waiting(count: int) -> None:
            self._stop_before(ended)
            self._say(pool.host, "progress", "drain", f"waiting: {count} streams still run")

        try:
            self._stop_before(ended)
            count, answers = pool.wait_idle(addresses, deadline, waiting)
            if count and answers:
                hint = "nothing new is sent to them: drain again to wait on, or do what you came for and cut them"
                raise HostError(f"{pool.host.name}: {count} streams still run", hint)
        except HostError as error:
            outcome.error = self._told(error, pool)

    def _tested(self, host: Host, names: Sequence[str]) -> list[Drain]:
        session = Session(host.connection, self._password)
        self._tests.append(session)
        lease = self.context.lease(session)
        admission = Admission(host, session, lease, self._roll, partial(self._say, host))
        outcomes = []
        for name in names:
            outcome = Drain(host.name, (label(host.name, name),))
            try:
                self._stop_before("it was tested")
                admission.prove(name)
            except HostError as error:
                outcome.error = interrupt.told(error, self.context, locked=False).masked(self.hide)
            outcomes.append(outcome)
        session.close()
        return outcomes

    def _given_back(self, pool: BalancerPool, good: set[str]) -> Drain:
        outcome = Drain(pool.host.name, tuple(sorted(good)))
        try:
            self._stop_before("it was told")
            outcome.labels = tuple(sorted(good & set(pool.members())))
            outcome.changed = pool.update(undrain=outcome.labels)
        except HostError as error:
            outcome.error = self._told(error, pool)
        return outcome

    def _stop_before(self, what: str) -> None:
        if self.context.stop.is_set():
            raise Stopped(f"stopped before {what}", "run it again to go on")

    def _told(self, error: HostError, pool: BalancerPool) -> HostError:
        return interrupt.told(error, self.context, locked=pool.locked)

    def _say(self, host: Host, kind: str, step: str, text: str) -> None:
        self.context.listen(Event(host.name, kind, step, self.hide(text)))
