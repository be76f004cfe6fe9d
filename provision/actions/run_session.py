"""One run of a command from begin to end: id, log on this machine, hooks, Ctrl-C and exit code.

Deploy, rollback, drain, undrain and switch run in a `RunSession`. A plan uses only `RunSession.look`, which changes
nothing.
"""

import contextlib
import dataclasses
import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from provision.actions import exit_code
from provision.actions.asking import setup_of
from provision.actions.exit_code import HostOutcome
from provision.actions.pace import Pace
from provision.actions.request import FORCE_FIT, Request
from provision.actions.results import Plan, RunResult
from provision.artifacts import store
from provision.events import Event, Listener
from provision.inventory import Inventory
from provision.plan import role_choice, role_interface
from provision.plan.planner import HostPlan
from provision.rollout.outcome import selection
from provision.rollout.waves import Rollout
from provision.runs import log as runs
from provision.runs.context import Context
from provision.runs.hooks import Hooks
from provision.runs.interrupt import at_ctrl_c
from provision.runs.journal import Kind
from provision.runs.log import Log, Logs

O = TypeVar("O", bound=HostOutcome)  # noqa: E741 - the outcome of a host
R = TypeVar("R", bound=RunResult[Any])


class Work(exit_code.Ended, Protocol):
    """Work on hosts that can be stopped."""

    def interrupt(self, *, now: bool) -> None:
        """Stop after the present step, or now."""

    def under_way(self) -> list[str]:
        """Return the names of the hosts that may hold this run's lock."""
        ...

    def close(self) -> None:
        """Close every connection."""


class RunSession:
    """One run of a command.

    Args:
        request: the hosts and roles.
        pace: how carefully the run goes.
        kind: the kind of run.
        inventory: all hosts.
        roles: names of the roles to run.
        listen: hears the progress.
        words: arguments of the command: the instances of a drain, the run of a rollback.
        run_id: the id of a resumed run; empty for a new run.
        confirmed: host -> the plan that an operator agreed to; empty if nobody was asked.
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
            force_fit=request.force_fit,
            confirmed=confirmed or {},
            setup=setup_of(request),
        )

    def look(self, work: Work, do: Callable[[], Sequence[O]], hosts: Sequence[str]) -> Sequence[O]:
        """Do work that changes nothing, and close the connections.

        Args:
            work: stopped by Ctrl-C.
            do: does the work, and returns the outcome of every host.
            hosts: names of the hosts.
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
        """Do work that changes hosts, with hooks before and after, and with a log on this machine.

        Args:
            work: stopped by Ctrl-C.
            do: does the work, and returns the outcome of every host.
            hosts: names of the hosts.
            result: makes the result from the outcomes and the exit code.
            tell: gets the result before the hooks that follow the run; Ctrl-C does not interrupt the call.
            about: more values for the hook before the run.

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
                code = exit_code.of_run(work, outcomes)
                guarded = work.guarded if code == work.guard_exit else ""
                finished = dataclasses.replace(result(outcomes, code), guarded=guarded)
                log.end(finished.exit_code, outcomes)
                tell(finished)
            return finished
        finally:
            work.close()
            if finished is not None:
                document = {"inventory": inventory, "exit": finished.exit_code, **finished.document()}
                self._warn("hooks", hooks.after(document, failed=bool(finished.exit_code)))

    def result(self, kind: type[R], outcomes: Sequence[HostOutcome], code: int, **more: Any) -> R:
        """Make the result of this run.

        Args:
            kind: the class of the result.
            outcomes: of every host.
            code: the exit code.
            more: further arguments of the class.
        """
        about = (self.context.run_id, self.context.command, self.request, self.pace, self.context.inventory)
        return kind(*about, outcomes, code, **more)

    def _done(self, do: Callable[[], Sequence[O]], hosts: Sequence[str]) -> Sequence[O]:
        """Do the work; tell the listener the hosts before, and the end after."""
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
    renew_within: int = 0,
) -> tuple[RunSession, Rollout]:
    """Prepare a run over the hosts that a request selects.

    Args:
        request: selects hosts and roles.
        pace: how carefully the run goes.
        listen: hears the progress.
        run_id: the id of a resumed run; empty for a new run.
        confirmed: the plan that an operator agreed to: its inventory is used, and not read again.
        renew_within: see `role_interface.load`.
    """
    inventory = confirmed.inventory if confirmed else _loaded(request, renew_within)
    roles = role_choice.choose(request.tags, request.skip_tags)
    hosts = selection(inventory, inventory.select(request.limit), roles)
    plans = confirmed.by_host if confirmed else {}
    words = (FORCE_FIT,) if request.force_fit else ()
    session = RunSession(request, pace, "deploy", inventory, roles, listen, words=words, run_id=run_id, confirmed=plans)
    if not confirmed:
        warn_of(inventory, listen)
    counted = pace.counted(len(hosts))
    return session, Rollout(session.context, hosts, request.become_password, request.forks, counted)


def _loaded(request: Request, renew_within: int) -> Inventory:
    return role_interface.load(request.inventory, request.overrides, renew_within=renew_within)


def hosts_of(rollout: Rollout) -> list[str]:
    """Return the names of the hosts of a rollout."""
    return [member.run.host.name for member in rollout.members]


def warn_of(inventory: Inventory, listen: Listener) -> None:
    """Tell a listener the warnings of the inventory."""
    for warning in inventory.warnings:
        listen(Event("", "warning", "inventory", warning))


class Logged:
    """Keeps the log of one run on this machine.

    Args:
        run: the id of the run.
        command: the command.
        request: the hosts and roles.
        pace: how carefully the run goes.
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
        """Log the begin of the run. A log that cannot be written does not stop the run.

        Returns:
            a warning if the log cannot be written, else an empty text.
        """
        try:
            self._logs.write(self._log)
        except OSError as error:
            return f"this run's log cannot be kept: if it dies, its locks are waited for ({error})"
        return ""

    def end(self, code: int, outcomes: Sequence[HostOutcome]) -> None:
        """Log the result of the run.

        Args:
            code: the exit code.
            outcomes: of every host.
        """
        hosts = {outcome.host: outcome.result for outcome in outcomes}
        with contextlib.suppress(OSError):
            self._logs.write(dataclasses.replace(self._log, exit=code, hosts=hosts))


def new_run_id() -> str:
    """Make the id of a new run. Ids sort by time, and two runs of the same second have different ids."""
    now = dt.datetime.now(dt.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
