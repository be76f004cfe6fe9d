"""Prints the result of `verify` after pytest has shown the proofs: every host, worst first."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from provision.actions import Request, VerifyResult
from provision.actions.documents import why
from provision.report import console, layout, next_command
from provision.report.console import WORST_FIRST, failures, say, say_command
from provision.report.layout import paint
from provision.report.recap import cell, first_column, named
from provision.steps.base import NOT_ASKED, WARNING
from provision.steps.nginx.balancer_checks import DRAINED
from provision.terminal_text import line
from provision.verify.failure import CONNECTION, describe

if TYPE_CHECKING:  # importing checks imports pytest
    from provision.verify.checks import HostResult


def show(request: Request, result: VerifyResult, *, as_json: bool, verbose: bool = False, quiet: bool = False) -> None:
    """Print the result of a verification, or its JSON document.

    Args:
        request: of the verification.
        result: of the verification.
        as_json: whether the document is wanted.
        verbose: whether to list passed steps too.
        quiet: whether to print failures and the last line alone.
    """
    if as_json:
        console.document("verify", result.exit_code, result.warnings, **document(result.hosts))
        return
    for remark in () if quiet else result.remarks:
        console.warn(remark)
    if verbose:
        _passed(result.hosts)
    failures(((host.host, host.error) for host in result.hosts), result.inventory)
    _failed(result.hosts)
    following = next_command.after_verify(request, result)
    if quiet:
        last_line(result.hosts, following)
    else:
        text(result.hosts, following)


def _passed(results: Sequence[HostResult]) -> None:
    """Print every step that passed, with its proofs."""
    for result in results:
        for step in result.steps:
            if step.passed:
                proofs = "; ".join(line(check.name) for check in step.checks)
                say(f"{line(result.host)}  {paint('passed', 'green')}  {line(step.step)}: {proofs}")


def _failed(results: Sequence[HostResult]) -> None:
    """Print every step that failed, once for equal failures of several hosts."""
    groups: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for step in result.steps:
            if not step.passed and not step.waits_for:
                groups.setdefault((step.step, describe(step)), []).append(result.host)
    for (name, proofs), hosts in groups.items():
        say(f"\n{paint(layout.names(hosts, most=6), 'bold')}  {line(name)}")
        for text_line in proofs.splitlines():
            say(f"  {text_line}", hang=6)


def text(results: Sequence[HostResult], following: str) -> None:
    """Print every host, worst first, the proofs left out on purpose, and the next command.

    Args:
        results: of every host.
        following: the next command.
    """
    head = f"  {'RESULT':11}  {'CHECKS':>7}  {'FAILED':>6}  {'TIME':>7}  WHY"
    width = first_column([result.host for result in results], head)
    notes: dict[str, None] = {}
    say(f"\n{'HOST':{width}}{head}")
    for result in sorted(results, key=lambda result: WORST_FIRST.index(result.result)):
        checks = [check for step in result.steps for check in step.checks]
        bad = [step for step in result.steps if not step.passed and not step.waits_for]
        verdict = paint(f"{result.result.upper():11}", "green" if result.result == "passed" else "red")
        notes.update(
            dict.fromkeys(check.name for check in checks if check.name.startswith((DRAINED, NOT_ASKED, WARNING)))
        )
        cells = f"  {verdict}  {len(checks):>7}  {len(bad):>6}  {result.seconds:6.1f}s  "
        cell(named(result.host, width) + cells, _why_failed(result))
    for note in notes:
        say(paint(line(note), "yellow"))
    last_line(results, following)


def last_line(results: Sequence[HostResult], following: str) -> None:
    """Print how many checks passed, and the next command.

    Args:
        results: of every host.
        following: the next command.
    """
    count = summary(results)
    bad_hosts = [f"{count['unreachable']} unreachable"] if count["unreachable"] else []
    hosts = layout.count(count["hosts"], "host") + (f" ({bad_hosts[0]})" if bad_hosts else "")
    checks = f"{count['passed']} of {count['checks']} checks passed on {hosts}"
    whole = f"{checks} · next: {following}"
    if len(whole) <= layout.width(sys.stdout):
        say(whole)
        return
    say(checks)
    say_command("next", following)


def _why_failed(result: HostResult) -> str:
    """Return why a host is not verified, on one line: the failed steps, and the number of steps that wait for them."""
    bad = [step.step for step in result.steps if not step.passed and not step.waits_for]
    waiting = Counter(step.waits_for for step in result.steps if step.waits_for)
    words = [", ".join(map(line, bad[:4])) + (f" and {len(bad) - 4} more" if len(bad) > 4 else "")]
    for step, number in waiting.items():
        cause = "" if step == CONNECTION else f" because of {line(step)}"
        words.append(f"{layout.count(number, 'step')} not checked{cause}")
    return "; ".join(filter(None, ["see above" if result.error else "", *words]))


def summary(results: Sequence[HostResult]) -> dict[str, int]:
    """Return the number of hosts, and the number of checks for each result."""
    checks = [check for result in results for check in _verify_host(result)["checks"]]
    passed = sum(check["passed"] for check in checks)
    return {
        "hosts": len(results),
        "unreachable": sum(result.result == "unreachable" for result in results),
        "checks": len(checks),
        "passed": passed,
        "failed": len(checks) - passed,
    }


def document(results: Sequence[HostResult]) -> dict[str, Any]:
    """Return the body of `verify --json`."""
    return {"hosts": [_verify_host(result) for result in results], "summary": summary(results)}


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
    reason = why(result.error) or ", ".join(bad)
    return {"host": result.host, "result": result.result, "why": reason, "checks": checks}
