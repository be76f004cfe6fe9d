"""Prints the locks of `provision lock`."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from provision.actions.lock import Locks
from provision.errors import HostError
from provision.inventory import Host
from provision.report import console, layout
from provision.report.console import failures, say, say_command
from provision.report.next_command import NAMED
from provision.runs.lock import Holder
from provision.runs.log import Log
from provision.terminal_text import line

Over = Callable[[Holder], Log | None]
"""Returns the log of the run that left a lock, if the run is over; see `Logs.left_by`."""


def show(command: str, locks: Locks, *, as_json: bool) -> None:
    """Print the holder of every host's lock, present or former, or the JSON document.

    Args:
        command: the command, such as `lock status`.
        locks: of every host.
        as_json: whether the document is wanted.
    """
    if as_json:
        body = locks_document(locks.hosts, locks.over)
        console.document(command, locks.exit_code, locks.inventory.warnings, **body)
    else:
        locks_text(locks, released=command == "lock release")


def locks_text(locks: Locks, *, released: bool) -> None:
    """Print the holder of every lock, or of every lock that was taken away; then how finished runs ended."""
    answers, over = locks.hosts, locks.over
    width = max((len(host.name) for host, _ in answers), default=4)
    for host, answer in answers:
        holder = str(answer) if answer else "nobody"
        if isinstance(answer, HostError):
            holder = f"{console.result_of(answer)}, see below"
        begin = "was held by " if released and isinstance(answer, Holder) else ""
        say(f"{host.name:{width}}  {begin}{line(holder, 400)}", hang=width + 2)
    failures(((host.name, answer) for host, answer in answers if isinstance(answer, HostError)), locks.inventory)
    left = [log for _, answer in answers if (log := _left_by(answer, over))]
    for text in dict.fromkeys(log.epitaph for log in left):
        print("\n".join(console.with_command(line(text, 1000), layout.width(sys.stdout))), flush=True)
    if not released:
        _next_commands(locks)


def _next_commands(locks: Locks) -> None:
    """Print the commands for an operator whose run is kept off hosts."""
    holders = [
        (host.name, answer)
        for host, answer in locks.hosts
        if isinstance(answer, Holder) and not _left_by(answer, locks.over)
    ]
    by_hand = [name for name, holder in holders if holder.left is None]
    where = ["-i", locks.inventory.path]
    if by_hand:
        limit = ["-l", ",".join(by_hand)] if len(by_hand) <= NAMED else []
        say_command("to release a lock by hand", shlex.join(["provision", "lock", "release", *where, *limit]))
    if any(holder.left is not None and not holder.is_over for _, holder in holders):
        say_command("to wait for a run", shlex.join(["provision", "deploy", *where, "--lock-wait", "5m"]))


def _left_by(holder: Holder | HostError | None, over: Over) -> Log | None:
    """Return the log of the run that left a lock, if the run is over."""
    return over(holder) if isinstance(holder, Holder) else None


def locks_document(answers: Sequence[tuple[Host, Holder | HostError | None]], over: Over) -> dict[str, Any]:
    """Return the body of `lock ... --json`."""
    return {"hosts": [_locks_host(host, answer, _left_by(answer, over)) for host, answer in answers]}


def _locks_host(host: Host, answer: Holder | HostError | None, left_by: Log | None) -> dict[str, Any]:
    if isinstance(answer, HostError):
        return {"host": host.name, "result": console.result_of(answer), "why": answer.message, "lock": None}
    held = answer and {
        **dataclasses.asdict(answer),
        "over": left_by is not None,
        "next": left_by.goes_on if left_by else "",
    }
    return {"host": host.name, "result": "ok", "why": "", "lock": held}
