"""Across hosts: all of them at once, balancers' configuration last, one bad host stops nobody else."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from provision.apply import diagnostics
from provision.apply.host_run import HostRun
from provision.errors import BugError, HostError, LockedError, RefusedError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.plan import role_order
from provision.plan.change_order import creates, is_container
from provision.plan.planner import NOTHING_CHANGED, HostPlan, merged
from provision.plan.role_order import INSTANCES, LAST, Entry
from provision.rollout import clock
from provision.rollout.budget import Renaming
from provision.rollout.members import Membership, Slot
from provision.rollout.outcome import DEFAULT, Outcome, Pace, Selection
from provision.rollout.scheduler import Scheduler, Work
from provision.rollout.traffic import HostTraffic, Roll, is_left_out
from provision.runs import interrupt
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.session import Session
from provision.steps.base import RefusalError
from provision.steps.facts import Fleet
from provision.steps.instance.endpoint import listen_address
from provision.steps.nginx import upstream
from provision.steps.nginx.upstream import Member, label


@dataclass(eq=False)
class _Host:
    """One host of the run.

    Args:
        run: does its work.
        traffic: takes its instances out, and gives them back.
        outcome: what becomes of it.
        planned: what is to change of all but the last roles, once it was read.
    """

    run: HostRun
    traffic: HostTraffic
    outcome: Outcome
    planned: HostPlan | None = field(default=None)

    @property
    def name(self) -> str:
        return self.outcome.host

    @property
    def is_well(self) -> bool:
        return self.outcome.error is None

    @property
    def serves(self) -> bool:
        """Whether the run looks at its instances."""
        return self.run.host.gpu and bool(self.run.roles & INSTANCES)


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
        pace: Pace = DEFAULT,
        past: Mapping[str, tuple[Entry, ...]] | None = None,
    ) -> None:
        self.context = context
        self.pace = pace
        self.past = past
        self.roll = Roll.of(context, become_password)
        self.forks = max(1, min(forks, len(hosts)))
        self.members = [self._host(host, roles, become_password) for host, roles in hosts]
        self.interrupted = False
        """Whether the operator stopped it."""
        self.guard_exit = 7
        """The exit code where it stopped itself."""
        self._scheduler = Scheduler(self.roll, self.forks)
        self._stay_connected = False
        self._stopped = ""
        self._ending = False  # nothing is left to do but to give back

    def _host(self, host: Host, roles: frozenset[str], become_password: str | None) -> _Host:
        past = None if self.past is None else self.past.get(host.name, ())
        session = Session(host.connection, become_password)
        lease = Lease(session, self.context.run_id, self.context.dead)
        traffic = HostTraffic(host, session, lease, self.roll, partial(self._say, host.name, Mask(host.secrets())))
        return _Host(HostRun(host, session, self.context, roles, lease, traffic, past), traffic, Outcome(host.name))

    @property
    def guarded(self) -> str:
        """Why the run stopped itself, or a part of it; empty if it did not."""
        return self._stopped or self.roll.members.halted

    def plan(self, *, stay_connected: bool = False) -> list[Outcome]:
        """Compare every host with the inventory. Changes nothing.

        Args:
            stay_connected: keep the connection of every host open, for whoever asks more of it afterwards.
        """
        self._stay_connected = stay_connected
        self._each(self._read, self._in_order(), keep=False)
        self._refuse_renaming()
        if late := self._late:
            fleet = self.fleet()
            self._each(lambda host: self._plan(host, late, fleet), self._well())
        self._fail_refused()
        return self._finish()

    def deploy(self) -> list[Outcome]:
        """Make every host what it should be."""
        try:
            self._first_wave()
            self._last_wave()
            self._fail_refused()
        finally:
            outcomes = self._finish()
        return outcomes

    def interrupt(self, *, now: bool) -> None:
        """Stop after the current steps, or at once by cutting the connections. Hosts that are only read are cut.

        A host whose part has ended is not stopped any more. A lock that cannot be given back is left to end by itself.
        """
        self.context.stop.set()
        self.interrupted = self.interrupted or now or not self._ending
        if now:
            self.context.cut.set()
        for host in self.members:
            if now or not (host.run.locked or self._ending):
                host.run.session.close()
        if now:
            self.roll.pools.close()
        self._scheduler.wake()

    def under_way(self) -> list[str]:
        """Names of the hosts that may hold this run's lock: what is done there is not broken off."""
        balancers = {pool.host.name for pool in self.roll.pools.known if pool.locked}
        return sorted(balancers | {host.name for host in self.members if host.run.locked})

    def close(self) -> None:
        """Close every connection."""
        for host in self.members:
            host.run.session.close()

    def fleet(self) -> Fleet:
        """What is known of hosts whose instances this run looked at; of others the upstream keeps its mark."""
        addresses = {}
        for host in self.members:
            if host.run.host.gpu and host.is_well and host.run.roles >= INSTANCES:
                with self._caught(host):
                    addresses[host.name] = listen_address(host.run.host, self.context.inventory, host.run.facts)
        partly = frozenset(host.name for host in self.members if _keeps_marks(host))
        drained = {
            key: record for host in self.members for key, record in upstream.drained(host.run.upstream()).items()
        }
        members = self.roll.members
        unfit = members.labels(Membership.NOT_READY) | members.unusable | self._taken_away()
        return Fleet(addresses, frozenset(self.context.failed) - partly, partly, unfit, drained)

    def _taken_away(self) -> frozenset[str]:
        """Labels of instances that are declared, and that a rollback takes away."""
        declared = {host.name: host.instances for host in self.context.inventory.hosts}
        return frozenset(
            label(host.name, instance.name)
            for host in self.members
            for instance in declared.get(host.name, ())
            if instance.name not in {left.name for left in host.run.host.instances}
        )

    @property
    def _late(self) -> frozenset[str]:
        return self.context.roles & frozenset(LAST)

    @property
    def _early(self) -> frozenset[str]:
        return self.context.roles - frozenset(LAST)

    def _well(self) -> list[_Host]:
        return [host for host in self.members if host.is_well]

    def _first_wave(self) -> None:
        """All roles but the last on all hosts: read, give back what earlier runs left out, and change."""
        for batch in self._batches(self._in_order()):
            self._each(self._read, batch, keep=len(batch) <= self.forks)
            self._refuse_renaming()
            self._recover()
            self._scheduler.run(self._work(host, self._deploy(host)) for host in batch if host.is_well)
            if self.pace.canary and len(batch) == 1 and batch[0].outcome.error is not None:
                self._stop_behind(batch[0])
        self._recover()
        for host in self._well():
            if host.traffic.error is not None:
                self._fail(host, host.traffic.error)

    def _last_wave(self) -> None:
        """The last roles, with what is known of all hosts. Balancers with something to change go one at a time."""
        late = self._late
        if not late:
            return
        touched = {pool.host.name for pool in self.roll.pools.known if pool.touched}
        self._each(lambda host: host.run.read(), [host for host in self._well() if host.name in touched])
        fleet = self.fleet()
        balancers: list[_Host] = []
        others: list[_Host] = []
        for host in self._well():
            with self._caught(host):
                is_balancer = host.run.host.balancer or bool(host.run.upstream())
                changes = is_balancer and host.run.plan(late, fleet).changes
                (balancers if changes else others).append(host)
        self._scheduler.run(self._work(host, self._deploy(host, fleet)) for host in others)
        bad = ""
        for host in balancers:
            self._scheduler.run([self._work(host, self._deploy_balancer(host, fleet, bad))])
            if not isinstance(host.outcome.error, LockedError | Stopped | None):
                bad = bad or host.name

    def _deploy_balancer(self, host: _Host, fleet: Fleet, bad: str) -> Iterator[Slot]:
        """None is changed after one that failed: what broke that one would break the next."""
        if bad:
            self._guard(f"the balancer {bad} failed")
            with self._caught(host):
                raise Stopped(f"left as it is: {self._stopped}", "mend that, then deploy again")
            return
        yield from self._deploy(host, fleet)

    def _work(self, host: _Host, slots: Iterator[Slot]) -> Work:
        self.context.working.add(host.name)
        return Work(slots, partial(self._say, host.name, host.run.hide, "progress", "upstream"))

    def _deploy(self, host: _Host, fleet: Fleet | None = None) -> Iterator[Slot]:
        """One host's part of a wave; its errors stay with the host."""
        begun = time.monotonic()
        with self._caught(host):
            self._stop_before_it_begins()
            try:
                yield from host.run.deploy(self._early if fleet is None else self._late, fleet)
            finally:
                host.outcome.plan = merged(*host.run.plans)
                host.outcome.changed = list(dict.fromkeys(host.run.changed))
            self._leave(host, self._late if fleet is None else frozenset())
        self.context.working.discard(host.name)
        host.outcome.seconds += time.monotonic() - begun

    def _read(self, host: _Host) -> None:
        """Read a host, and plan all but its last roles."""
        self._stop_before_it_begins()
        asked = time.time()
        host.run.read()
        host.outcome.clock = clock.warning(host.name, host.run.facts.clock, asked, time.time())
        self._plan(host, self._early)
        host.planned = host.outcome.plan

    def _plan(self, host: _Host, roles: frozenset[str], fleet: Fleet | None = None) -> None:
        host.outcome.plan = merged(host.outcome.plan, host.run.plan(roles, fleet, host.outcome.plan.changes))

    def _leave(self, host: _Host, later: frozenset[str]) -> None:
        """Close a connection that is not needed any more: of 200 hosts no more are open than are worked on.

        Args:
            host: the host.
            later: the roles that are still to come.
        """
        needed = host.run.locked or any(entry.role in later for entry in host.run.entries)
        if not (needed or self._stay_connected):
            host.run.session.close()

    def _each(self, work: Callable[[_Host], None], hosts: Sequence[_Host], *, keep: bool = True) -> None:
        """Do this on hosts in a bounded pool; an error stays with its host.

        Args:
            work: what to do.
            hosts: where.
            keep: whether connections are kept where something is to change.
        """

        def one(host: _Host) -> None:
            begun = time.monotonic()
            with self._caught(host):
                work(host)
            changes = host.planned is not None and bool(host.planned.changes)
            if not (host.is_well and keep and changes):
                self._leave(host, self._late if host.is_well else frozenset())
            host.outcome.seconds += time.monotonic() - begun

        with ThreadPoolExecutor(self.forks, thread_name_prefix="host") as pool:
            list(pool.map(one, hosts))

    def _recover(self) -> None:
        """Give back what earlier runs left out of the upstream, if it can serve: it is in the way of others.

        An instance that this run changes proves itself after that.
        """
        known = [host for host in self._well() if host.serves and host.planned is not None]
        listed = self._listed(known)
        left_out = [host for host in self._well() if host.serves and self._left_out(host, listed)]
        self._each(self._read, [host for host in left_out if host.planned is None])
        self._each(lambda host: host.traffic.recover(listed, self._changing(host)), [h for h in left_out if h.is_well])

    def _listed(self, hosts: Sequence[_Host]) -> dict[str, Member]:
        """Label -> member of the upstreams, as they were read; a balancer that is not read is asked if it matters."""
        read = {host.name: host.run.upstream() for host in self.members if host.planned is not None}
        listed = {key: member for text in read.values() for key, member in upstream.members(text).items()}
        for host in hosts:
            if not self._late or self._changing(host):
                for pool in self.roll.pools.of(host.run.host):
                    if pool.host.name not in read:
                        listed |= self.roll.pools.first_members(pool)
        return listed

    @staticmethod
    def _left_out(host: _Host, listed: Mapping[str, Member]) -> bool:
        own = (listed.get(label(host.name, instance.name)) for instance in host.run.host.instances)
        return any(member is not None and is_left_out(member) for member in own)

    @staticmethod
    def _changing(host: _Host) -> frozenset[str]:
        """Names of the instances that a host's changes concern; none once it was worked on."""
        if host.run.plans or host.planned is None:
            return frozenset()
        return host.run.changing(host.planned.changes)

    def _refuse_renaming(self) -> None:
        """Have hosts fail on which more instances would be renamed at once than may be out."""
        renamings = [Renaming(host.run.host, _renamed(host.planned)) for host in self._well() if host.planned]
        refused = self.roll.budget.refuse_renaming([renaming for renaming in renamings if renaming.count])
        for host in self._well():
            if host.name in refused and not host.run.plans:
                self._fail(host, refused[host.name])

    def _fail_refused(self) -> None:
        """Have hosts fail that are as they should be but for instances that cannot be worked on."""
        for host in self._well():
            if host.run.refused:
                self._fail(host, diagnostics.refused(host.run.refused))

    def _stop_before_it_begins(self) -> None:
        if self.context.stop.is_set():
            raise Stopped(self.guarded or "stopped before it began", "run it again to go on")

    def _in_order(self) -> list[_Host]:
        """The hosts in the order in which they begin: the canary, then who makes what others wait for.

        A balancer proves nothing of instances, and a host that waits for another one's build cannot be alone.
        """
        self.context.working.update(host.name for host in self.members)
        waits = role_order.waiting(self.context.inventory, self.context.roles)
        free = (host for host in self.members if waits.get(host.name) not in self.context.working)
        canary = next((host for host in free if self.pace.canary and host.run.host.gpu), None)
        return sorted(self.members, key=lambda host: (host is not canary, host.name not in waits.values()))

    def _stop_behind(self, canary: _Host) -> None:
        locked = isinstance(canary.outcome.error, LockedError)
        self._guard(f"{canary.name}, which went first, {'is locked' if locked else 'failed'}")
        self.guard_exit = LockedError.exit_code if locked else self.guard_exit

    def _batches(self, hosts: Sequence[_Host]) -> Iterator[Sequence[_Host]]:
        """The hosts that are worked on together, one group after the other."""
        first = 1 if self.pace.canary else 0
        if hosts[:first]:
            yield hosts[:first]
        for start in range(first, len(hosts), self.pace.serial):
            yield hosts[start : start + self.pace.serial]

    def _guard(self, why: str) -> None:
        """Stop the run: hosts that have not begun are left alone, the others stop after their present step."""
        self._stopped = self._stopped or why
        self.context.stop.set()

    @contextlib.contextmanager
    def _caught(self, host: _Host) -> Iterator[None]:
        """Keep a host's error with the host, also one that nobody foresaw: the others go on."""
        try:
            yield
        except HostError as error:
            self._fail(host, error)
        except RefusalError as error:
            self._fail(host, RefusedError(str(error), NOTHING_CHANGED))
        except Exception as error:  # noqa: BLE001 - a bug on one host must not leave the others half-way and locked
            self._fail(host, BugError(error))
        if len(self.context.failed) > self.pace.max_fail:
            self._guard(f"{len(self.context.failed)} hosts failed, more than {self.pace.max_fail}")

    def _fail(self, host: _Host, error: HostError) -> None:
        error = interrupt.told(error, self.context, locked=host.run.locked)
        if host.run.locked and interrupt.is_cut_off(error, self.context):
            self.context.cut_off.add(host.name)
        for name in ("message", "hint", "command", "stderr"):
            setattr(error, name, host.run.hide(getattr(error, name)))
        host.outcome.error = error
        if not isinstance(error, LockedError | Stopped):  # nothing is known to be wrong with those hosts
            self.context.failed.add(host.name)
        self.context.listen(Event(host.name, "failed", error.step, error.message))

    def _say(self, host: str, hide: Mask, kind: str, step: str, text: str) -> None:
        self.context.listen(Event(host, kind, step, hide(text)))

    def _finish(self) -> list[Outcome]:
        self._ending = True

        def give_back(host: _Host) -> None:
            with contextlib.suppress(Exception):  # the lease ends by itself, and what failed before is what is told
                host.run.finish(host.outcome.result, host.outcome.error)

        with ThreadPoolExecutor(self.forks) as pool:
            list(pool.map(give_back, self.members))
        self.roll.pools.finish()
        told = {pool.host.name: pool.step_id for pool in self.roll.pools.known if pool.touched}
        for host in self.members:
            if self.roll.members.recovered and host.name in told:
                host.outcome.changed = list(dict.fromkeys([*host.outcome.changed, told[host.name]]))
            host.outcome.drained = tuple(upstream.drained(host.run.upstream()).values())
            self.context.listen(Event(host.name, "done", text=host.outcome.result))
        return [host.outcome for host in self.members]


def _keeps_marks(host: _Host) -> bool:
    """Whether the balancers keep the marks of a host's instances: nothing of them changed, or it is not known to serve.

    A run that stopped, or left out roles, may have left something new on a host that cannot serve yet.
    """
    error = host.outcome.error
    if error is None:
        return host.serves and not host.run.roles >= INSTANCES
    return isinstance(error, LockedError | Stopped) or host.run.keeps_marks(error)


def _renamed(planned: HostPlan) -> int:
    """How many instances of a host are removed while others are made."""
    changes = planned.changes
    removed = [
        one for one in changes if one.action == "remove" and is_container(one.step) and (one.have or {}).get("running")
    ]
    return min(len(removed), sum(creates(change) for change in changes))
