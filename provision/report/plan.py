"""What `plan` prints: every change with its reason, and the totals."""

from collections.abc import Sequence
from typing import Any

from provision.actions import Plan, documents
from provision.plan.planner import Change, HostPlan
from provision.report import console
from provision.report.console import COLOURS, SIGNS, error_text, indent, paint, say
from provision.rollout.outcome import Outcome
from provision.terminal_text import line, some

DIFF_LINES = 400  # of one change; a file of ours is shorter, and what somebody else put in its place need not be read


def show(plan: Plan, exit_code: int, *, as_json: bool, diff: bool, quiet: bool = False) -> None:
    """Print a plan with its warnings, or its JSON document.

    Args:
        plan: what a deploy would change.
        exit_code: of the command.
        as_json: whether the document is wanted.
        diff: whether to print what would change in files.
        quiet: whether to print failures and the last line alone.
    """
    if as_json:
        console.document("plan", exit_code, plan.warnings, **document(plan.outcomes))
        return
    for remark in () if quiet else plan.remarks:
        console.warn(remark)
    text(plan.outcomes, diff=diff, quiet=quiet)


def text(outcomes: Sequence[Outcome], *, diff: bool, quiet: bool = False) -> None:
    """Print every host's plan and the totals; if quiet, what failed and the totals."""
    for outcome in outcomes:
        if outcome.error is not None:
            say(f"{paint(outcome.host, 'bold')}  {paint(outcome.result.upper(), 'red')}")
            say(indent(error_text(outcome.error)))
            if not outcome.plan.refused:
                continue
        if not quiet:
            _host_plan(outcome.host, outcome.plan, diff=diff)
    if not quiet:
        drained_lines(outcomes)
    counts = summary(outcomes)
    if not quiet:
        say()
    say(
        f"{counts['hosts']} hosts, {counts['steps']} steps: {counts['add']} to add, {counts['change']} to change, "
        f"{counts['remove']} to remove, {counts['ok']} ok. Nothing was changed."
    )


def drained_lines(outcomes: Sequence[Outcome]) -> None:
    """Print every instance that an operator keeps out of the upstreams."""
    for record in documents.drained(outcomes):
        label, since, by, why = (line(record[key]) for key in ("instance", "since", "by", "why"))
        say(paint(f"drained: {label} since {since} by {by}: {why}", "yellow"))


def _host_plan(host: str, plan: HostPlan, *, diff: bool) -> None:
    verdict = f"{len(plan.changes)} to change" if plan.changes else "nothing to change"
    say(f"{paint(host, 'bold')}  {plan.ok} of {plan.steps} steps ok, {verdict}")
    for step, note in plan.notes.items():
        say(f"    = {line(step):48} {line(note)}")
    role = ""
    for change in plan.changes:
        if change.role != role:
            role = change.role
            say(f"  {role}")
        _change_lines(change, diff=diff)


def _change_lines(change: Change, *, diff: bool) -> None:
    impact = f"  [{line(change.impact)}]" if change.impact else ""
    sign = paint(SIGNS[change.action], COLOURS[change.action])
    say(f"    {sign} {line(change.step.id):48} {line(change.reason)}{paint(impact, 'yellow')}")
    for text in some(change.diff, most=DIFF_LINES) if diff else ():
        say(f"        {text}")


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The body of `plan --json`."""
    hosts = [_plan_host(outcome) for outcome in outcomes]
    return {"hosts": hosts, "drained": documents.drained(outcomes), "summary": summary(outcomes)}


def _plan_host(outcome: Outcome) -> dict[str, Any]:
    result = outcome.result if outcome.error else "change" if outcome.plan.changes else "ok"
    result = "failed" if result in ("locked", "stopped") else result
    changes = [
        {
            "step": change.step.id,
            "role": change.role,
            "action": change.action,
            "reason": change.reason,
            "diff": list(change.diff),
            "impact": change.impact,
        }
        for change in outcome.plan.changes
    ]
    notes = [{"step": step, "note": note} for step, note in outcome.plan.notes.items()]
    return {
        "host": outcome.host,
        "result": result,
        "why": documents.why(outcome.error),
        "changes": changes,
        "notes": notes,
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The totals of a plan."""
    actions = [change.action for outcome in outcomes for change in outcome.plan.changes]
    return {
        "hosts": len(outcomes),
        "unreachable": sum(outcome.result == "unreachable" for outcome in outcomes),
        "steps": sum(outcome.plan.steps for outcome in outcomes),
        "ok": sum(outcome.plan.ok for outcome in outcomes),
        **{action: actions.count(action) for action in ("add", "change", "remove")},
    }
