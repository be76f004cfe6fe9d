"""Prints the result of `doctor`: what is wrong and the cure, then every host, worst first."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from provision.actions import DoctorResult
from provision.doctor.finding import WORST_FIRST, Finding
from provision.report import console, layout
from provision.report.console import failures, say
from provision.report.layout import paint
from provision.report.recap import cell, first_column, named
from provision.terminal_text import line, lines

if TYPE_CHECKING:
    from provision.doctor.examine import Diagnosis

COLOURS = {"fail": "red", "warn": "yellow", "pass": "green"}
EVIDENCE = 6  # lines of evidence
CURE = 100_000  # letters of a command: a command without its end would harm, and 64 instances need 15 000
_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""")


def show(result: DoctorResult, *, as_json: bool, verbose: bool = False) -> None:
    """Print the findings about every host, or the JSON document.

    Args:
        result: of the examination.
        as_json: whether the document is wanted.
        verbose: whether to list passed checks too.
    """
    if as_json:
        console.document("doctor", result.exit_code, result.inventory.warnings, **document(result))
        return
    for warning in result.inventory.warnings:
        console.warn(warning)
    shown = [verdict for verdict in WORST_FIRST if verbose or verdict != "pass"]
    for verdict in shown:
        _findings(result.hosts, verdict)
    failures(result.bugs, result.inventory)
    _table(result.hosts)
    say(_last_line(result))


def _findings(hosts: Sequence[Diagnosis], verdict: str) -> None:
    """Print the findings with a verdict, once for equal findings of several hosts."""
    groups: dict[Finding, list[str]] = {}
    for host in hosts:
        for finding in host.findings:
            if finding.verdict == verdict:
                groups.setdefault(finding, []).append(host.host)
    for finding, names in groups.items():
        head = f"{paint(layout.names(names, most=6), 'bold')}  {paint(verdict, COLOURS[verdict])}"
        say(f"\n{head}  {finding.check}: {line(finding.says, 1000)}", hang=2)
        for text in lines(finding.evidence, most=EVIDENCE) if finding.evidence else ():
            say(f"  | {text}", hang=4)
        if finding.cure:
            print("\n".join(_cure(finding)), flush=True)


def _cure(finding: Finding) -> list[str]:
    """Return the lines of a cure for an operator to copy. A line is broken between words, never inside quotes."""
    label = "  -> here:" if finding.here else "  -> on the host:"
    limit = layout.width(sys.stdout)
    shown = line(finding.cure, CURE)
    if len(label) + 1 + len(shown) <= limit:
        return [f"{label} {shown}"]
    broken, now = [label], "    "
    for word in _WORD.findall(shown):
        if now.strip() and len(now) + 1 + len(word) > limit - 2:
            broken.append(f"{now} \\")
            now = "      "
        now += f" {word}" if now.strip() else word
    return [*broken, now]


def _table(hosts: Sequence[Diagnosis]) -> None:
    head = f"  {'RESULT':6}  {'PASS':>4}  {'WARN':>4}  {'FAIL':>4}  {'TIME':>7}  WHY"
    width = first_column([host.host for host in hosts], head)
    say(f"\n{'HOST':{width}}{head}")
    for host in sorted(hosts, key=lambda host: WORST_FIRST.index(host.verdict)):
        counts = "  ".join(f"{host.count(verdict):>4}" for verdict in reversed(WORST_FIRST))
        verdict = paint(f"{host.verdict.upper():6}", COLOURS[host.verdict])
        cell(named(host.host, width) + f"  {verdict}  {counts}  {host.seconds:6.1f}s  ", why(host))


def why(host: Diagnosis) -> str:
    """Return the checks of a host that did not pass, worst first, and the number of the checks left out."""
    names = dict.fromkeys(
        finding.check for verdict in WORST_FIRST[:2] for finding in host.findings if finding.verdict == verdict
    )
    words = [", ".join(names)] if names else []
    if host.left_out:
        words.append(f"{layout.count(len(host.left_out), 'check')} not made")
    return "; ".join(words)


def summary(hosts: Sequence[Diagnosis]) -> dict[str, int]:
    """Return the number of hosts, and the number of findings for each verdict."""
    return {
        "hosts": len(hosts),
        **{verdict: sum(host.count(verdict) for host in hosts) for verdict in ("pass", "warn", "fail")},
    }


def _last_line(result: DoctorResult) -> str:
    count = summary(result.hosts)
    return (
        f"{layout.count(count['hosts'], 'host')}: {count['pass']} passed, {count['warn']} warned,"
        f" {count['fail']} failed."
        " Nothing was changed."
    )


def document(result: DoctorResult) -> dict[str, Any]:
    """Return the body of `doctor --json`."""
    hosts = [_host(host) for host in result.hosts]
    broken = [
        {"host": name, "result": "fail", "why": error.message, "checks": [], "left_out": [], "seconds": 0.0}
        for name, error in result.bugs
    ]
    places = {host.name: number for number, host in enumerate(result.inventory.hosts)}
    every = sorted([*hosts, *broken], key=lambda host: places.get(host["host"], 0))
    return {"hosts": every, "summary": summary(result.hosts)}


def _host(host: Diagnosis) -> dict[str, Any]:
    return {
        "host": host.host,
        "result": host.verdict,
        "why": why(host),
        "checks": [_check(finding) for finding in host.findings],
        "left_out": list(host.left_out),
        "seconds": round(host.seconds, 3),
    }


def _check(finding: Finding) -> dict[str, Any]:
    values = dataclasses.asdict(finding)
    here = values.pop("here")
    return {**values, "cure_on": ("controller" if here else "host") if finding.cure else ""}
