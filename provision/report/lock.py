"""What `provision lock` prints."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from provision.actions.lock import Locks
from provision.errors import HostError
from provision.inventory import Host
from provision.report import console, layout
from provision.report.console import failures, say, say_command
from provision.runs.lock import Holder, who
from provision.runs.log import Log
from provision.terminal_text import line

Over = Callable[[str], Log | None]
"""The log of a run of this machine that is over, by its id."""


def show(command: str, locks: Locks, *, as_json: bool) -> None:
    """Print who has or had every host, or the JSON document.

    Args:
        command: what was called, such as `lock status`.
        locks: of every host.
        as_json: whether the document is wanted.
    """
    if as_json:
        body = locks_document(locks.hosts, locks.over)
        console.document(command, locks.exit_code, locks.inventory.warnings, **body)
    else:
        locks_text(locks.hosts, locks.over, released=command == "lock release")


def locks_text(found: Sequence[tuple[Host, Holder | HostError | None]], over: Over, *, released: bool) -> None:
    """Print the holder of every lock, or of every lock that was taken away; then how finished runs ended."""
    width = max((len(host.name) for host, _ in found), default=4)
    for host, one in found:
        said = "failed, see below" if isinstance(one, HostError) else str(one) if one else "nobody"
        begin = "was held by " if released and isinstance(one, Holder) else ""
        say(f"{host.name:{width}}  {begin}{line(said, 400)}", hang=width + 2)
    failures((host.name, one) for host, one in found if isinstance(one, HostError))
    left = [log for _, one in found if (log := _left_by(one, over))]
    for text in dict.fromkeys(log.epitaph for log in left):
        print("\n".join(console.with_command(line(text, 1000), layout.width(sys.stdout))), flush=True)
    if not released:
        _next_commands([one for _, one in found if isinstance(one, Holder) and not _left_by(one, over)])


def _next_commands(holders: Sequence[Holder]) -> None:
    """Print how somebody goes on who is kept off hosts."""
    if any(holder.left is None for holder in holders):
        say_command("to give back a lock by hand", "provision lock release")
    if any(holder.left is not None and not holder.is_over for holder in holders):
        say_command("to wait for a run", "provision deploy --lock-wait 5m")


def _left_by(holder: Holder | HostError | None, over: Over) -> Log | None:
    """The run that left a lock, if it is over; unless somebody else has resumed it, which is not known here."""
    return over(holder.run) if isinstance(holder, Holder) and holder.who == who() else None


def locks_document(found: Sequence[tuple[Host, Holder | HostError | None]], over: Over) -> dict[str, Any]:
    """The body of `lock ... --json`."""
    return {"hosts": [_locks_host(host, one, _left_by(one, over)) for host, one in found]}


def _locks_host(host: Host, one: Holder | HostError | None, left_by: Log | None) -> dict[str, Any]:
    if isinstance(one, HostError):
        return {"host": host.name, "result": console.result_of(one), "why": one.message, "lock": None}
    held = one and {**dataclasses.asdict(one), "over": left_by is not None, "next": left_by.goes_on if left_by else ""}
    return {"host": host.name, "result": "ok", "why": "", "lock": held}
