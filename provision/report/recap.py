"""The last lines of a run: every host with its result, the errors, the totals, and the commands to run next."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provision.actions import DeployResult, RollbackResult, documents
from provision.report import console, layout, next_command
from provision.report.console import COLOURS, WORST_FIRST, failures, say, say_command
from provision.report.layout import paint
from provision.report.plan import drained_lines
from provision.rollout.outcome import Outcome
from provision.runs.context import Stopped
from provision.terminal_text import line

ALIKE = 8  # equal rows printed separately, at most
NAMED = 3  # steps in a row


def show(result: DeployResult, *, as_json: bool, warned: bool, quiet: bool = False) -> None:
    """Print the result of a deploy, or its JSON document.

    Args:
        result: of the deploy.
        as_json: whether the document is wanted.
        warned: whether the operator has seen the remarks with the plan.
        quiet: whether to print failures and the last line alone.
    """
    if as_json:
        console.document("deploy", result.exit_code, result.warnings, **result.document())
        return
    for warning in () if warned or quiet else result.remarks:
        console.warn(warning)
    text(result, next_command.after_deploy(result), quiet=quiet)


@dataclass(frozen=True)
class _Row:
    """A row of the table for one host.

    Args:
        result: of the host.
        steps: how many steps are as declared, of how many.
        changed: the number of changed steps.
        why: the changed steps, or the failed step.
    """

    result: str
    steps: str
    changed: int
    why: str


def text(result: DeployResult | RollbackResult, commands: Sequence[tuple[str, str]], *, quiet: bool = False) -> None:
    """Print every selected host, worst first, the errors, and the next commands.

    Args:
        result: of a deploy or a rollback.
        commands: the next commands, each with its purpose.
        quiet: whether to print the errors and the last lines alone.
    """
    outcomes = result.outcomes
    finished = [outcome for outcome in outcomes if not isinstance(outcome.error, Stopped)]
    failures(((outcome.host, outcome.error) for outcome in finished), result.inventory)
    if not quiet:
        _table(sorted(outcomes, key=lambda outcome: WORST_FIRST.index(outcome.result)))
        drained_lines(outcomes)
    _down(outcomes)
    _guard(result, quiet=quiet)
    last_lines([outcome.result for outcome in outcomes], result.run_id, commands)


def _table(outcomes: Sequence[Outcome]) -> None:
    """Print a row for each host; many hosts with equal rows share a row."""
    rows: dict[_Row, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(_row(outcome), []).append(outcome)
    parts = [part for row, of in rows.items() for part in _parts(row, of)]
    head = f"  {'RESULT':11}  {'STEPS':>7}  {'CHANGED':>7}  {'TIME':>7}  WHY"
    width = first_column([name for name, _, _ in parts], head)
    say(f"\n{'HOST':{width}}{head}")
    for name, row, seconds in parts:
        result = paint(f"{row.result.upper():11}", COLOURS.get(row.result, ""))
        cells = f"  {result}  {row.steps:>7}  {row.changed:>7}  {seconds:6.1f}s  "
        cell(named(name, width) + cells, row.why)


def first_column(names: Sequence[str], head: str) -> int:
    """Return the width of the column of hosts: as wide as the longest name, unless the head has no room beside.

    Args:
        names: of the hosts.
        head: the head of the other columns.
    """
    longest = max(map(len, names), default=0)
    return max(4, min(longest, layout.width(sys.stdout) - len(head)))


def named(name: str, width: int) -> str:
    """Return the first cell of a row. A name without room in the cell is printed on its own line first.

    Args:
        name: of the host.
        width: from `first_column`.
    """
    if len(name) > width:
        say(name)
        name = ""
    return f"{name:{width}}"


def cell(begin: str, why: str) -> None:
    """Print a row whose last cell continues below itself, or below the row if there is little room.

    Args:
        begin: the cells before.
        why: the last cell.
    """
    limit, column = layout.width(sys.stdout), layout.seen(begin)
    hang = layout.hang_of(column, limit, 4)
    if hang == column or column + len(why) <= limit:
        say((begin + why).rstrip(), hang=hang)
        return
    say(begin.rstrip())
    say(" " * hang + why, hang=hang)


def _parts(row: _Row, of: Sequence[Outcome]) -> Iterable[tuple[str, _Row, float]]:
    if len(of) > ALIKE:
        return [(f"{len(of)} hosts", row, max(outcome.seconds for outcome in of))]
    return [(outcome.host, row, outcome.seconds) for outcome in of]


def _row(outcome: Outcome) -> _Row:
    done = outcome.plan.steps if outcome.error is None else _done(outcome)
    steps = f"{done}/{outcome.plan.steps}" if outcome.plan.steps else "-"
    return _Row(outcome.result, steps, len(outcome.changed), _why(outcome))


def _why(outcome: Outcome) -> str:
    """Return the changed steps, or the failed step: the error itself is printed above."""
    if isinstance(outcome.error, Stopped):
        return line(documents.why(outcome.error))
    if outcome.error is not None:
        return f"at {line(outcome.error.step)}, see above" if outcome.error.step else "see above"
    changed = ", ".join(map(line, outcome.changed[:NAMED])) + (", ..." if len(outcome.changed) > NAMED else "")
    marks = f"reloaded {layout.count(outcome.reloads, 'time')}" if outcome.reloads else ""
    return "; ".join(filter(None, (changed, marks)))


def _down(outcomes: Sequence[Outcome]) -> None:
    """Print the instances without requests."""
    labels = sorted(frozenset[str]().union(*(outcome.down for outcome in outcomes)))
    if labels:
        names = layout.names([line(label) for label in labels], most=8)
        tested = "this instance" if len(labels) == 1 else "these instances"
        say(paint(f"down until a deploy has tested {tested}: {names}", "yellow"))


def _guard(result: DeployResult | RollbackResult, *, quiet: bool) -> None:
    """Print why the run stopped itself, unless a failure or the row of a stopped host says so."""
    errors = [outcome.error for outcome in result.outcomes if outcome.error]
    shown = [error.message for error in errors if not (quiet and isinstance(error, Stopped))]
    if result.guarded and not any(result.guarded in message for message in shown):
        say(paint(f"exit code {result.exit_code}: {line(documents.first(result.guarded))}", "yellow"))


def last_lines(results: Sequence[str], run_id: str, commands: Sequence[tuple[str, str]]) -> None:
    """Print the count of hosts for each result, and the next commands.

    Args:
        results: of every host.
        run_id: the run.
        commands: as for `text`.
    """
    words = ", ".join(f"{count} {result}" for result, count in documents.counts(results).items() if count)
    say(f"{words} of {len(results)} · run {run_id}")
    for label, command in commands:
        say_command(label, command)


def _done(outcome: Outcome) -> int:
    """Return how many steps are known to be as wanted on a host that did not get to its end."""
    return outcome.plan.ok + len(set(outcome.changed) & {change.step.id for change in outcome.plan.changes})
