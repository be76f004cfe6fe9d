"""What `rollback` prints: what it puts back, what it leaves, and what came of it."""

from collections.abc import Mapping
from typing import Any

from provision.actions import RollbackPlan, RollbackResult, documents
from provision.report import next_command, plan, recap
from provision.report.console import say
from provision.runs.rollback_plan import Undo
from provision.terminal_text import line


def plan_text(found: RollbackPlan, *, diff: bool) -> None:
    """Print what would be put back on every host, and what would stay."""
    say(f"Putting back what run {found.of} did:")
    plan.text(found.outcomes, diff=diff)
    _left(found.undos)


def plan_document(found: RollbackPlan) -> dict[str, Any]:
    """The body of `rollback --check --json`."""
    return {"of": found.of, "left": documents.left(found.undos), **plan.document(found.outcomes)}


def text(result: RollbackResult) -> None:
    """Print what stays, every host with its result, and what the inventory still says."""
    _left(result.undos)
    recap.text(result.outcomes, result.run_id, next_command.after_rollback(result))
    if any(outcome.changed for outcome in result.outcomes):
        say(f"The inventory still says what run {result.of} did: mend it, or the next deploy does it again.")


def _left(undos: Mapping[str, Undo]) -> None:
    steps = documents.left(undos)
    if steps:
        say("\nNot put back:")
    for step in steps:
        say(f"    {line(step['host'])}  {line(step['step']):44} {line(step['why'])}")
