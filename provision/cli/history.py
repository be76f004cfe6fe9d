"""`provision history` and `provision show`: what runs did, as the hosts themselves remember it."""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import click

from provision.cli.hosts import host_options, on_hosts

if TYPE_CHECKING:
    from provision.inventory import Host
    from provision.runs.history import Entry
    from provision.ssh.session import Session

RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{4}"


def run_id_of(text: str) -> str:
    """A run's id, as somebody typed it.

    Raises:
        UsageError: it is none.
    """
    from provision.errors import UsageError

    if not re.fullmatch(RUN_ID, text):
        raise UsageError(f"{text[:60]!r} is no run", "`provision history` lists them")
    return text


@click.command()
@host_options
@click.option("-n", "--number", default=20, show_default=True, type=click.IntRange(1, 1000), help="So many runs.")
def history(number: int, **options: Any) -> int:
    """The runs that changed these hosts, the newest first: who, when, and what came of it."""
    from provision.cli.deploy import answered

    return answered("history", options["as_json"], lambda: _history(number, options))


def _history(number: int, options: dict[str, Any]) -> int:
    from provision.inventory import Mask
    from provision.report import console
    from provision.report import history as report
    from provision.runs import history, lock
    from provision.runs.log import Logs, default_folder

    logs = Logs(default_folder())

    def work(host: "Host", session: "Session") -> "list[Entry]":
        listed, status = session.batch([history.listed(number), lock.status()], stop=False)
        holder = lock.holder_of(status)
        if holder is not None and holder.who == lock.who() and logs.over(holder.run):
            holder = None
        return [_shown(entry, holder, Mask(host.secrets())) for entry in history.entries(listed)]

    inventory, found, code = on_hosts(options, work)
    died = logs.unfinished(options["inventory"])
    if options["as_json"]:
        document = {**report.history_document(found, number), "unfinished": report.unfinished(died)}
        console.document("history", code, inventory.warnings, **document)
    else:
        report.history_text(found, number)
        report.died(died)
    return code


def _shown(entry: "Entry", holder: Any, hide: Any) -> "Entry":
    """A run that has not ended and still has the lock may be at work, unless it is known to be over. Nothing secret is
    shown."""
    running = entry.result == "unfinished" and holder is not None and holder.run == entry.run and not holder.is_over
    return dataclasses.replace(entry, why=hide(entry.why), result="running" if running else entry.result)


@click.command()
@click.argument("run", metavar="RUN")
@host_options
def show(run: str, **options: Any) -> int:
    """What a run did: on each host its steps, why, what they changed, and what came of it."""
    from provision.cli.deploy import answered

    return answered("show", options["as_json"], lambda: _show(run_id_of(run), options))


def _show(run: str, options: dict[str, Any]) -> int:
    from provision.errors import UsageError
    from provision.inventory import Mask
    from provision.report import console
    from provision.report import history as report
    from provision.runs import history
    from provision.runs.log import Logs, default_folder

    def work(host: "Host", session: "Session") -> Any:
        [answer] = session.batch([history.read(run)], stop=False)
        return history.hidden(history.story(run, answer), Mask(host.secrets()))

    inventory, found, code = on_hosts(options, work)
    if not code and not any(one for _, one in found):
        raise UsageError(f"none of these hosts knows a run {run}", "`provision history` lists them")
    if options["as_json"]:
        console.document("show", code, inventory.warnings, **report.story_document(run, found))
    else:
        report.story_text(run, found)
        log = Logs(default_folder()).find(run)
        report.died(log if log is not None and log.is_dead else None)
    return code
