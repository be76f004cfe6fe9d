"""`provision plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, common_options

if TYPE_CHECKING:
    from provision.actions import Plan, Request


@click.command()
@common_options
@click.option("-D/ ", "--diff/--no-diff", default=True, show_default=True, help="Show what would change in files.")
@click.option("--exit-code", is_flag=True, help="Exit 5 when something would change.")
def plan(request: Request, screen: Screen, diff: bool, exit_code: bool) -> int:
    """Say what a deploy would change on every host, why, and what it would cost. Changes nothing."""
    from provision import actions

    found = actions.plan(request, listen=screen.progress())
    code = found.drift_exit_code if exit_code else found.exit_code
    show(found, screen, code, diff=diff)
    return code


def show(found: Plan, screen: Screen, code: int, *, diff: bool) -> None:
    """Print a plan.

    Args:
        found: the plan.
        screen: how.
        code: the exit code of the command.
        diff: whether to show what would change in files.
    """
    from provision.report import console, plan

    if screen.as_json:
        console.document("plan", code, found.warnings, **plan.document(found.outcomes))
        return
    for remark in found.remarks:
        console.warn(remark)
    plan.text(found.outcomes, diff=diff)
