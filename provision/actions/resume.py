"""The log of a run on this machine, and going on with one that did not come to its end."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provision.cli.deploy import Careful, Chosen
    from provision.runs.log import Log


class Logged:
    """Keeps the log of one run of this machine.

    Args:
        run: its id.
        command: what was called.
        chosen: what it was told.
        careful: how carefully it goes.
    """

    def __init__(self, run: str, command: str, chosen: "Chosen", careful: "Careful") -> None:
        from provision.runs.log import Log, Logs, default_folder

        self._logs = Logs(default_folder())
        self._log = Log(
            run=run,
            command=command,
            inventory=str(Path(chosen.inventory).resolve()),
            limit=chosen.limit,
            tags=chosen.tags,
            skip_tags=chosen.skip_tags,
            extra_vars=len(chosen.extra_vars),
            serial=careful.serial,
            canary=careful.canary,
            max_fail=careful.max_fail,
        )

    def begin(self) -> None:
        """Write that it begins. That this cannot be written is said, and is no reason not to begin."""
        from provision.report import console

        try:
            self._logs.write(self._log)
        except OSError as error:
            console.warn(f"this run's log cannot be kept: if it dies, its locks are waited for ({error})")

    def end(self, code: int, outcomes: Sequence[Any]) -> None:
        """Write what came of it.

        Args:
            code: the exit code.
            outcomes: of every host.
        """
        hosts = {outcome.host: outcome.result for outcome in outcomes}
        with contextlib.suppress(OSError):
            self._logs.write(dataclasses.replace(self._log, exit=code, hosts=hosts))


def resumed(chosen: "Chosen", careful: "Careful", run: str) -> "tuple[Chosen, Careful]":
    """What a run was told that is to go on: out of this machine's log, else what is said now.

    Args:
        chosen: what the command line says.
        careful: what it says of how carefully to go; that run's counts where it says nothing.
        run: id of the run.

    Raises:
        UsageError: it cannot go on.
    """
    from provision.cli.history import run_id_of
    from provision.errors import UsageError
    from provision.runs.log import Logs, default_folder

    log = Logs(default_folder()).find(run_id_of(run))
    if log is None:
        _known_to_hosts(chosen, run)
        return chosen, careful
    if log.command != "deploy":
        raise UsageError(f"run {run} is no deploy but a {log.command}", "call that again: it goes on where it is")
    if log.exit == 0:
        raise UsageError(f"run {run} came to its end: there is nothing to resume")
    if log.exit is None and not log.is_dead:
        raise UsageError(f"run {run} is still at work, as process {log.pid} on {log.machine}")
    if chosen.limit or chosen.tags or chosen.skip_tags:
        raise UsageError("--resume goes on with the hosts and roles of that run: leave out --limit and --tags")
    if log.extra_vars and not chosen.extra_vars:
        raise UsageError(
            f"run {run} had settings by -e, which are not kept, because they may be secret: say them again"
        )
    return _as_told(chosen, log), _as_careful(careful, log)


def _as_told(chosen: "Chosen", log: "Log") -> "Chosen":
    return dataclasses.replace(chosen, inventory=log.inventory, limit=log.limit, tags=log.tags, skip_tags=log.skip_tags)


def _as_careful(careful: "Careful", log: "Log") -> "Careful":
    return dataclasses.replace(
        careful,
        serial=careful.serial or log.serial,
        canary=careful.canary or log.canary,
        max_fail=careful.max_fail or log.max_fail,
    )


def _known_to_hosts(chosen: "Chosen", run: str) -> None:
    """Make sure that at least one of the chosen hosts knows a run of which this machine has no log.

    Raises:
        UsageError: none does, or it is no deploy.
    """
    from provision.errors import HostError, LockedError, UsageError
    from provision.plan import role_order
    from provision.runs import history, lock
    from provision.ssh.fanout import each

    def work(_: Any, session: Any) -> Any:
        told, status = session.batch([history.read(run), lock.status()], stop=False)
        holder = lock.holder_of(status)
        if holder is not None and holder.run == run and (holder.left or 0) > 0:
            hint = "wait until its lease has ended; if it is dead for sure: provision lock release --force"
            raise LockedError(f"run {run} may still be at work: locked by {holder}", hint)
        return history.story(run, told)

    inventory = role_order.load(chosen.inventory, chosen.extra_vars)
    found = each(inventory.select(chosen.limit), work, chosen.become_password, chosen.forks)
    for _, one in found:
        if isinstance(one, LockedError):
            raise one
    commands = {one.entry.command for _, one in found if one is not None and not isinstance(one, HostError)}
    if not commands:
        raise UsageError(f"neither this machine nor these hosts know a run {run}", "`provision history` lists them")
    if commands - {"deploy", ""}:
        raise UsageError(f"run {run} is no deploy", "call that again: it goes on where it is")
