"""`provision rollback`: put back what a run changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, common_options, seconds_of

if TYPE_CHECKING:
    from provision.actions import Request, RollbackPlan, RollbackResult


@click.command()
@click.argument("run", metavar="[RUN]", required=False, default="")
@common_options
@click.option("-C", "--check", "--dry-run", is_flag=True, help="Only plan.")
@click.option("-D/ ", "--diff/--no-diff", default=True, show_default=True, help="Show what would change in files.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--lock-wait", default="0", metavar="DURATION", help="Wait so long for a host that somebody else has.")
def rollback(request: Request, screen: Screen, run: str, check: bool, diff: bool, yes: bool, lock_wait: str) -> int:
    """Put back what a run changed: the last one that changed something, unless another is named.

    Containers get their image and settings of before, files their bytes, nginx its build and its configuration.
    """
    from provision import actions
    from provision.errors import UsageError

    asks = not yes and not check and screen.asks
    if not (yes or check or asks):
        raise UsageError("without a terminal rollback does not ask", "say --yes, or look at it with --check first")
    pace = actions.Pace(lock_wait=seconds_of(lock_wait, "--lock-wait", least=0))
    listen = screen.progress()
    if check:
        found = actions.plan_rollback(request, run, listen=listen)
        _show(found, screen, diff=diff)
        return found.exit_code

    def confirm(found: RollbackPlan) -> bool:
        _show(found, screen, diff=diff)
        return not found.is_none and click.confirm("Put this back?", abort=True)

    result = actions.rollback(
        request,
        run,
        pace,
        confirm=confirm if asks else None,
        listen=listen,
        tell=lambda result: _tell(result, screen),
    )
    return result.exit_code


def _show(found: RollbackPlan, screen: Screen, *, diff: bool) -> None:
    from provision.report import console
    from provision.report import rollback as report

    if screen.as_json:
        console.document("rollback", found.exit_code, found.inventory.warnings, **report.plan_document(found))
    else:
        report.plan_text(found, diff=diff)


def _tell(result: RollbackResult, screen: Screen) -> None:
    from provision.report import console
    from provision.report import rollback as report

    if screen.as_json:
        console.document("rollback", result.exit_code, result.inventory.warnings, **result.document())
    else:
        report.text(result)
