"""`provision lock`: who has a host, keep others off it, and take a dead lock away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, host_options

if TYPE_CHECKING:
    from provision.actions import Request
    from provision.actions.lock import Locks


@click.group()
def lock() -> None:
    """Show, take or give back the locks of hosts. A deploy locks what it changes by itself."""


@lock.command()
@host_options
def status(request: Request, screen: Screen) -> int:
    """Who has which host, since when, and why."""
    from provision import actions

    return _tell("lock status", actions.lock.status(request), screen)


@lock.command()
@host_options
@click.option("-m", "--message", required=True, metavar="WHY", help="Shown to whoever is kept off.")
def acquire(request: Request, screen: Screen, message: str) -> int:
    """Keep everybody off the hosts until the lock is released: no deploy changes them, yours included."""
    from provision import actions

    return _tell("lock acquire", actions.lock.acquire(request, message), screen)


@lock.command()
@host_options
@click.option("--force", is_flag=True, help="Also the lock of a run that may still be at work.")
def release(request: Request, screen: Screen, force: bool) -> int:
    """Take away locks by hand, and those of runs that are dead: gone from this machine, or silent for long."""
    from provision import actions

    return _tell("lock release", actions.lock.release(request, force=force), screen)


def _tell(command: str, locks: Locks, screen: Screen) -> int:
    from provision.report import lock

    lock.show(command, locks, as_json=screen.as_json)
    return locks.exit_code
