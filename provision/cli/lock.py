"""`provision lock`: who has a host, keep others off it, and take a dead lock away."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from provision.cli.hosts import host_options, on_hosts

if TYPE_CHECKING:
    from provision.inventory import Host
    from provision.ssh.session import Session


@click.group()
def lock() -> None:
    """Show, take or give back the locks of hosts. A deploy locks what it changes by itself."""


@lock.command()
@host_options
def status(**options: Any) -> int:
    """Who has which host, since when, and why."""
    from provision.runs import lock as locks

    def work(_: "Host", session: "Session") -> Any:
        return locks.holder_of(session.batch([locks.status()], stop=False)[0])

    return _run("lock status", options, work)


@lock.command()
@host_options
@click.option("-m", "--message", required=True, metavar="WHY", help="Shown to whoever is kept off.")
def acquire(message: str, **options: Any) -> int:
    """Keep everybody off the hosts until the lock is released: no deploy changes them, yours included."""
    from provision.errors import UsageError
    from provision.runs import lock as locks

    if not message.strip() or len(message) > locks.LONGEST_REASON or not message.isprintable():
        raise UsageError(f"-m takes one line of at most {locks.LONGEST_REASON} characters")

    def work(_: "Host", session: "Session") -> Any:
        locks.checked(session.batch([locks.acquire_by_hand(message)], stop=False)[0])
        return locks.holder_of(session.batch([locks.status()], stop=False)[0])

    return _run("lock acquire", options, work)


@lock.command()
@host_options
@click.option("--force", is_flag=True, help="Also the lock of a run that may still be at work.")
def release(force: bool, **options: Any) -> int:
    """Take away locks by hand, and those of runs that are dead: gone from this machine, or silent for long."""
    from provision.runs.lease import take_away
    from provision.runs.log import is_over

    return _run("lock release", options, lambda _, session: take_away(session, is_over, force=force))


def _run(command: str, options: dict[str, Any], work: "Callable[[Host, Session], Any]") -> int:
    from provision.cli.deploy import answered

    return answered(command, options["as_json"], lambda: _on_all(command, options, work))


def _on_all(command: str, options: dict[str, Any], work: "Callable[[Host, Session], Any]") -> int:
    from provision.report import console, lock
    from provision.runs.log import Logs, default_folder

    inventory, found, code = on_hosts(options, work)
    over = Logs(default_folder()).over
    if options["as_json"]:
        console.document(command, code, inventory.warnings, **lock.locks_document(found, over))
    else:
        lock.locks_text(found, over, released=command == "lock release")
    return code
