"""`provision rollback`: undo a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, agreed, diff_option, lock_wait_option, run_options, seconds_of

if TYPE_CHECKING:
    from provision.actions import Request, RollbackPlan, RollbackResult


@click.command()
@click.argument("run", metavar="[RUN]", required=False, default="")
@run_options
@click.option("-C", "--check", "--dry-run", is_flag=True, help="Only plan.")
@diff_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@lock_wait_option("a host")
def rollback(request: Request, screen: Screen, run: str, check: bool, diff: bool, yes: bool, lock_wait: str) -> int:
    """Undo the changes of a run; without RUN, of the last run with changes.

    Containers get their image and settings of before, files their bytes, nginx its build and its configuration.
    """
    from provision import actions
    from provision.errors import UsageError
    from provision.report import rollback as report
    from provision.report.plan import Detail

    asks = not yes and not check and screen.asks
    if not (yes or check or asks):
        hint = "say --yes; `provision rollback --check` shows the changes first"
        raise UsageError("rollback asks first, and there is no terminal", hint)
    pace = actions.Pace(lock_wait=seconds_of(lock_wait, "--lock-wait", least=0))
    listen = screen.progress()
    detail = Detail(diff=diff, steps=screen.verbose, quiet=screen.quiet)
    if check:
        planned = actions.plan_rollback(request, run, listen=listen)
        report.show_plan(planned, as_json=screen.as_json, detail=detail)
        return planned.exit_code

    def confirm(planned: RollbackPlan) -> bool:
        report.show_plan(planned, as_json=False, detail=dataclasses.replace(detail, quiet=False))
        return not planned.is_none and agreed(
            screen.caller.confirm, "Put this back?", "not put back: nothing was changed"
        )

    def tell(result: RollbackResult) -> None:
        report.show(result, as_json=screen.as_json, quiet=screen.quiet)

    confirming = confirm if asks else None
    return actions.rollback(request, run, pace, confirm=confirming, listen=listen, tell=tell).exit_code
