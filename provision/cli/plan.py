"""`provision plan`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, diff_option, exit_code_option, force_fit_option, listing_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@listing_options
@diff_option
@exit_code_option
@force_fit_option
def plan(request: Request, screen: Screen, diff: bool, exit_code: bool, force_fit: bool) -> int:
    """Show every change of a deploy on every host, with reason and cost. Changes nothing."""
    from provision import actions
    from provision.report import plan as report

    request = dataclasses.replace(request, force_fit=force_fit)
    planned = actions.plan(request, listen=screen.progress())
    code = planned.drift_exit_code if exit_code else planned.exit_code
    detail = report.Detail(diff=diff, steps=screen.verbose, quiet=screen.quiet)
    report.show(planned, code, as_json=screen.as_json, detail=detail)
    return code
