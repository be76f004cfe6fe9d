"""Prints the results of `drain` and `undrain`."""

from collections.abc import Sequence

from provision.actions import DrainResult
from provision.actions.draining import Drain
from provision.report import console, next_command
from provision.report.console import COLOURS, WORST_FIRST, failures, say
from provision.report.layout import paint
from provision.report.recap import cell, last_lines
from provision.runs.context import Stopped
from provision.terminal_text import line

WORDS = {"drain": ("drained", "drained already"), "undrain": ("undrained", "not drained before, nothing changed")}


def show(result: DrainResult, *, as_json: bool, own: Sequence[str] = (), quiet: bool = False) -> None:
    """Print every balancer with its changed marks and every instance that failed its test, or the JSON document.

    Args:
        result: the result of a drain or an undrain.
        as_json: whether the document is wanted.
        own: the words of the command's own options.
        quiet: whether to print failures and the last line alone.
    """
    verb = result.command.partition(" ")[0]
    if as_json:
        console.document(verb, result.exit_code, result.warnings, **result.document())
        return
    outcomes = result.outcomes
    finished = [outcome for outcome in outcomes if not isinstance(outcome.error, Stopped)]
    failures(((outcome.host, outcome.error) for outcome in finished), result.inventory)
    if result.failed and not quiet:
        say()
    width = max((len(outcome.host) for outcome in outcomes), default=4)
    done, nothing = WORDS[verb]
    for outcome in () if quiet else outcomes:
        names = ", ".join(map(line, outcome.labels))
        came_of_it = paint(outcome.result.upper(), COLOURS[outcome.result]) if outcome.error else ""
        came_of_it += f"  {line(outcome.error.message)}" if isinstance(outcome.error, Stopped) else ""
        cell(f"{outcome.host:{width}}  {names}  ", came_of_it or (done if outcome.changed else nothing))
    last_lines(_of_hosts(outcomes), result.run_id, next_command.after_drain(result, own))


def _of_hosts(outcomes: Sequence[Drain]) -> list[str]:
    """Return the worst result of each host: a gpu host has an outcome for each instance that failed its test."""
    results: dict[str, list[str]] = {}
    for outcome in outcomes:
        results.setdefault(outcome.host, []).append(outcome.result)
    return [min(of, key=WORST_FIRST.index) for of in results.values()]
