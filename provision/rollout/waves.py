"""A run over all hosts: hosts change side by side, the balancers' configuration last. A failed host stops no other."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from provision.apply import diagnostics
from provision.apply.host_run import HostRun
from provision.errors import BugError, HostError, LockedError, RefusedError
from provision.events import Event
from provision.inventory import Host, Mask
from provision.plan import role_interface
from provision.plan.planner import NOTHING_CHANGED, merged
from provision.plan.role_interface import Entry
from provision.rollout import clock, fleet, renaming
from provision.rollout.batches import batches, in_order
from provision.rollout.held_address import HeldAddress
from provision.rollout.host_part import HostPart
from provision.rollout.members import Slot
from provision.rollout.outcome import DEFAULT, Outcome, Pace, Selection
from provision.rollout.recovery import Recovery
from provision.rollout.roll import Roll
from provision.rollout.scheduler import Scheduler, Work
from provision.rollout.traffic import HostTraffic
from provision.runs.context import Context, Stopped
from provision.steps.base import RefusalError
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import upstream


class Rollout:
    """One run over a selection of hosts.

    Args:
        context: shared by the hosts of the run.
        hosts: hosts, each with the names of the roles to look at.
        become_password: sudo's password for all hosts (`-K`), or None for the password in the inventory.
        forks: hosts at the same time.
        pace: how carefully the run goes through the hosts.
        past: for a rollback, host -> the steps to restore; None for a deploy.
        roll: state shared by the hosts; a new roll by default.
    """

    def __init__(
        self,
        context: Context,
        hosts: Selection,
        become_password: str | None,
        forks: int,
        pace: Pace = DEFAULT,
        past: Mapping[str, tuple[Entry, ...]] | None = None,
        roll: Roll | None = None,
    ) -> None:
        self.context = context
        self.pace = pace
        self.past = past
        self.roll = roll or Roll.of(context, become_password)
        self.forks = max(1, min(forks, len(hosts)))
        self.members = [self._host(host, roles, become_password) for host, roles in hosts]
        self.interrupted = False
        """Whether the operator stopped the run."""
        self.guard_exit = 7
        """The exit code of a run that stopped itself."""
        self._scheduler = Scheduler(self.roll, self.forks)
        each = partial(self._each, later=self._late, keep=True)
        self._recovery = Recovery(self.roll, self.members, self.forks, each, self._read)
        self._address = HeldAddress(self.context, become_password)
        self._stay_connected = False
        self._stopped = ""
        self._ending = False  # all work is done, and the run only returns its locks

    def _host(self, host: Host, roles: frozenset[str], become_password: str | None) -> HostPart:
        past = None if self.past is None else self.past.get(host.name, ())
        session = self.context.setup.transport(host.connection, become_password)
        lease = self.context.lease(session, host.connection.timeout_factor)
        traffic = HostTraffic(host, session, lease, self.roll, partial(self._say, host.name, Mask(host.secrets())))
        return HostPart(HostRun(host, session, self.context, roles, lease, traffic, past), traffic, Outcome(host.name))

    @property
    def guarded(self) -> str:
        """Why the run, or its roll, stopped itself; empty if neither did."""
        return self._stopped or self.roll.members.halted

    def plan(self, *, stay_connected: bool = False) -> list[Outcome]:
        """Compare every host with the inventory. Changes nothing.

        Args:
            stay_connected: keep every connection open, for a verification that follows.
        """
        self._stay_connected = stay_connected
        late = self._late
        self._each(self._read, self._in_order(), later=late)
        if not stay_connected:  # a verification lists all differences, deployable or not
            self._refuse_renaming()
        if late:
            known = self.fleet()
            self._each(lambda host: self._plan(host, late, known), self._well())
        self._fail_refused()
        return self._finish()

    def deploy(self) -> list[Outcome]:
        """Change every host to the state in the inventory."""
        try:
            self._first_wave()
            self._last_wave()
            self._fail_refused()
        finally:
            outcomes = self._finish()
        return outcomes

    def interrupt(self, *, now: bool) -> None:
        """Stop after the current steps, or cut the connections now. Hosts without a lock are cut in both cases.

        If all work is done and only the locks are left, the run counts as complete. A lock that cannot be returned
        expires.

        Args:
            now: cut the connections, also to hosts in the middle of a step.
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
            self._address.close()
        self._scheduler.wake()

    def under_way(self) -> list[str]:
        """Return the names of the hosts that this run may have locked: the run finishes their current commands."""
        balancers = {pool.host.name for pool in self.roll.pools.known if pool.locked}
        return sorted(balancers | {host.name for host in self.members if host.run.locked})

    def close(self) -> None:
        """Close every connection."""
        for host in self.members:
            host.run.session.close()

    def fleet(self) -> FleetState:
        """Return the state of the fleet so far."""
        return fleet.known(self.members, self.roll, self._caught)

    @property
    def _late(self) -> frozenset[str]:
        return self.context.roles & role_interface.late()

    @property
    def _early(self) -> frozenset[str]:
        return self.context.roles - role_interface.late()

    def _well(self) -> list[HostPart]:
        return [host for host in self.members if host.is_well]

    def _first_wave(self) -> None:
        """Run all roles but the late roles on all hosts: read, recover left-out instances, change."""
        for number, batch in enumerate(batches(self._in_order(), self.pace)):
            self._each(self._read, batch, later=self._late, keep=len(batch) <= self.forks)
            self._refuse_renaming()
            self._recovery.recover(batch)
            self._scheduler.run(self._work(host, self._deploy(host)) for host in batch if host.is_well)
            if self.pace.canary and number == 0 and not batch[0].is_well:
                self._stop_behind(batch[0])
        self._recovery.recover()
        for host in self._well():
            if host.traffic.left_out.error is not None:
                host.fail(host.traffic.left_out.error, self.context)

    def _last_wave(self) -> None:
        """Run the late roles, with the state of the fleet. Balancers with changes go one at a time."""
        late = self._late
        if not late:
            return
        touched = {pool.host.name for pool in self.roll.pools.known if pool.touched}
        self._each(lambda host: host.run.read(), [host for host in self._well() if host.name in touched], later=late)
        known = self.fleet()
        balancers = [host for host in self._well() if self._is_changed_balancer(host, known)]
        others = [host for host in self._well() if host not in balancers]
        for batch in batches(others, self.pace):
            self._scheduler.run(self._work(host, self._deploy(host, known)) for host in batch)
        bad = ""
        for host in self._address.standby_first(balancers):
            self._scheduler.run([self._work(host, self._deploy_balancer(host, known, bad))])
            if not isinstance(host.outcome.error, LockedError | Stopped | None):
                bad = bad or host.name

    def _is_changed_balancer(self, host: HostPart, known: FleetState) -> bool:
        if not (host.run.host.balancer or host.run.reader.upstream()):
            return False
        with self._caught(host):
            changes = host.run.plan(self._late, known).changes
            return any(change.role in role_interface.routing() for change in changes)
        return False

    def _deploy_balancer(self, host: HostPart, known: FleetState, bad: str) -> Iterator[Slot]:
        """Leave the balancer alone after a failed balancer: the same change would break this balancer too."""
        if bad:
            self._guard(f"the balancer {bad} failed")
            with self._caught(host):
                raise Stopped(f"left as it is: {self._stopped}", "repair the cause, then deploy again")
            return
        with self._caught(host):
            changes = host.run.plan(self._late, known).changes
            self._address.leave(host, changes)
        if host.is_well:
            yield from self._deploy(host, known)

    def _work(self, host: HostPart, slots: Iterator[Slot]) -> Work:
        self.context.working.add(host.name)
        return Work(slots, partial(self._say, host.name, host.run.hide, "progress", "upstream"))

    def _deploy(self, host: HostPart, known: FleetState | None = None) -> Iterator[Slot]:
        """Do one host's part of a wave. Errors stay with the host."""
        begun = time.monotonic()
        with self._caught(host):
            self._stop_before_it_begins()
            try:
                yield from host.run.deploy(self._early if known is None else self._late, known)
            finally:
                host.outcome.plan = merged(*host.run.plans)
                host.outcome.changed = list(dict.fromkeys(host.run.changed))
            self._leave(host, self._late if known is None else frozenset())
            host.run.say("finished", "", f"{len(host.outcome.changed)} changed")
        self.context.working.discard(host.name)
        host.outcome.seconds += time.monotonic() - begun

    def _read(self, host: HostPart) -> None:
        """Read a host, and plan all roles but the late roles."""
        self._stop_before_it_begins()
        clock_of_this_machine = self.context.setup.clock
        begin = clock_of_this_machine()
        host.run.read()
        host.outcome.clock = clock.warning(host.name, host.run.reader.facts.clock, begin, clock_of_this_machine())
        host.outcome.cards = frozenset(card.uuid for card in host.run.reader.facts.cards)
        self._plan(host, self._early)
        if not self._stay_connected:  # a verification pulls nothing
            host.outcome.plan = host.run.with_room(host.outcome.plan, self._early)
            host.outcome.forced = host.run.forced
        host.planned = host.outcome.plan
        count = len(host.planned.changes)
        host.run.say("planned", "", f"{count} to change" if count else "nothing to change")

    def _plan(self, host: HostPart, roles: frozenset[str], known: FleetState | None = None) -> None:
        host.outcome.plan = merged(host.outcome.plan, host.run.plan(roles, known, host.outcome.plan.changes))

    def _leave(self, host: HostPart, later: frozenset[str]) -> None:
        """Close a connection without further use: a run over 200 hosts has connections open only for hosts at work."""
        if not (host.needs_connection(later) or self._stay_connected):
            host.run.session.close()

    def _each(
        self,
        work: Callable[[HostPart], None],
        hosts: Sequence[HostPart],
        *,
        later: frozenset[str] = frozenset(),
        keep: bool = False,
    ) -> None:
        """Call a function for hosts in a bounded pool; an error stays with its host.

        Args:
            work: the function.
            hosts: the hosts.
            later: roles to come. A host with any of these roles keeps its connection.
            keep: whether a host with further changes keeps its connection too.
        """

        def each(host: HostPart) -> None:
            begun = time.monotonic()
            with self._caught(host):
                work(host)
            if not (host.is_well and keep and host.has_changes):
                self._leave(host, later if host.is_well else frozenset())
            host.outcome.seconds += time.monotonic() - begun

        with ThreadPoolExecutor(self.forks, thread_name_prefix="host") as pool:
            list(pool.map(each, hosts))

    def _refuse_renaming(self) -> None:
        """Fail the hosts that would rename more instances at once than may be out."""
        for host, error in renaming.refused(self._well(), self.roll.budget):
            host.fail(error, self.context)

    def _fail_refused(self) -> None:
        """Fail the hosts with refused instances whose other steps are all done."""
        for host in self._well():
            if host.run.refused:
                unfit = () if self.context.force_fit else host.run.unfit.keys()
                host.fail(diagnostics.refused(host.run.refused, unfit), self.context)

    def _stop_before_it_begins(self) -> None:
        if self.context.stop.is_set():
            raise Stopped(self.guarded or "stopped before it began", "run the command again to go on")

    def _in_order(self) -> list[HostPart]:
        self.context.working.update(host.name for host in self.members)
        waits = role_interface.waiting(self.context.inventory, self.context.roles)
        return in_order(self.members, waits, self.context.working, canary=self.pace.canary)

    def _stop_behind(self, canary: HostPart) -> None:
        locked = isinstance(canary.outcome.error, LockedError)
        self._guard(f"{canary.name}, which went first, {'is locked' if locked else 'failed'}")
        self.guard_exit = LockedError.exit_code if locked else self.guard_exit

    def _guard(self, why: str) -> None:
        """Stop the run: hosts that have not begun are left alone, the rest stop after their current step."""
        self._stopped = self._stopped or why
        self.context.stop.set()

    @contextlib.contextmanager
    def _caught(self, host: HostPart) -> Iterator[None]:
        """Keep a host's error with the host, even an unforeseen exception, so that the other hosts go on."""
        try:
            yield
        except HostError as error:
            host.fail(error, self.context)
        except RefusalError as error:
            host.fail(RefusedError(str(error), NOTHING_CHANGED), self.context)
        except Exception as error:  # noqa: BLE001 - a bug on one host must not leave the others half-way and locked
            host.fail(BugError(error), self.context)
        if len(self.context.failed) > self.pace.max_fail:
            count = len(self.context.failed)
            self._guard(f"{count} host{'s' if count != 1 else ''} failed, and --max-fail allows {self.pace.max_fail}")

    def _say(self, host: str, hide: Mask, kind: str, step: str, text: str) -> None:
        self.context.listen(Event(host, kind, step, hide(text)))

    def _finish(self) -> list[Outcome]:
        self._ending = True

        def give_back(host: HostPart) -> None:
            # The lease expires by itself, and an earlier error is the one to report.
            with contextlib.suppress(Exception):
                host.run.finish(host.outcome.result, host.outcome.error)

        with ThreadPoolExecutor(self.forks) as pool:
            list(pool.map(give_back, self.members))
        self.roll.pools.finish()
        self._address.close()
        self.context.keeper.stop()
        updated = {pool.host.name: pool.step_id for pool in self.roll.pools.known if pool.touched}
        reloads = {pool.host.name: pool.reloads for pool in self.roll.pools.known}
        for host in self.members:
            host.outcome.reloads = reloads.get(host.name, 0)
            host.outcome.down = fleet.down(host, self.roll)
            if self.roll.members.recovered and host.name in updated:
                host.outcome.changed = list(dict.fromkeys([*host.outcome.changed, updated[host.name]]))
            host.outcome.drained = tuple(upstream.drained(host.run.reader.upstream()).values())
            self.context.listen(Event(host.name, "done", text=host.outcome.result))
        return [host.outcome for host in self.members]
