"""Prints the result of `switch`."""

from collections.abc import Sequence

from provision.actions import SwitchResult
from provision.actions.switching import Switched
from provision.report import console, next_command
from provision.report.console import COLOURS, failures
from provision.report.layout import paint
from provision.report.recap import cell, last_lines


def show(result: SwitchResult, *, as_json: bool, own: Sequence[str] = (), quiet: bool = False) -> None:
    """Print both balancers of a switch, or the JSON document.

    Args:
        result: the result of a switch.
        as_json: whether the document is wanted.
        own: the words of the command's own options.
        quiet: whether to print failures and the last line alone.
    """
    if as_json:
        console.document("switch", result.exit_code, result.warnings, **result.document())
        return
    failures(((outcome.host, outcome.error) for outcome in result.outcomes), result.inventory)
    width = max((len(outcome.host) for outcome in result.outcomes), default=4)
    for outcome in () if quiet else result.outcomes:
        text = paint(outcome.result.upper(), COLOURS[outcome.result]) if outcome.error else _words(outcome)
        cell(f"{outcome.host:{width}}  ", text)
    results = [outcome.result for outcome in result.outcomes]
    last_lines(results, result.run_id, next_command.after_switch(result, own))


def _words(outcome: Switched) -> str:
    if outcome.holds:
        return "has the address now" if outcome.changed else "had the address already, nothing changed"
    cut = f"; {outcome.cut} {'request' if outcome.cut == 1 else 'requests'} cut" if outcome.cut else ""
    return f"standby{cut or '; no request cut'}"
