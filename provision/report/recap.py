"""The last lines of a run: every host with its result, the errors, the totals, and the command to run next."""

from collections.abc import Sequence

from provision.actions import DeployResult, documents
from provision.report import console, next_command
from provision.report.console import COLOURS, WORST_FIRST, failures, paint, say
from provision.report.plan import drained_lines
from provision.rollout.outcome import Outcome
from provision.terminal_text import line


def show(result: DeployResult, *, as_json: bool, warned: bool, quiet: bool = False) -> None:
    """Print what came of a deploy, or its JSON document.

    Args:
        result: what came of it.
        as_json: whether the document is wanted.
        warned: whether the operator has already seen what is wrong with the hosts' clocks.
        quiet: whether to print failures and the last line alone.
    """
    if as_json:
        console.document("deploy", result.exit_code, result.warnings, **result.document())
        return
    for warning in () if warned or quiet else result.clocks:
        console.warn(warning)
    text(result.outcomes, result.run_id, next_command.after_deploy(result), quiet=quiet)


def text(outcomes: Sequence[Outcome], run_id: str, again: str, *, quiet: bool = False) -> None:
    """Print every selected host, worst first, the errors, and the command to run next.

    Args:
        outcomes: of every host.
        run_id: the run.
        again: the command that tries again.
        quiet: whether to print the errors and the last line alone.
    """
    failures((outcome.host, outcome.error) for outcome in outcomes)
    if not quiet:
        _table(outcomes)
    last_line([outcome.result for outcome in outcomes], run_id, again)


def _table(outcomes: Sequence[Outcome]) -> None:
    """Print a line for each host, worst first, and what operators keep out."""
    width = max((len(outcome.host) for outcome in outcomes), default=4)
    say(f"\n{'HOST':{width}}  {'RESULT':11}  {'STEPS':>7}  {'CHANGED':>7}  {'TIME':>7}  WHY")
    for outcome in sorted(outcomes, key=lambda outcome: WORST_FIRST.index(outcome.result)):
        done = outcome.plan.steps if outcome.error is None else _done(outcome)
        result = paint(f"{outcome.result.upper():11}", COLOURS.get(outcome.result, ""))
        steps = f"{done}/{outcome.plan.steps}" if outcome.plan.steps else "-"
        why = line(documents.why(outcome.error)) or ", ".join(map(line, outcome.changed[:3]))
        why += ", ..." if not outcome.error and len(outcome.changed) > 3 else ""
        say(f"{outcome.host:{width}}  {result}  {steps:>7}  {len(outcome.changed):>7}  {outcome.seconds:6.1f}s  {why}")
    drained_lines(outcomes)


def last_line(results: Sequence[str], run_id: str, again: str) -> None:
    """Print what a run came to, by every host's result, and the command that tries again, if there is one."""
    words = ", ".join(f"{count} {result}" for result, count in documents.counts(results).items() if count)
    say(f"{words} of {len(results)} · run {run_id}" + (f" · again: {again}" if again else ""))


def _done(outcome: Outcome) -> int:
    """How many steps are known to be as wanted on a host that did not get to its end."""
    return outcome.plan.ok + len(set(outcome.changed) & {change.step.id for change in outcome.plan.changes})
