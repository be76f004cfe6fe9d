"""Prints a plan: every change with its reason, and the totals."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.actions import Plan, documents
from provision.inventory import Inventory, Mask
from provision.plan.planner import Change, HostPlan
from provision.report import console, layout
from provision.report.console import COLOURS, SIGNS, error_text, grouped, say
from provision.report.layout import paint
from provision.rollout.outcome import Outcome
from provision.terminal_text import line, some

DIFF_LINES = 400  # of one change; our files are shorter, and nobody needs to read somebody else's file
IDS = (20, 48)  # columns for the id of a step: at least, and for whole lines
SIGNED = 6  # columns before the id


@dataclass(frozen=True)
class Detail:
    """How much of a plan to print.

    Args:
        diff: changes of files and settings.
        steps: every step, and the commands of every change.
        quiet: failures and the last line alone.
    """

    diff: bool = True
    steps: bool = False
    quiet: bool = False


USUAL = Detail()


def show(plan: Plan, exit_code: int, *, as_json: bool, detail: Detail) -> None:
    """Print a plan with its warnings, or its JSON document.

    Args:
        plan: the plan.
        exit_code: of the command.
        as_json: whether the document is wanted.
        detail: how much to print.
    """
    if as_json:
        console.document("plan", exit_code, plan.warnings, **document(plan.outcomes))
        return
    for remark in () if detail.quiet else plan.remarks:
        console.warn(remark)
    text(plan.outcomes, plan.inventory, detail)


def text(outcomes: Sequence[Outcome], inventory: Inventory, detail: Detail = USUAL) -> None:
    """Print every host's plan and the totals.

    Args:
        outcomes: of every host.
        inventory: all hosts.
        detail: how much to print.
    """
    masks = {host.name: Mask(host.secrets()) for host in inventory.hosts}
    for outcome in () if detail.quiet else outcomes:
        if outcome.error is None or outcome.plan.refused:
            _host_plan(outcome.host, outcome.plan, detail, masks.get(outcome.host, Mask(())))
    results = {outcome.host: outcome.result for outcome in outcomes}
    for group in grouped(((outcome.host, outcome.error) for outcome in outcomes), inventory):
        host, error = group[0]
        names = layout.names([name for name, _ in group], most=6)
        say(f"{paint(names, 'bold')}  {paint(results[host].upper(), 'red')}")
        print(error_text(error, sys.stdout, 2), flush=True)
    if not detail.quiet:
        drained_lines(outcomes)
        say()
    say(totals(summary(outcomes)), hang=0)


def totals(counts: Mapping[str, int]) -> str:
    """Return the last line of a plan.

    Args:
        counts: from `summary`.
    """
    bad = [f"{counts[word]} {word}" for word in ("unreachable", "failed") if counts[word]]
    hosts = layout.count(counts["hosts"], "host") + (f" ({', '.join(bad)})" if bad else "")
    changes = ", ".join(f"{counts[word]} to {word}" for word in ("add", "change", "remove"))
    return f"{hosts}, {layout.count(counts['steps'], 'step')}: {changes}, {counts['ok']} ok. Nothing was changed."


def drained_lines(outcomes: Sequence[Outcome]) -> None:
    """Print every instance that an operator has drained."""
    for record in documents.drained(outcomes):
        label, since, by, why = (line(record[key]) for key in ("instance", "since", "by", "why"))
        say(paint(f"drained: {label} since {since} by {by}: {why}", "yellow"))


def _host_plan(host: str, plan: HostPlan, detail: Detail, hide: Mask) -> None:
    verdict = f"{len(plan.changes)} to change" if plan.changes else "nothing to change"
    say(f"{paint(host, 'bold')}  {plan.ok} of {layout.count(plan.steps, 'step')} ok, {verdict}")
    ids = [*plan.notes, *(change.step.id for change in plan.changes)]
    for step, note in plan.notes.items():
        step_line("=", step, line(note), ids)
    changed = {change.step.id for change in plan.changes}
    for step in plan.states if detail.steps else ():
        if step not in changed and step not in plan.notes:
            say(f"    = {line(step)}")
    role = ""
    for change in plan.changes:
        if change.role != role:
            role = change.role
            say(f"  {role}")
        _change_lines(change, ids, detail, hide)


def step_line(sign: str, step: str, text: str, ids: Sequence[str], cost: str = "") -> None:
    """Print a step with a text beside its id, and with its cost behind the text, or below if there is no room.

    Args:
        sign: the sign of the action.
        step: the id.
        text: the text; may have colours.
        ids: the ids of all steps in the same list.
        cost: the cost.
    """
    limit = layout.width(sys.stdout)
    usual = IDS[1] if limit == layout.WHOLE else min(max(map(len, ids), default=0), limit * 2 // 5)
    room = max(IDS[0], usual)
    hang = layout.hang_of(SIGNED + room + 1, limit, SIGNED + 4)
    begin = f"    {sign} {line(step):{room}} "
    if limit < layout.WHOLE and len(line(step)) > room:
        say(begin.rstrip(), hang=SIGNED + 2)
        begin = " " * hang
    if not cost or layout.seen(f"{begin}{text}  {cost}") <= limit:
        say("  ".join(filter(None, (begin + text, cost))), hang=hang)
        return
    say(begin + text, hang=hang)
    say(" " * hang + cost, hang=hang)


def _change_lines(change: Change, ids: Sequence[str], detail: Detail, hide: Mask) -> None:
    cost = paint(f"[{line(change.impact)}]", "yellow") if change.impact else ""
    sign = paint(SIGNS[change.action], COLOURS[change.action])
    step_line(sign, change.step.id, line(change.reason), ids, cost)
    for text in some(change.diff, most=DIFF_LINES) if detail.diff else ():
        say(f"        {text}", hang=12)
    for command in change.commands if detail.steps else ():
        say(f"        $ {line(hide(str(command)), 1000)}", hang=12)


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the body of `plan --json`."""
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
    """Return the totals of a plan."""
    actions = [change.action for outcome in outcomes for change in outcome.plan.changes]
    return {
        "hosts": len(outcomes),
        "unreachable": sum(outcome.result == "unreachable" for outcome in outcomes),
        "failed": sum(outcome.error is not None and outcome.result != "unreachable" for outcome in outcomes),
        "steps": sum(outcome.plan.steps for outcome in outcomes),
        "ok": sum(outcome.plan.ok for outcome in outcomes),
        **{action: actions.count(action) for action in ("add", "change", "remove")},
    }
