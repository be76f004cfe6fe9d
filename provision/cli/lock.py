"""`provision lock`: the holder of a host, a lock by hand, and the end of a dead lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Group, Screen, host_options

if TYPE_CHECKING:
    from provision.actions import Request
    from provision.actions.lock import Locks


@click.group(cls=Group)
def lock() -> None:
    """Show the locks of hosts, lock hosts, or remove locks. A deploy locks the hosts that it changes by itself."""


@lock.command()
@host_options
def status(request: Request, screen: Screen) -> int:
    """List the holder of each host, since when, and the reason."""
    from provision import actions

    return _tell("lock status", actions.lock.status(request), screen)


@lock.command(short_help="Lock hosts against every deploy, until `lock release`.")
@host_options
@click.option("-m", "--message", required=True, metavar="WHY", help="The reason; refused deploys show the text.")
def acquire(request: Request, screen: Screen, message: str) -> int:
    """Lock the hosts until `lock release`: no deploy changes a locked host, not even your own."""
    from provision import actions

    return _tell("lock acquire", actions.lock.acquire(request, message), screen)


@lock.command(short_help="Remove locks by hand, and the locks of dead runs.")
@host_options
@click.option("--force", is_flag=True, help="Also the lock of a run that may still be at work.")
def release(request: Request, screen: Screen, force: bool) -> int:
    """Remove locks by hand, and the locks of dead runs: gone from this machine, or silent for long."""
    from provision import actions

    return _tell("lock release", actions.lock.release(request, force=force), screen)


def _tell(command: str, locks: Locks, screen: Screen) -> int:
    from provision.report import lock

    lock.show(command, locks, as_json=screen.as_json)
    return locks.exit_code
