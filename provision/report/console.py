"""What every report is made of: lines, colours, warnings, errors, and the one JSON document of a command."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from provision.errors import HostError, InventoryError, ProvisionError
from provision.terminal_text import line, lines, some

SCHEMA = 1
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
    """Print the one JSON document of a command on stdout. Later releases add keys and rename none.

    Args:
        command: what was called, such as `deploy` or `lock status`.
        exit_code: of the command.
        warnings: lines for the operator.
        body: the other keys.
    """
    head = {"schema": SCHEMA, "command": command, "exit": exit_code, "warnings": list(warnings)}
    print(json.dumps({**head, **body}, indent=2, default=str), flush=True)


def error_document(command: str, error: ProvisionError) -> None:
    """The document of a run that did not come to its hosts; the same is said on stderr in words."""
    print(error_text(error), file=sys.stderr, flush=True)
    problems = [vars(problem) for problem in error.problems] if isinstance(error, InventoryError) else []
    said = {"message": error.message, "hint": error.hint, "problems": problems}
    warnings = error.warnings if isinstance(error, InventoryError) else ()
    document(command, error.exit_code, warnings, hosts=[], error=said)


def failure_document(command: str, exit_code: int, message: str, hint: str = "") -> None:
    """The document of a command that ended before it had a result.

    Args:
        command: what was called; empty where that was not understood.
        exit_code: of the command.
        message: what went wrong.
        hint: what to do about it.
    """
    said = {"message": message, "hint": hint, "problems": []}
    document(command, exit_code, [], hosts=[], error=said)


def error_text(error: ProvisionError) -> str:
    """An error on one screen: what, where, the evidence, what to do."""
    if isinstance(error, InventoryError):
        count = len(error.problems)
        found = some(error.problems, most=50, width=1000)
        warned = [f"warning: {said}" for said in some(error.warnings, most=20, width=1000)]
        return "\n".join([*warned, *found, f"{count} problem{'s' if count != 1 else ''}; nothing was done"])
    shown = lines(f"error: {error.message}", most=6, width=1000)
    if isinstance(error, HostError):
        shown += [f"  command: {line(error.command)}"] if error.command else []
        shown += [f"  exit code: {error.exit_status}"] if error.exit_status is not None else []
        shown += [f"  | {said}" for said in lines(error.stderr, last=True)] if error.stderr else []
    shown += [f"  -> {line(error.hint)}"] if error.hint else []
    return "\n".join(shown)


def result_of(error: HostError) -> str:
    """The word for an error of a host that was only asked something."""
    return {4: "unreachable", 6: "locked"}.get(error.exit_code, "failed")


def failures(errors: Iterable[tuple[str, HostError | None]]) -> None:
    """Print what failed on which host."""
    for host, error in errors:
        if error is not None:
            say(f"\n{paint(host, 'bold')}  {line(error.step)}")
            say(indent(error_text(error)))


def indent(text: str) -> str:
    """The text, moved to the right by two columns."""
    return "\n".join("  " + line for line in text.splitlines())
