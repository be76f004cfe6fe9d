"""`provision plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, common_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@common_options
@click.option("-D/ ", "--diff/--no-diff", default=True, show_default=True, help="Show what would change in files.")
@click.option("--exit-code", is_flag=True, help="Exit 5 when something would change.")
def plan(request: Request, screen: Screen, diff: bool, exit_code: bool) -> int:
    """Say what a deploy would change on every host, why, and what it would cost. Changes nothing."""
    from provision import actions
    from provision.report import plan as report

    planned = actions.plan(request, listen=screen.progress())
    code = planned.drift_exit_code if exit_code else planned.exit_code
    report.show(planned, code, as_json=screen.as_json, diff=diff)
    return code
