"""`provision verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, listing_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@listing_options
@click.option("--junit", metavar="FILE", default="", help="Also write JUnit XML.")
def verify(request: Request, screen: Screen, junit: str) -> int:
    """Read every host as plan does, then prove every step by testinfra. Changes nothing.

    Whatever a deploy would change is a failed check. -v also lists the steps that passed.
    """
    from provision import actions
    from provision.report import verify as report

    result = actions.verify(request, junit=junit, listen=screen.progress())
    report.show(request, result, as_json=screen.as_json, verbose=screen.verbose, quiet=screen.quiet)
    return result.exit_code
