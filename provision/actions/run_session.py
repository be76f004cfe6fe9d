"""One run of a command from its beginning to its end: id, log on this machine, hooks, Ctrl-C and exit code.

Deploys, rollbacks, drains and their ends all run in a `RunSession`; a plan uses the part of it that changes nothing.
"""

import contextlib
import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from provision.actions import exit_code
from provision.actions.exit_code import HostOutcome
from provision.actions.pace import Pace
from provision.actions.request import Request
from provision.actions.results import Plan, RunResult
from provision.artifacts import store
from provision.events import Event, Listener
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.plan.planner import HostPlan
from provision.rollout.outcome import selection
from provision.rollout.waves import Rollout
from provision.runs import log as runs
from provision.runs.context import Context
from provision.runs.hooks import Hooks
from provision.runs.interrupt import at_ctrl_c
from provision.runs.journal import Kind
from provision.runs.log import Log, Logs

O = TypeVar("O", bound=HostOutcome)  # noqa: E741 - what became of a host
R = TypeVar("R", bound=RunResult[Any])


class Work(exit_code.Ended, Protocol):
    """What is at work on hosts, and can be stopped."""

    def interrupt(self, *, now: bool) -> None:
        """Stop after the present step, or at once."""

    def under_way(self) -> list[str]:
        """Names of the hosts that may hold this run's lock."""
        ...

    def close(self) -> None:
        """Close every connection."""


class RunSession:
    """One run of a command.

    Args:
        request: what it is about.
        pace: how carefully it goes.
        kind: what the run does.
        inventory: all hosts.
        roles: names of the roles that are looked at.
        listen: hears what happens.
        words: what the run was told: of a drain the instances, of a rollback the run.
        run_id: of a run that goes on; empty for a new one.
        confirmed: host -> the plan that an operator has seen and agreed to; empty where nobody was asked.
    """

    def __init__(
        self,
        request: Request,
        pace: Pace,
        kind: Kind,
        inventory: Inventory,
        roles: frozenset[str],
        listen: Listener,
        *,
        words: Sequence[str] = (),
        run_id: str = "",
        confirmed: Mapping[str, HostPlan] | None = None,
    ) -> None:
        self.request = request
        self.pace = pace
        self.context = Context(
            run_id or new_run_id(),
            inventory,
            roles,
            listen,
            store.Store(store.default_folder()),
            lock_wait=pace.lock_wait,
            kind=kind,
            words=words,
            confirmed=confirmed or {},
        )

    def look(self, work: Work, do: Callable[[], Sequence[O]], hosts: Sequence[str]) -> Sequence[O]:
        """Do what changes nothing, and close its connections.

        Args:
            work: what Ctrl-C stops.
            do: does it, and returns what became of every host.
            hosts: names of the hosts that it is done on.
        """
        with at_ctrl_c(work.interrupt, work.under_way):
            try:
                return self._done(do, hosts)
            finally:
                work.close()

    def run(
        self,
        work: Work,
        do: Callable[[], Sequence[O]],
        hosts: Sequence[str],
        result: Callable[[Sequence[O], int], R],
        tell: Callable[[R], None],
        **about: Any,
    ) -> R:
        """Do what changes hosts: hooks run around it, and this machine keeps a log of it.

        Args:
            work: what Ctrl-C stops.
            do: does it, and returns what became of every host.
            hosts: names of the hosts that it is done on.
            result: makes the result from what became of every host and the exit code.
            tell: is given the result before the hooks that follow the run; Ctrl-C does not break it off.
            about: what else the hook before the run is told.

        Raises:
            GuardError: the hook before the run failed; nothing was done.
            UsageError: a hook must not be run; nothing was done.
        """
        run_id, inventory = self.context.run_id, self.request.inventory
        hooks = Hooks(inventory, run_id, self.context.kind)
        log = Logged(run_id, self.context.command, self.request, self.pace)
        finished: R | None = None
        try:
            hooks.check()
            hooks.before({"inventory": inventory, "hosts": list(hosts), **about})
            with at_ctrl_c(work.interrupt, work.under_way):
                self._warn("log", log.begin())
                outcomes = self._done(do, hosts)
                finished = result(outcomes, exit_code.of_run(work, outcomes))
                log.end(finished.exit_code, outcomes)
                tell(finished)
            return finished
        finally:
            work.close()
            if finished is not None:
                document = {"inventory": inventory, "exit": finished.exit_code, **finished.document()}
                self._warn("hooks", hooks.after(document, failed=bool(finished.exit_code)))

    def result(self, kind: type[R], outcomes: Sequence[HostOutcome], code: int, **more: Any) -> R:
        """The result of this run.

        Args:
            kind: the result's class.
            outcomes: of every host.
            code: the exit code.
            more: what only this kind of result has.
        """
        about = (self.context.run_id, self.context.command, self.request, self.pace, self.context.inventory)
        return kind(*about, outcomes, code, **more)

    def _done(self, do: Callable[[], Sequence[O]], hosts: Sequence[str]) -> Sequence[O]:
        """Do it, with the listener told on which hosts, and when it is over."""
        for host in hosts:
            self.context.listen(Event(host, "selected"))
        try:
            return do()
        finally:
            self.context.listen(Event("", "over"))

    def _warn(self, source: str, text: str) -> None:
        if text:
            self.context.listen(Event("", "warning", source, text))


def session_over_hosts(
    request: Request,
    pace: Pace,
    listen: Listener,
    *,
    run_id: str = "",
    confirmed: Plan | None = None,
) -> tuple[RunSession, Rollout]:
    """A run over the hosts that a request chooses; it has not begun.

    Args:
        request: what it is about.
        pace: how carefully it goes.
        listen: hears what happens.
        words: what the run was told: of a drain the instances, of a rollback the run.
        run_id: of a run that goes on; empty for a new one.
        confirmed: the plan that an operator has seen and agreed to: its inventory is used, and not read again.
    """
    inventory = confirmed.inventory if confirmed else role_interface.load(request.inventory, request.overrides)
    roles = role_interface.choose(request.tags, request.skip_tags)
    hosts = selection(inventory, inventory.select(request.limit), roles)
    plans = confirmed.by_host if confirmed else {}
    session = RunSession(request, pace, "deploy", inventory, roles, listen, run_id=run_id, confirmed=plans)
    if not confirmed:
        warn_of(inventory, listen)
    counted = pace.counted(len(hosts))
    return session, Rollout(session.context, hosts, request.become_password, request.forks, counted)


def hosts_of(rollout: Rollout) -> list[str]:
    """Names of the hosts that a rollout works on."""
    return [member.run.host.name for member in rollout.members]


def warn_of(inventory: Inventory, listen: Listener) -> None:
    """Tell a listener what the inventory warns of."""
    for warning in inventory.warnings:
        listen(Event("", "warning", "inventory", warning))


class Logged:
    """Keeps the log of one run on this machine.

    Args:
        run: its id.
        command: what was called.
        request: what it is about.
        pace: how carefully it goes.
    """

    def __init__(self, run: str, command: str, request: Request, pace: Pace) -> None:
        self._logs = Logs(runs.default_folder())
        self._log = Log(
            run=run,
            command=command,
            inventory=str(Path(request.inventory).resolve()),
            limit=request.limit,
            tags=request.tags,
            skip_tags=request.skip_tags,
            extra_vars=len(request.extra_vars),
            serial=pace.serial,
            canary=pace.canary,
            max_fail=pace.max_fail,
        )

    def begin(self) -> str:
        """Write that the run begins. A log that cannot be kept is no reason not to begin.

        Returns:
            a warning if it cannot be kept, else nothing.
        """
        try:
            self._logs.write(self._log)
        except OSError as error:
            return f"this run's log cannot be kept: if it dies, its locks are waited for ({error})"
        return ""

    def end(self, code: int, outcomes: Sequence[HostOutcome]) -> None:
        """Write what came of the run.

        Args:
            code: the exit code.
            outcomes: of every host.
        """
        hosts = {outcome.host: outcome.result for outcome in outcomes}
        with contextlib.suppress(OSError):
            self._logs.write(dataclasses.replace(self._log, exit=code, hosts=hosts))


def new_run_id() -> str:
    """A run's id: ids sort by time, and two runs of the same second have different ones."""
    now = dt.datetime.now(dt.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
