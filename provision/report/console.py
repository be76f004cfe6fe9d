"""The parts of every report: lines, colours, warnings, errors, and the one JSON document of a command."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from provision.errors import HostError, InventoryError, ProvisionError
from provision.report import layout
from provision.report.layout import paint
from provision.runs.log import GOES_ON
from provision.terminal_text import line, lines, some

if TYPE_CHECKING:
    from provision.inventory import Inventory


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


def say(text: str = "", hang: int = 4) -> None:
    """Print a line for people on stdout, broken at the end of the screen.

    Args:
        text: the line.
        hang: indentation of continuation lines, in columns.
    """
    print("\n".join(layout.wrap(text, hang, layout.width(sys.stdout))), flush=True)


def say_command(label: str, command: str) -> None:
    """Print a command for an operator to copy.

    Args:
        label: the words before the command.
        command: the command.
    """
    whole = f"{label}: {command}"
    limit = layout.width(sys.stdout)
    if len(whole) <= limit:
        print(whole, flush=True)
        return
    print("\n".join([f"{label}:", *layout.typed(command, 2, limit)]), flush=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    limit = layout.width(sys.stderr)
    shown = with_command(f"{paint('warning', 'yellow')}: {line(text, 1000)}", limit, indent=2)
    print("\n".join(shown), file=sys.stderr, flush=True)


def with_command(text: str, limit: int, indent: int = 0) -> list[str]:
    """Return the lines of a sentence that may end in a command: the command gets its own lines if a line has no room.

    Args:
        text: the sentence.
        limit: columns of a line.
        indent: indentation of continuation lines, in columns.
    """
    sentence, mark, command = text.partition(f"; {GOES_ON}: ")
    if not mark or layout.seen(text) <= limit:
        return layout.wrap(text, indent + 2, limit)
    label = f"{' ' * indent}{GOES_ON}: {command}"
    own = [label] if len(label) <= limit else [f"{' ' * indent}{GOES_ON}:", *layout.typed(command, indent + 2, limit)]
    return [*layout.wrap(sentence, indent + 2, limit), *own]


def document(command: str, exit_code: int, warnings: Sequence[str], **body: Any) -> None:
    """Print the one JSON document of a command on stdout. Later releases add keys and rename none.

    Args:
        command: the command, such as `deploy` or `lock status`.
        exit_code: of the command.
        warnings: lines for the operator.
        body: the remaining keys.
    """
    head = {"schema": SCHEMA, "command": command, "exit": exit_code, "warnings": list(warnings)}
    print(json.dumps({**head, **body}, indent=2, default=str), flush=True)


def error_document(command: str, error: ProvisionError) -> None:
    """Print the document of a run that did not come to its hosts, and the error in words on stderr."""
    print(error_text(error), file=sys.stderr, flush=True)
    problems = [vars(problem) for problem in error.problems] if isinstance(error, InventoryError) else []
    failure = {"message": error.message, "hint": error.hint, "problems": problems}
    warnings = error.warnings if isinstance(error, InventoryError) else ()
    document(command, error.exit_code, warnings, hosts=[], error=failure)


def failure_document(command: str, exit_code: int, message: str, hint: str = "") -> None:
    """Print the document of a command that ended without a result.

    Args:
        command: the command; empty if it was not understood.
        exit_code: of the command.
        message: the failure.
        hint: the next action.
    """
    failure = {"message": message, "hint": hint, "problems": []}
    document(command, exit_code, [], hosts=[], error=failure)


def error_text(error: ProvisionError, stream: TextIO | None = None, indent: int = 0) -> str:
    """Return an error for one screen: failure, place, evidence, next action.

    Args:
        error: the error.
        stream: the stream for the text; standard error by default.
        indent: indentation in columns.
    """
    limit = layout.width(stream or sys.stderr)
    wrapped = (layout.wrap(" " * indent + text, indent + hang, limit) for text, hang in _error_lines(error))
    return "\n".join(text for broken in wrapped for text in broken)


def _error_lines(error: ProvisionError) -> Iterator[tuple[str, int]]:
    """Yield the lines of an error, each with the indentation of its continuation."""
    if isinstance(error, InventoryError):
        for warning in some(error.warnings, most=20, width=1000):
            yield f"warning: {warning}", 2
        for problem in some(error.problems, most=50, width=1000):
            yield problem, 2
        yield f"{layout.count(len(error.problems), 'problem')}; nothing was done", 2
        return
    message = lines(f"error: {error.message}", most=6, width=1000)
    yield from ((text, 2) for text in message)
    if isinstance(error, HostError):
        if error.command and error.command not in error.message:
            yield f"  command: {line(error.command)}", 4
        if error.exit_status is not None and f"exited {error.exit_status}" not in error.message:
            yield f"  exit code: {error.exit_status}", 4
        for evidence in lines(error.stderr, last=True) if error.stderr else ():
            yield f"  | {evidence}", 4
    if error.hint:
        yield f"  -> {line(error.hint)}", 5


def failures(errors: Iterable[tuple[str, HostError | None]], inventory: Inventory | None = None) -> None:
    """Print the failures of hosts; an error of several hosts is printed once.

    Args:
        errors: of every host.
        inventory: has the addresses of hosts: errors that differ only in their host's address are equal.
    """
    for group in grouped(errors, inventory):
        error = group[0][1]
        heading = paint(layout.names(list(dict.fromkeys(name for name, _ in group)), most=6), "bold")
        say(f"\n{heading}  {line(error.step)}".rstrip())
        print(error_text(_below(*group[0]), sys.stdout, 2), flush=True)


def _below(host: str, error: HostError) -> HostError:
    """Return the error for a place below its host and step: the message repeats neither."""
    below = copy.copy(error)
    below.message = error.message.removeprefix(f"{host}: ")
    below.message = below.message.removeprefix(f"{error.step}: ") if error.step else below.message
    return below


def grouped(
    errors: Iterable[tuple[str, HostError | None]], inventory: Inventory | None = None
) -> list[list[tuple[str, HostError]]]:
    """Group hosts by their error.

    Args:
        errors: of every host.
        inventory: as for `failures`.
    """
    places = {host.name: host.connection for host in inventory.hosts} if inventory else {}
    groups: dict[tuple[str, ...], list[tuple[str, HostError]]] = {}
    for host, error in errors:
        if error is not None:
            place = places.get(host)
            names = [f"{place.address}:{place.port}", place.address] if place else []
            key = _alike(error, [*names, host])
            groups.setdefault(key, []).append((host, error))
    return list(groups.values())


def _alike(error: HostError, names: Sequence[str]) -> tuple[str, ...]:
    """Return the texts of an error, without the names and addresses of its host."""
    texts: tuple[str, ...] = (type(error).__name__, error.step, error.message, error.hint, error.command, error.stderr)
    for name in names:
        texts = tuple(text.replace(name, "\0") for text in texts)
    return texts


def result_of(error: HostError) -> str:
    """Return the word for the error of a host that was only asked a question."""
    return {4: "unreachable", 6: "locked"}.get(error.exit_code, "failed")


def indent(text: str) -> str:
    """Indent a text by two columns."""
    return "\n".join("  " + line for line in text.splitlines())
