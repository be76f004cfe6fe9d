"""Prints lines of logs, each behind the name of its host and log."""

import sys
from collections.abc import Iterable
from typing import Any

from provision.actions.logs import HostLine, Logs
from provision.errors import HostError
from provision.report import console
from provision.report.console import failures
from provision.report.keys import time_of
from provision.report.layout import paint
from provision.terminal_text import line as safe

LONGEST = 4000  # characters of a line


def show(logs: Logs, *, as_json: bool) -> None:
    """Print the last lines of all hosts by their times, or the JSON document.

    Args:
        logs: of every host.
        as_json: whether the document is wanted.
    """
    if as_json:
        hosts = [_host(host.name, answer) for host, answer in logs.hosts]
        console.document("logs", logs.exit_code, logs.inventory.warnings, hosts=hosts)
        return
    merged = logs.merged
    width = max((len(_name(one)) for one in merged), default=0)
    for one in merged:
        _print(one, width)
    if not merged and not logs.exit_code:
        print("no such line in these logs", file=sys.stderr, flush=True)
    failures(((host.name, answer) for host, answer in logs.hosts if isinstance(answer, HostError)), logs.inventory)


def follow(lines: Iterable[HostLine]) -> None:
    """Print lines as they come.

    Args:
        lines: the lines, perhaps without an end.
    """
    width = 0
    for one in lines:
        if one.line is None:
            console.warn(f"{one.host}: {one.remark}")
            continue
        width = max(width, len(_name(one)))
        _print(one, width)


def _name(one: HostLine) -> str:
    return f"{one.host}/{one.line.source}" if one.line else one.host


def _print(one: HostLine, width: int) -> None:
    """Print a line in one piece: the terminal breaks a long line, and `grep` finds the whole line."""
    text = safe(one.line.text, LONGEST) if one.line else ""
    print(f"{paint(f'{_name(one):{width}}', 'dim')} {text}".rstrip(), flush=True)


def _host(name: str, answer: Any) -> dict[str, Any]:
    if isinstance(answer, HostError):
        return {"host": name, "result": console.result_of(answer), "why": answer.message, "lines": []}
    lines = [
        {"log": line.source, "time": None if line.at is None else time_of(int(line.at)), "text": line.text}
        for line in answer
    ]
    return {"host": name, "result": "ok", "why": "", "lines": lines}
