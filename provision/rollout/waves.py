"""Across hosts: all of them at once, balancers' configuration last, one bad host stops nobody else."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from provision.apply import diagnostics
from provision.apply.host_run import HostRun
from provision.errors import BugError, HostError, LockedError, RefusedError
from provision.events import Event
from provision.inventory import Host, Inventory
from provision.plan import role_order
from provision.plan.planner import NOTHING_CHANGED, HostPlan, merged
from provision.plan.role_order import INSTANCES, LAST, Entry
from provision.rollout import clock, standing
from provision.rollout.budget import Rolling
from provision.rollout.recovery import Readmission, prove
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.ssh.session import Session
from provision.steps.base import RefusalError
from provision.steps.facts import Fleet
from provision.steps.instance.endpoint import listen_address
from provision.steps.nginx import upstream as marks
from provision.steps.nginx.upstream import Drained

FORKS = 32

NO_LIMIT = 10**9


@dataclass(frozen=True)
class Pace:
    """How carefully a run goes through its hosts.

    Args:
        serial: hosts at a time; the next ones begin when these have ended.
        canary: whether one host goes first and alone, if it can a gpu host; the others only if all is well there.
        max_fail: so many hosts may fail or be unreachable; with one more the run stops.
    """

    serial: int = NO_LIMIT
    canary: bool = False
    max_fail: int = NO_LIMIT


Selection = Sequence[tuple[Host, frozenset[str]]]
"""Hosts, each with the names of the roles that are looked at there."""


@dataclass
class Outcome:
    """What became of one host.

    Args:
        host: its name.
        plan: what was to change.
        changed: ids of the steps that were changed.
        error: what failed, or None.
        seconds: how long it took.
        drained: on a balancer, the instances that an operator keeps out.
        clock: a warning if the host's clock and this machine's differ; else empty.
    """

    host: str
    plan: HostPlan = field(default_factory=HostPlan)
    changed: list[str] = field(default_factory=list)
    error: HostError | None = None
    seconds: float = 0.0
    drained: tuple[Drained, ...] = ()
    clock: str = ""

    @property
    def result(self) -> str:
        """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`."""
        return interrupt.result(self.error, changed=bool(self.changed))


@dataclass
class _Member:
    run: HostRun
    outcome: Outcome


class Rollout:
    """One run over a selection of hosts.

    Args:
        context: what the hosts share.
        hosts: the selection: hosts, and the names of the roles that are looked at on each.
        become_password: sudo's password for all of them (`-K`), or None for the inventory's.
        forks: hosts at the same time.
        pace: how carefully it goes through them.
        past: of a rollback, host -> the steps that are put back there; of a deploy None.
    """

    def __init__(
        self,
        context: Context,
        hosts: Selection,
        become_password: str | None,
        forks: int,
        pace: Pace = Pace(),
        past: Mapping[str, tuple[Entry, ...]] | None = None,
    ) -> None:
        self.context = context
        self.pace = pace
        self.past = past
        self.rolling = Rolling(context, become_password)
        self.rolling.prove = self._prove
        self.forks = max(1, min(forks, len(hosts)))
        self.members = [
            _Member(self._run_of(host, become_password, roles), Outcome(host.name)) for host, roles in hosts
        ]
        self.interrupted = False
        """Whether the operator stopped it."""
        self.guard_exit = 7
        """The exit code where it stopped itself."""
        self._stay_connected = False
        self._stopped = ""
        self._ending = False  # nothing is left to do but to give back
        self._one_balancer = threading.Lock()
        self._bad_balancer = ""

    @property
    def guarded(self) -> str:
        """Why the run stopped itself, or a part of it; empty if it did not."""
        return self._stopped or self.rolling.halted

    def _run_of(self, host: Host, become_password: str | None, roles: frozenset[str]) -> HostRun:
        past = None if self.past is None else self.past.get(host.name, ())
        return HostRun(host, Session(host.connection, become_password), self.context, roles, self.rolling, past)

    def plan(self, *, stay_connected: bool = False) -> list[Outcome]:
        """Compare every host with the inventory. Changes nothing.

        Args:
            stay_connected: keep the connection of every host open, for whoever asks more of it afterwards.
        """
        self._stay_connected = stay_connected
        self._waves(self._plan)
        return self._finish()

    def deploy(self) -> list[Outcome]:
        """Make every host what it should be."""
        try:
            self._waves(self._deploy, between=self._readmit)
        finally:
            outcomes = self._finish()
        return outcomes

    def interrupt(self, *, now: bool) -> None:
        """Stop after the current steps, or at once by cutting the connections. Hosts that are only read are cut.

        What has come to its end is not stopped any more; locks that cannot be given back are left to end by themselves.
        """
        self.context.stop.set()
        self.interrupted = self.interrupted or now or not self._ending
        if now:
            self.context.cut.set()
        for member in self.members:
            if now or not (member.run.locked or self._ending):
                member.run.session.close()
        if now:
            self.rolling.close()

    def under_way(self) -> list[str]:
        """Names of the hosts that may hold this run's lock: what is done there is not broken off."""
        return standing.under_way([member.run for member in self.members], self.rolling)

    def close(self) -> None:
        """Close every connection."""
        for member in self.members:
            member.run.session.close()

    def fleet(self) -> Fleet:
        """What is known of hosts whose instances this run looked at; of others the upstream keeps its mark."""
        addresses = {}
        for member in self.members:
            host = member.run.host
            if host.gpu and member.outcome.error is None and member.run.roles >= INSTANCES:
                with self._caught(member):
                    addresses[host.name] = listen_address(host, self.context.inventory, member.run.facts)
        unclear = (
            m for m in self.members if standing.is_unfinished(m.run, m.outcome.error) or self._keeps_marks(m.run)
        )
        partly = frozenset(member.outcome.host for member in unclear)
        drained = {label: one for member in self.members for label, one in marks.drained(member.run.upstream()).items()}
        unfit = frozenset(self.rolling.unfit | self.rolling.lost | self._gone())
        return Fleet(addresses, frozenset(self.context.failed) - partly, partly, unfit, drained)

    def _keeps_marks(self, run: HostRun) -> bool:
        """Whether a host failed, and its instances are known to serve as before; see `standing`."""
        error = next(member.outcome.error for member in self.members if member.run is run)
        return standing.keeps_marks(run, error, self.context.journals.get(run.host.name))

    def _gone(self) -> set[str]:
        """Labels of instances that are declared, and that a rollback takes away."""
        declared = {host.name: host.instances for host in self.context.inventory.hosts}
        return {
            marks.label(one.host, one.name)
            for host in (member.run.host for member in self.members)
            for one in declared.get(host.name, ())
            if one.name not in {left.name for left in host.instances}
        }

    def _readmit(self) -> None:
        """Before the balancers are told: what is marked down, and would get requests again, proves itself first."""
        if not self.context.stop.is_set():
            runs = [member.run for member in self.members]
            Readmission(self.context, self.rolling, runs, self._on, self._keeps_marks).readmit()

    def _prove(self, label: str) -> bool:
        """Have an instance that an earlier run left out prove itself, and give it back; False if it stays out."""
        place = label.rpartition("/")[0]
        member = next((one for one in self.members if marks.label(one.run.host.name, "") == f"{place}/"), None)
        if member is None or member.outcome.error is not None or self.context.stop.is_set():
            return False
        try:
            return prove(self.rolling, member.run, label)
        except HostError:  # its own turn, or the end of the run, tells more of it
            return False

    def _on(self, work: Callable[[HostRun], None], runs: Sequence[HostRun], *, failed: bool = False) -> None:
        """Do this on those of these hosts that have not failed; or that have, and then their first error is told."""

        def one(member: _Member) -> None:
            with contextlib.suppress(HostError) if failed else self._caught(member):
                work(member.run)

        chosen = [one for one in self.members if one.run in runs and (one.outcome.error is not None) == failed]
        with ThreadPoolExecutor(self.forks, thread_name_prefix="host") as pool:
            done = [pool.submit(one, member) for member in chosen]  # `map` would leave out the rest after an error
        for future in done:
            future.result()

    def _waves(
        self,
        work: Callable[[_Member, frozenset[str], Fleet | None], None],
        between: Callable[[], None] = lambda: None,
    ) -> None:
        """All roles but the last on all hosts, then the last ones with what is known of all hosts."""
        late = frozenset(LAST)
        self._all(lambda member: work(member, self.context.roles - late, None), self.context.roles & late)
        between()
        if self.context.roles & late:
            fleet = self.fleet()
            self._all(lambda member: work(member, self.context.roles & late, fleet))
        self._refuse()

    def _refuse(self) -> None:
        """Have hosts fail that are as they should be but for instances that cannot be worked on."""
        for member in self.members:
            if member.outcome.error is None and member.run.turn.refused:
                self._fail(member, diagnostics.refused(member.run.turn.refused))

    def _read(self, member: _Member) -> None:
        asked = time.time()
        member.run.read()
        member.outcome.clock = clock.warning(member.outcome.host, member.run.facts.clock, asked, time.time())

    def _plan(self, member: _Member, roles: frozenset[str], fleet: Fleet | None) -> None:
        if fleet is None:
            self._read(member)
        found = member.run.plan(roles, fleet, member.outcome.plan.changes)
        member.outcome.plan = merged(member.outcome.plan, found)

    def _deploy(self, member: _Member, roles: frozenset[str], fleet: Fleet | None) -> None:
        if fleet is None:
            self._read(member)
        balancer = fleet is not None and (member.run.host.balancer or bool(member.run.upstream()))
        try:
            if balancer and member.run.plan(roles, fleet).changes:
                self._deploy_balancer(member, roles, fleet)
            else:
                member.run.deploy(roles, fleet)
        finally:
            member.outcome.plan = merged(*member.run.plans)
            member.outcome.changed = list(dict.fromkeys(member.run.changed))

    def _deploy_balancer(self, member: _Member, roles: frozenset[str], fleet: Fleet | None) -> None:
        """One balancer at a time, and none after one that failed: what broke it would break the next."""
        with self._one_balancer:
            if self._bad_balancer:
                self._guard(f"the balancer {self._bad_balancer} failed")
                raise Stopped(f"left as it is: {self._stopped}", "mend that, then deploy again")
            try:
                member.run.deploy(roles, fleet)
            except (LockedError, Stopped):  # nothing is known to be wrong with it
                raise
            except HostError:
                self._bad_balancer = member.outcome.host
                raise

    def _all(self, work: Callable[[_Member], None], later: frozenset[str] = frozenset()) -> None:
        """Do this on every host that has not failed, in a bounded pool.

        Args:
            work: what to do.
            later: the roles that are still to come. What has none of them needs its connection no longer: of 200 hosts
                no more are open than are worked on.
        """

        def one(member: _Member) -> None:
            begun = time.monotonic()
            self.context.begun.add(member.outcome.host)
            with self._caught(member):
                if self.context.stop.is_set():
                    raise Stopped(self.guarded or "stopped before it began", "run it again to go on")
                work(member)
                needed = member.run.locked or any(entry.role in later for entry in member.run.entries)
                if not (needed or self._stay_connected):
                    member.run.session.close()
            self.context.working.discard(member.outcome.host)
            self.context.begun.discard(member.outcome.host)
            member.outcome.seconds += time.monotonic() - begun

        alive = [member for member in self.members if member.outcome.error is None]
        self.context.working.update(member.outcome.host for member in alive)
        waits = role_order.waiting(self.context.inventory, self.context.roles)
        free = (member for member in alive if waits.get(member.outcome.host) not in self.context.working)
        # A balancer proves nothing of instances, and who waits for another host's build cannot be alone.
        canary = next((member for member in free if self.pace.canary and member.run.host.gpu), None)
        # Then who makes what others wait for, or with few workers all of them would wait for it.
        alive.sort(key=lambda member: (member is not canary, member.outcome.host not in waits.values()))
        for batch in self._batches(alive):
            with ThreadPoolExecutor(self.forks, thread_name_prefix="host") as pool:
                list(pool.map(one, batch))
            if self.pace.canary and batch[0] is alive[0] and (error := batch[0].outcome.error):
                locked = isinstance(error, LockedError)
                self._guard(f"{batch[0].outcome.host}, which went first, {'is locked' if locked else 'failed'}")
                self.guard_exit = LockedError.exit_code if locked else self.guard_exit

    def _batches(self, members: Sequence[_Member]) -> Iterator[Sequence[_Member]]:
        """The hosts that are worked on together, one group after the other."""
        first = 1 if self.pace.canary else 0
        if members[:first]:
            yield members[:first]
        for start in range(first, len(members), self.pace.serial):
            yield members[start : start + self.pace.serial]

    def _guard(self, why: str) -> None:
        """Stop the run: hosts that have not begun are left alone, the others stop after their present step."""
        self._stopped = self._stopped or why
        self.context.stop.set()

    @contextlib.contextmanager
    def _caught(self, member: _Member) -> Iterator[None]:
        """Keep a host's error with the host, also one that nobody foresaw: the others go on."""
        try:
            yield
        except HostError as error:
            self._fail(member, error)
        except RefusalError as error:
            self._fail(member, RefusedError(str(error), NOTHING_CHANGED))
        except Exception as error:  # noqa: BLE001 - a bug on one host must not leave the others half-way and locked
            self._fail(member, BugError(error))
        if len(self.context.failed) > self.pace.max_fail:
            self._guard(f"{len(self.context.failed)} hosts failed, more than {self.pace.max_fail}")

    def _fail(self, member: _Member, error: HostError) -> None:
        error = interrupt.told(error, self.context, locked=member.run.locked)
        if member.run.locked and interrupt.is_cut_off(error, self.context):
            self.context.cut_off.add(member.outcome.host)
        member.outcome.error = error.masked(member.run.hide)
        if not isinstance(error, LockedError | Stopped):  # nothing is known to be wrong with those hosts
            self.context.failed.add(member.outcome.host)
        self.context.listen(Event(member.outcome.host, "failed", error.step, error.message))

    def _finish(self) -> list[Outcome]:
        self._ending = True

        def give_back(member: _Member) -> None:
            with contextlib.suppress(Exception):  # the lease ends by itself, and what failed before is what is told
                member.run.finish(member.outcome.result, member.outcome.error)

        with ThreadPoolExecutor(self.forks) as pool:
            list(pool.map(give_back, self.members))
        self.rolling.finish()
        self.context.keeper.stop()
        for member in self.members:
            member.outcome.drained = tuple(marks.drained(member.run.upstream()).values())
            self.context.listen(Event(member.outcome.host, "done", text=member.outcome.result))
        return [member.outcome for member in self.members]


def selection(inventory: Inventory, chosen: Sequence[Host], roles: frozenset[str]) -> Selection:
    """The hosts of a run: those chosen, and the balancers that send to the chosen ones, for their upstream alone.

    Args:
        inventory: all hosts.
        chosen: what `--limit` left.
        roles: the roles of this run.
    """
    names = {host.name for host in chosen}
    last = roles & frozenset(LAST)
    senders = {host.name for host in inventory.hosts if host.balancer and last and any(one.gpu for one in chosen)}
    return [(host, roles if host.name in names else last) for host in inventory.hosts if host.name in names | senders]
