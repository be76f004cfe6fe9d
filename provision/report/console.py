"""What a run is told in the end: the plan, the recap, the checks, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from provision.errors import HostError, InventoryError, ProvisionError
from provision.plan.planner import Change, HostPlan
from provision.rollout.outcome import Outcome
from provision.steps.base import NOT_ASKED
from provision.steps.nginx.balancer_checks import DRAINED
from provision.steps.nginx.upstream import Drained
from provision.terminal_text import line, lines, some

if TYPE_CHECKING:  # importing it imports pytest, which plan and deploy do not need
    from provision.verify.checks import HostResult

SCHEMA = 1
DIFF_LINES = 400  # of one change; a file of ours is shorter, and what somebody else put in its place need not be read
STDERR_LIMIT = 4000  # characters of evidence in a document
SIGNS = {"add": "+", "change": "~", "remove": "-"}
WORST_FIRST = ("failed", "unreachable", "locked", "stopped", "changed", "change", "passed", "ok")
COLOURS = {
    "failed": "red",
    "unreachable": "red",
    "locked": "yellow",
    "stopped": "yellow",
    "changed": "green",
    "change": "yellow",
    "add": "green",
    "remove": "red",
}


def say(text: str = "") -> None:
    """A line for people, on stdout."""
    print(text, flush=True)


def warn(text: str) -> None:
    """A warning, on stderr."""
    print(f"{paint('warning', 'yellow')}: {line(text, 1000)}", file=sys.stderr, flush=True)


def paint(text: str, colour: str) -> str:
    """The text in a colour, where colours are wanted: on a terminal without NO_COLOR."""
    codes = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or colour not in codes:
        return text
    return f"\x1b[{codes[colour]}m{text}\x1b[0m"


def document(command: str, exit_code: int, warnings: Sequence[str], **body: Any) -> None:
    """The one JSON document on stdout (DESIGN 8): keys are added, never renamed."""
    head = {"schema": SCHEMA, "command": command, "exit": exit_code, "warnings": list(warnings)}
    print(json.dumps({**head, **body}, indent=2, default=str), flush=True)


def error_document(command: str, error: ProvisionError) -> None:
    """The document of a run that did not come to its hosts; the same is said on stderr in words."""
    print(error_text(error), file=sys.stderr, flush=True)
    problems = [vars(problem) for problem in error.problems] if isinstance(error, InventoryError) else []
    said = {"message": error.message, "hint": error.hint, "problems": problems}
    document(command, error.exit_code, [], hosts=[], error=said)


def error_text(error: ProvisionError) -> str:
    """An error on one screen: what, where, the evidence, what to do."""
    if isinstance(error, InventoryError):
        count = len(error.problems)
        found = some(error.problems, most=50, width=1000)
        return "\n".join([*found, f"{count} problem{'s' if count != 1 else ''}; nothing was done"])
    shown = lines(f"error: {error.message}", most=6, width=1000)
    if isinstance(error, HostError):
        shown += [f"  command: {line(error.command)}"] if error.command else []
        shown += [f"  exit code: {error.exit_status}"] if error.exit_status is not None else []
        shown += [f"  | {said}" for said in lines(error.stderr, last=True)] if error.stderr else []
    shown += [f"  -> {line(error.hint)}"] if error.hint else []
    return "\n".join(shown)


# ---- plan ------------------------------------------------------------------------------------------------------


def plan_text(outcomes: Sequence[Outcome], *, diff: bool) -> None:
    """Print every host's plan and the totals."""
    for outcome in outcomes:
        if outcome.error is not None:
            say(f"{paint(outcome.host, 'bold')}  {paint(outcome.result.upper(), 'red')}")
            say(indent(error_text(outcome.error)))
            if not outcome.plan.refused:
                continue
        _host_plan(outcome.host, outcome.plan, diff=diff)
    _drained_lines(outcomes)
    counts = plan_summary(outcomes)
    say(
        f"\n{counts['hosts']} hosts, {counts['steps']} steps: {counts['add']} to add, {counts['change']} to change, "
        f"{counts['remove']} to remove, {counts['ok']} ok. Nothing was changed."
    )


def _drained(outcomes: Sequence[Outcome]) -> list[Drained]:
    """What operators keep out of the upstreams, each instance once."""
    return list({one.label: one for outcome in outcomes for one in outcome.drained}.values())


def _drained_lines(outcomes: Sequence[Outcome]) -> None:
    for one in _drained(outcomes):
        say(paint(f"drained: {line(one.label)} since {line(one.since)} by {line(one.by)}: {line(one.why)}", "yellow"))


def _drained_document(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    return [{"instance": one.label, "since": one.since, "by": one.by, "why": one.why} for one in _drained(outcomes)]


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


def plan_document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The body of `plan --json`."""
    hosts = [_plan_host(outcome) for outcome in outcomes]
    return {"hosts": hosts, "drained": _drained_document(outcomes), "summary": plan_summary(outcomes)}


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
    return {"host": outcome.host, "result": result, "why": _why(outcome.error), "changes": changes, "notes": notes}


def plan_summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The totals of a plan."""
    actions = [change.action for outcome in outcomes for change in outcome.plan.changes]
    return {
        "hosts": len(outcomes),
        "unreachable": sum(outcome.result == "unreachable" for outcome in outcomes),
        "steps": sum(outcome.plan.steps for outcome in outcomes),
        "ok": sum(outcome.plan.ok for outcome in outcomes),
        **{action: actions.count(action) for action in ("add", "change", "remove")},
    }


# ---- deploy ----------------------------------------------------------------------------------------------------


def recap(outcomes: Sequence[Outcome], run_id: str, again: str) -> None:
    """Print every selected host, worst first, the errors, and the command to run next.

    Args:
        outcomes: of every host.
        run_id: the run.
        again: the command that tries again.
    """
    failures((outcome.host, outcome.error) for outcome in outcomes)
    width = max((len(outcome.host) for outcome in outcomes), default=4)
    say(f"\n{'HOST':{width}}  {'RESULT':11}  {'STEPS':>7}  {'CHANGED':>7}  {'TIME':>7}  WHY")
    for outcome in sorted(outcomes, key=lambda outcome: WORST_FIRST.index(outcome.result)):
        done = outcome.plan.steps if outcome.error is None else _done(outcome)
        result = paint(f"{outcome.result.upper():11}", COLOURS.get(outcome.result, ""))
        steps = f"{done}/{outcome.plan.steps}" if outcome.plan.steps else "-"
        why = line(_why(outcome.error)) or ", ".join(map(line, outcome.changed[:3]))
        why += ", ..." if not outcome.error and len(outcome.changed) > 3 else ""
        say(f"{outcome.host:{width}}  {result}  {steps:>7}  {len(outcome.changed):>7}  {outcome.seconds:6.1f}s  {why}")
    _drained_lines(outcomes)
    last_line([outcome.result for outcome in outcomes], run_id, again)


def failures(found: Iterable[tuple[str, HostError | None]]) -> None:
    """Print what failed on which host."""
    for host, error in found:
        if error is not None:
            say(f"\n{paint(host, 'bold')}  {line(error.step)}")
            say(indent(error_text(error)))


def last_line(results: Sequence[str], run_id: str, again: str) -> None:
    """Print what a run came to, by every host's result, and the command that tries again, if there is one."""
    words = ", ".join(f"{count} {result}" for result, count in _counts(results).items() if count)
    say(f"{words} of {len(results)} · run {run_id}" + (f" · again: {again}" if again else ""))


def _done(outcome: Outcome) -> int:
    """How many steps are known to be as wanted on a host that did not get to its end."""
    return outcome.plan.ok + len(set(outcome.changed) & {change.step.id for change in outcome.plan.changes})


def deploy_document(outcomes: Sequence[Outcome], run_id: str) -> dict[str, Any]:
    """The body of `deploy --json`."""
    hosts = [_deploy_host(outcome) for outcome in outcomes]
    drained = _drained_document(outcomes)
    return {"run": run_id, "hosts": hosts, "drained": drained, "summary": deploy_summary(outcomes)}


def _deploy_host(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    failed = error and {
        "step": error.step,
        "command": error.command,
        "exit": error.exit_status,
        "stderr": error.stderr[-STDERR_LIMIT:],
    }
    return {
        "host": outcome.host,
        "result": outcome.result,
        "why": _why(error),
        "changed": outcome.changed,
        "failed": failed,
        "seconds": round(outcome.seconds, 3),
    }


def deploy_summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many hosts came to which result."""
    return {"hosts": len(outcomes), **_counts([outcome.result for outcome in outcomes])}


def _counts(results: Sequence[str]) -> dict[str, int]:
    return {name: results.count(name) for name in ("ok", "changed", "failed", "unreachable", "locked", "stopped")}


# ---- verify ----------------------------------------------------------------------------------------------------


def verify_text(results: Sequence[HostResult], following: str) -> None:
    """Print every host, worst first, what was left out on purpose, and the command to run next.

    Args:
        results: of every host.
        following: that command.
    """
    width = max((len(result.host) for result in results), default=4)
    notes: dict[str, None] = {}
    say(f"\n{'HOST':{width}}  {'RESULT':11}  {'CHECKS':>7}  {'FAILED':>6}  {'TIME':>7}  WHY")
    for result in sorted(results, key=lambda result: WORST_FIRST.index(result.result)):
        checks = [check for step in result.steps for check in step.checks]
        bad = [step for step in result.steps if not step.passed and not step.waits_for]
        verdict = paint(f"{result.result.upper():11}", "green" if result.result == "passed" else "red")
        notes.update(dict.fromkeys(check.name for check in checks if check.name.startswith((DRAINED, NOT_ASKED))))
        why = _why_failed(result)
        say(f"{result.host:{width}}  {verdict}  {len(checks):>7}  {len(bad):>6}  {result.seconds:6.1f}s  {why}")
    for note in notes:
        say(paint(line(note), "yellow"))
    count = verify_summary(results)
    hosts = f"{count['hosts']} host{'s' if count['hosts'] != 1 else ''}"
    say(f"{count['passed']} of {count['checks']} checks passed on {hosts} · next: {following}")


def _why_failed(result: HostResult) -> str:
    """Why a host is not verified, on one line: the steps that failed, and how many wait for one of them."""
    bad = [step.step for step in result.steps if not step.passed and not step.waits_for]
    waiting = Counter(step.waits_for for step in result.steps if step.waits_for)
    words = [", ".join(map(line, bad[:4])) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")]
    words += [f"{count} not checked because of {line(step)}" for step, count in waiting.items()]
    return line(_why(result.error)) or "; ".join(filter(None, words))


def verify_summary(results: Sequence[HostResult]) -> dict[str, int]:
    """How many hosts were asked, and how many checks came out how."""
    checks = [check for result in results for check in _verify_host(result)["checks"]]
    passed = sum(check["passed"] for check in checks)
    return {
        "hosts": len(results),
        "unreachable": sum(result.result == "unreachable" for result in results),
        "checks": len(checks),
        "passed": passed,
        "failed": len(checks) - passed,
    }


def verify_document(results: Sequence[HostResult]) -> dict[str, Any]:
    """The body of `verify --json`."""
    return {"hosts": [_verify_host(result) for result in results], "summary": verify_summary(results)}


def _verify_host(result: HostResult) -> dict[str, Any]:
    checks: list[Mapping[str, Any]] = []
    for step in result.steps:
        base = {"step": step.step, "role": step.role}
        if step.problem:
            checks.append(
                {**base, "name": "can be asked", "passed": False, "got": step.problem, "expected": "an answer"}
            )
        for check in step.checks:
            shown = {"name": check.name, "passed": check.passed, "got": check.got, "expected": check.expected}
            checks.append({**base, **shown})
    bad = (step.step for step in result.steps if not step.passed and not step.waits_for)
    why = _why(result.error) or ", ".join(bad)
    return {"host": result.host, "result": result.result, "why": why, "checks": checks}


def _why(error: HostError | None) -> str:
    return (error.message.splitlines() or [""])[0][:1000] if error else ""


def indent(text: str) -> str:
    """The text, moved to the right by two columns."""
    return "\n".join("  " + line for line in text.splitlines())
