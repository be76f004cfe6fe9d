"""Prints a rollback: the restored changes, the changes left, and each host's result."""

from collections.abc import Mapping

from provision.actions import RollbackPlan, RollbackResult, documents
from provision.report import console, next_command, plan, recap
from provision.report.console import say
from provision.report.plan import Detail
from provision.runs.rollback_plan import Undo
from provision.terminal_text import line


def show_plan(planned: RollbackPlan, *, as_json: bool, detail: Detail) -> None:
    """Print the steps to restore and the steps to leave on every host, or the JSON document.

    Args:
        planned: the plan of the rollback.
        as_json: whether the document is wanted.
        detail: how much to print.
    """
    if as_json:
        body = {"of": planned.of, "left": documents.left(planned.undos), **plan.document(planned.outcomes)}
        console.document("rollback", planned.exit_code, planned.inventory.warnings, **body)
        return
    if not detail.quiet:
        say(f"Putting back what run {planned.of} did:")
    plan.text(planned.outcomes, planned.inventory, detail)
    if not detail.quiet:
        _left(planned.undos)


def show(result: RollbackResult, *, as_json: bool, quiet: bool = False) -> None:
    """Print the steps left, every host with its result, and a reminder about the inventory; or the JSON document.

    Args:
        result: of the rollback.
        as_json: whether the document is wanted.
        quiet: whether to print failures and the last lines alone.
    """
    if as_json:
        console.document("rollback", result.exit_code, result.warnings, **result.document())
        return
    if not quiet:
        _left(result.undos)
    commands = next_command.after_rollback(result)
    recap.text(result, commands, quiet=quiet)
    if not quiet and any(outcome.changed for outcome in result.outcomes):
        say(f"The next deploy does what the inventory and -e say: mend whatever had run {result.of} do this.")


def _left(undos: Mapping[str, Undo]) -> None:
    steps = documents.left(undos)
    if steps:
        say("\nNot put back:")
    for step in steps:
        say(f"    {line(step['host'])}  {line(step['step']):44} {line(step['why'])}")
