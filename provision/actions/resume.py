"""Go on with a run that did not come to its end."""

import dataclasses

from provision.actions.asking import on_each, setup_of
from provision.actions.pace import Pace
from provision.actions.request import FORCE_FIT, Request, run_id_of
from provision.errors import HostError, LockedError, UsageError
from provision.inventory import Host
from provision.plan import role_interface
from provision.runs import history
from provision.runs.history import Story
from provision.runs.journal import kind_of
from provision.runs.log import Log, Logs, default_folder
from provision.ssh.transport import Transport


def resumed(request: Request, pace: Pace, run: str) -> tuple[Request, Pace]:
    """Return the request and pace of a resumed run, from this machine's log; without a log, as requested now.

    Args:
        request: the request of the new call.
        pace: how carefully to go. Empty parts are as in the resumed run.
        run: id of the run.

    Raises:
        UsageError: the run cannot go on.
        LockedError: the run may still be at work.
    """
    log = Logs(default_folder()).find(run_id_of(run))
    if log is None:
        _known_to_hosts(request, run)
        return request, pace
    if kind_of(log.command) != "deploy":
        raise UsageError(
            f"run {run} is no deploy but a {log.command}",
            "repeat that command to go on where the run ended",
        )
    if log.exit == 0:
        raise UsageError(f"run {run} came to its end: there is nothing to resume")
    if log.exit is None and not log.is_dead:
        raise UsageError(f"run {run} is still at work, as process {log.pid} on {log.machine}")
    if request.limit or request.tags or request.skip_tags:
        raise UsageError("--resume goes on with the hosts and roles of that run: leave out --limit and --tags")
    if log.extra_vars and not request.extra_vars:
        raise UsageError(
            f"run {run} had settings by -e, which are not kept, because values may be secret: give -e again"
        )
    return _request_of(request, log), _pace_of(pace, log)


def _request_of(request: Request, log: Log) -> Request:
    return dataclasses.replace(
        request,
        inventory=log.inventory,
        limit=log.limit,
        tags=log.tags,
        skip_tags=log.skip_tags,
        force_fit=request.force_fit or FORCE_FIT in log.command.split(),
    )


def _pace_of(pace: Pace, log: Log) -> Pace:
    return dataclasses.replace(
        pace,
        serial=pace.serial or log.serial,
        canary=pace.canary or log.canary,
        max_fail=pace.max_fail or log.max_fail,
    )


def _known_to_hosts(request: Request, run: str) -> None:
    """Make sure that a selected host knows a run without a log on this machine.

    Raises:
        UsageError: no host knows the run, or the run is no deploy.
        LockedError: the run still holds a host's lock.
    """

    setup = setup_of(request)
    lock = setup.host_lock

    def work(_: Host, session: Transport) -> Story | None:
        journal, status = session.batch([history.read(run, setup.paths), lock.status()], stop=False)
        holder = lock.holder_of(status)
        if holder is not None and holder.run == run and (holder.left or 0) > 0:
            hint = "wait until the lease has ended; if the run is certainly dead: provision lock release --force"
            raise LockedError(f"run {run} may still be at work: locked by {holder}", hint)
        return history.story(run, journal)

    inventory = role_interface.load(request.inventory, request.overrides)
    answers = on_each(request, inventory.select(request.limit), work)
    for _, answer in answers:
        if isinstance(answer, LockedError):
            raise answer
    stories = [answer for _, answer in answers if answer is not None and not isinstance(answer, HostError)]
    commands = {kind_of(story.entry.command) for story in stories}
    if not commands:
        raise UsageError(f"neither this machine nor these hosts know a run {run}", "`provision history` lists the runs")
    if commands - {"deploy", ""}:
        raise UsageError(f"run {run} is no deploy", "repeat that command to go on where the run ended")
