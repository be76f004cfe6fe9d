"""Drains instances by hand. A drain is recorded on the balancers, not on the host of the instance."""

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from provision.actions.instances import chosen
from provision.actions.request import FORKS
from provision.errors import GuardError, HostError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.rollout.admission import Admission
from provision.rollout.balancer_pool import BalancerPool, still_running
from provision.rollout.replicas import Replicas
from provision.rollout.roll import Roll
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.ssh.transport import Transport
from provision.steps.nginx.upstream import Drained, label

HINT = "deploy first: an instance that is in no upstream gets no requests anyway"


@dataclass
class Drain:
    """The outcome of one host: of a balancer that was told, or of a gpu host whose instances were tested.

    Args:
        host: the name of the host.
        labels: the instances.
        changed: whether any mark changed.
        error: the failure, or None.
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
    """Drains or undrains instances.

    Args:
        context: of the run.
        become_password: sudo's password (`-K`), or None for the password in the inventory.
        words: `PATTERN` or `PATTERN/INSTANCE`, see `instances.chosen`.
        limit: patterns of hosts; empty for all hosts.
        forks: gpu hosts whose instances are tested at the same time.

    Raises:
        UsageError: no instance matches a word.
    """

    guarded = ""  # no guard stops a drain after its begin
    guard_exit = GuardError.exit_code

    def __init__(
        self,
        context: Context,
        become_password: str | None,
        words: Sequence[str],
        limit: Sequence[str] = (),
        forks: int = FORKS,
    ) -> None:
        self.context = context
        self.chosen = chosen(context.inventory, limit, words)
        self.interrupted = False
        """Whether the operator stopped it."""
        self._ending = False  # all work is done, only locks are to be given back
        self.hide = Mask([secret for host in context.inventory.hosts for secret in host.secrets()])
        """Masks the secrets of every host."""
        self._password = become_password
        self._roll = Roll.of(context, become_password)
        self._forks = forks
        self._tests: list[Transport] = []  # connections for tests of instances

    def labels(self) -> list[str]:
        """Return the selected instances, as `HOST/INSTANCE`."""
        return [label(host.name, name) for host, names in self.chosen for name in names]

    def hosts(self) -> list[str]:
        """Return the names of the hosts of the selected instances, and of their balancers."""
        names = [*(host.name for host, _ in self.chosen), *(pool.host.name for pool in self._pools())]
        return list(dict.fromkeys(names))

    def last(self) -> dict[str, tuple[str, ...]]:
        """Return the models that would have no instance left after a drain, each with its serving instances.

        A member that is `down` or drained does not serve. An unreadable balancer is skipped here; `drain` reports the
        error.
        """
        replicas, chosen = Replicas(self.context.inventory), set(self.labels())
        own = (replicas.models(host, [label(host.name, name) for name in names]) for host, names in self.chosen)
        models = {model for by_label in own for names in by_label.values() for model in names}
        last: dict[str, set[str]] = {}
        for pool in self._pools():
            with contextlib.suppress(HostError):
                members = pool.members()
                up = {name for name, member in members.items() if not member.down}
                for model in models:
                    serving = replicas.serving(model, members) & up
                    if serving and serving <= chosen:
                        last.setdefault(model, set()).update(serving)
        return {model: tuple(sorted(last[model])) for model in sorted(last)}

    def drain(self, why: str, timeout: float | None) -> list[Drain]:
        """Drain the instances on every balancer that sends to them, and wait for their streams to end.

        Args:
            why: the reason shown to operators; one line.
            timeout: seconds to wait; None for `ollama.drain_timeout`.
        """
        now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
        records = [Drained(name, now, self.context.setup.who, self.hide(why)) for name in self.labels()]
        if timeout is None:
            timeout = max(host.serving.drain_timeout for host, _ in self.chosen)
        deadline = time.monotonic() + timeout
        return self._done(lambda: self._drain(records, deadline))

    def undrain(self) -> list[Drain]:
        """Test each instance, and undrain the healthy instances."""
        return self._done(self._undrain)

    def interrupt(self, *, now: bool) -> None:
        """Stop after the present mark, or cut the connections now. Connections without a lock are cut in both cases."""
        self.context.stop.set()
        self.interrupted = self.interrupted or now or not self._ending
        if now:
            self.context.cut.set()
        cut = [pool.session for pool in self._pools() if now or not (pool.locked or self._ending)]
        for session in [*cut, *self._tests]:
            session.close()

    def under_way(self) -> list[str]:
        """Return the names of the balancers that may hold this run's lock."""
        return [pool.host.name for pool in self._pools() if pool.locked]

    def close(self) -> None:
        """Close every connection, if nothing is drained after all."""
        if not self._ending:
            self._roll.pools.finish()

    def _done(self, work: Callable[[], list[Drain]]) -> list[Drain]:
        """Do the work, and give the locks of the balancers back."""
        try:
            return work()
        finally:
            self._ending = True
            self._roll.pools.finish()
            self.context.keeper.stop()

    def _drain(self, records: Sequence[Drained], deadline: float) -> list[Drain]:
        marked = [self._marked(pool, records) for pool in self._pools()]
        for pool, (outcome, addresses) in zip(self._pools(), marked, strict=True):
            if outcome.error is None:
                self._await(pool, outcome, addresses, deadline)
        return [outcome for outcome, _ in marked]

    def _undrain(self) -> list[Drain]:
        with ThreadPoolExecutor(self._forks, thread_name_prefix="host") as threads:
            each_host = threads.map(lambda chosen: self._tested(*chosen), self.chosen)
            tested = [drain for drains in each_host for drain in drains]
        good = {name for drain in tested if drain.error is None for name in drain.labels}
        back = [self._given_back(pool, good) for pool in self._pools()] if good else []
        return [*(drain for drain in tested if drain.error), *back]

    def _pools(self) -> list[BalancerPool]:
        pools = {pool.host.name: pool for host, _ in self.chosen for pool in self._roll.pools.of(host)}
        return [pools[name] for name in sorted(pools)]

    def _marked(self, pool: BalancerPool, records: Iterable[Drained]) -> tuple[Drain, list[str]]:
        """Drain the instances on one balancer, and return the address of each."""
        outcome = Drain(pool.host.name, tuple(record.label for record in records))
        try:
            self._stop_before("it was told")
            members = pool.members()  # read again: a deploy may have moved instances since the question
            here = {record.label: record for record in records if record.label in members}
            outcome.labels = tuple(here)
            if not here:
                raise HostError(f"{pool.host.name}: none of the instances is in the upstream of this balancer", HINT)
            outcome.changed = pool.update(drain=here)
        except HostError as error:
            outcome.error = self._for_operator(error, pool)
            return outcome, []
        return outcome, [members[name].at for name in here]

    def _await(self, pool: BalancerPool, outcome: Drain, addresses: Sequence[str], deadline: float) -> None:
        """Wait until a balancer has no stream of the instances left."""
        ended = "their streams had ended; nothing new is sent to them"

        def waiting(count: int) -> None:
            self._stop_before(ended)
            self._say(pool.host, "progress", "drain", f"waiting: {still_running(count)}")

        try:
            self._stop_before(ended)
            count, answers = pool.wait_idle(addresses, deadline, waiting)
            if count and answers:
                hint = "no new requests are sent: drain again to wait longer, or start your work and cut the streams"
                raise HostError(f"{pool.host.name}: {still_running(count)}", hint)
        except HostError as error:
            outcome.error = self._for_operator(error, pool)

    def _tested(self, host: Host, names: Sequence[str]) -> list[Drain]:
        session = self.context.setup.transport(host.connection, self._password)
        self._tests.append(session)
        lease = self.context.lease(session, host.connection.timeout_factor)
        admission = Admission(host, session, lease, self._roll, partial(self._say, host))
        outcomes = []
        for name in names:
            outcome = Drain(host.name, (label(host.name, name),))
            try:
                self._stop_before("it was tested")
                admission.prove(name)
            except HostError as error:
                outcome.error = interrupt.for_operator(error, self.context, locked=False).masked(self.hide)
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
            outcome.error = self._for_operator(error, pool)
        return outcome

    def _stop_before(self, what: str) -> None:
        if self.context.stop.is_set():
            raise Stopped(f"stopped before {what}", "run the command again to go on")

    def _for_operator(self, error: HostError, pool: BalancerPool) -> HostError:
        return interrupt.for_operator(error, self.context, locked=pool.locked)

    def _say(self, host: Host, kind: str, step: str, text: str) -> None:
        self.context.listen(Event(host.name, kind, step, self.hide(text)))
