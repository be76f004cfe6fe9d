"""`provision doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, host_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@host_options
@click.option("-v", "--verbose", count=True, help="Also list the checks that passed; -vv also the SSH connections.")
def doctor(request: Request, screen: Screen) -> int:
    """Examine hosts before anything is changed: each check with its evidence, and the command that mends the host.

    Reads everything of a host by one command. Takes no lock and changes nothing, also on a host that serves. A host
    that cannot be reached is a failed check, and the other hosts are examined. The exit code is 5 if a check fails.
    """
    from provision import actions
    from provision.report import doctor as report

    result = actions.doctor(request)
    report.show(result, as_json=screen.as_json, verbose=screen.verbose)
    return result.exit_code
