"""Prints the runs of `history` and `show`, as text and as JSON."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from provision.actions import History, RunStory
from provision.errors import HostError
from provision.inventory import Host, Inventory
from provision.report import console, layout
from provision.report.console import COLOURS, SIGNS, failures, say
from provision.report.layout import paint
from provision.report.plan import step_line
from provision.report.recap import cell
from provision.runs.history import ChangeRecord, Entry, Story
from provision.runs.log import Log
from provision.steps import wording
from provision.steps.wording import Vocabulary
from provision.terminal_text import line, some

BAD = ("failed", "unfinished", "unreachable", "locked", "stopped")
DIFF_LINES = 60
REPEATED = 2  # a step with more changes gets one line for all
HostAnswers = Sequence[tuple[Host, Any | HostError]]


def show_history(runs: History, most: int, *, as_json: bool) -> None:
    """Print the runs of all hosts, or the JSON document.

    Args:
        runs: of every host.
        most: the number of runs to print.
        as_json: whether the document is wanted.
    """
    if as_json:
        body = {**history_document(runs.hosts, most), "unfinished": unfinished(runs.died)}
        console.document("history", runs.exit_code, runs.inventory.warnings, **body)
        return
    history_text(runs, most)
    died(runs.died)


def show_story(story: RunStory, *, as_json: bool) -> None:
    """Print a run, host by host, or the JSON document.

    Args:
        story: of every host.
        as_json: whether the document is wanted.
    """
    if as_json:
        body = story_document(story)
        console.document("show", story.exit_code, story.inventory.warnings, **body)
        return
    story_text(story)
    died(story.died)


def history_document(answers: Sequence[tuple[Host, list[Entry] | HostError]], most: int) -> dict[str, Any]:
    """Return the body of `history --json`: the runs of all hosts, newest first, and the hosts that were asked.

    Args:
        answers: of every host the runs, or the error.
        most: the number of runs.
    """
    runs: dict[str, list[tuple[str, Entry]]] = {}
    for host, answer in answers:
        for entry in [] if isinstance(answer, HostError) else answer:
            runs.setdefault(entry.run, []).append((host.name, entry))
    newest = sorted(runs, reverse=True)[:most]
    return {"runs": [_run(run, runs[run]) for run in newest], "hosts": _hosts(answers)}


def _run(run: str, seen: Sequence[tuple[str, Entry]]) -> dict[str, Any]:
    about = {
        key: next(filter(None, (getattr(entry, key) for _, entry in seen)), "") for key in ("time", "who", "command")
    }
    hosts = [
        {"host": host, "result": entry.result, "change_count": entry.changes, "step": entry.step, "why": entry.why}
        for host, entry in seen
    ]
    return {"run": run, **about, "hosts": hosts}


def _hosts(answers: HostAnswers) -> list[dict[str, Any]]:
    return [{"host": host.name, "result": _result(answer), "why": _why(answer)} for host, answer in answers]


def _result(answer: Any) -> str:
    return console.result_of(answer) if isinstance(answer, HostError) else "ok"


def _why(answer: Any) -> str:
    return answer.message if isinstance(answer, HostError) else ""


def history_text(history: History, most: int) -> None:
    """Print a line for each run, newest first, and the errors of hosts."""
    runs = history_document(history.hosts, most)["runs"]
    width = max((len(run["run"]) for run in runs), default=3)
    who = min(max((len(run["who"]) for run in runs), default=3), 30)
    if runs:
        say(f"{'RUN':{width}}  {'WHEN':16}  {'WHO':{who}}  {'COMMAND':10}  HOSTS")
    for run in runs:
        when = line(run["time"].replace("T", " ")[:16])
        begin = f"{line(run['run']):{width}}  {when:16}  {line(run['who'], who):{who}}  {_command(run):10}  "
        cell(begin, _counts(run))
    if not runs and any(not isinstance(answer, HostError) for _, answer in history.hosts):
        of = "the hosts that answered" if history.exit_code else "these hosts"
        say(f"no run has changed {of}, as far as the journals show")
    _errors(history.hosts, history.inventory)


def _command(run: Mapping[str, Any]) -> str:
    return line(run["command"].partition(" ")[0], 10)


def _counts(run: Mapping[str, Any]) -> str:
    """Return the number of hosts for each result with their names, and the failed step of a bad result."""
    by_result: dict[str, list[str]] = {}
    for host in run["hosts"]:
        at = f" at {line(host['step'], 60)}" if host["result"] in BAD and host["step"] else ""
        by_result.setdefault(host["result"], []).append(f"{host['host']}{at}")
    order = sorted(by_result, key=lambda result: result not in BAD)
    return "; ".join(
        f"{len(by_result[result])} {paint(line(result, 20), COLOURS.get(result, ''))}"
        f" ({layout.names(by_result[result], most=3)})"
        for result in order
    )


def _errors(answers: HostAnswers, inventory: Inventory) -> None:
    failures(((host.name, answer) for host, answer in answers if isinstance(answer, HostError)), inventory)


def story_document(story: RunStory) -> dict[str, Any]:
    """Return the body of `show --json`: the changes of a run on each host; none for a host that does not know the run.

    Args:
        story: of every host the changes, or the error.
    """
    hosts = [_host(host, answer, story.words) for host, answer in story.hosts]
    first = next((answer.entry for _, answer in story.hosts if isinstance(answer, Story)), None)
    about = {"time": first.time, "who": first.who, "command": first.command} if first else None
    return {"run": story.run, "about": about, "hosts": hosts}


def _host(host: Host, answer: Story | HostError | None, words: Mapping[str, Vocabulary]) -> dict[str, Any]:
    if not isinstance(answer, Story):
        result = "none" if answer is None else _result(answer)
        return {"host": host.name, "result": result, "why": _why(answer), "changes": []}
    entry, changes = answer.entry, [_change(change, words) for change in answer.changes]
    return {"host": host.name, "result": entry.result, "why": entry.why, "changes": changes}


def _change(change: ChangeRecord, words: Mapping[str, Vocabulary]) -> dict[str, Any]:
    return {
        "step": change.step,
        "role": change.role,
        "action": change.action,
        "reason": change.reason,
        "diff": difference(change, words),
        "result": change.result,
        "exit": change.exit,
        "why": change.why,
    }


def difference(change: ChangeRecord, words: Mapping[str, Vocabulary]) -> list[str]:
    """Return lines that show a past change, from its states, where secrets are hashes.

    Args:
        change: the change.
        words: kind of a step -> words for the keys of its states.
    """
    if not change.known:
        return ["the state before the run is not kept on this host any more"]
    if change.have is None or change.want is None:
        return []
    kind = change.step.partition(":")[0]
    return [text[:400] for text in wording.lines(words.get(kind, {}), change.have, change.want)]


def story_text(story: RunStory) -> None:
    """Print a run, host by host."""
    document = story_document(story)
    if about := document["about"]:
        say(f"{line(story.run)}  {line(about['command'])} by {line(about['who'])}, {line(about['time'])}")
    for host in document["hosts"]:
        if host["result"] in ("none", "unreachable") or not host["changes"]:
            continue
        result = paint(line(host["result"], 20).upper(), COLOURS.get(host["result"], "red"))
        say(f"\n{paint(host['host'], 'bold')}  {result}")
        ids = [change["step"] for change in host["changes"]]
        for changes in _repeated(host["changes"]):
            _change_lines(changes, ids)
    _errors(story.hosts, story.inventory)


def _repeated(changes: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group changes: all changes of one step without an error, such as the marks of a balancer, are one group."""
    groups: dict[tuple[str, str, bool, int], list[Mapping[str, Any]]] = {}
    for number, change in enumerate(changes):
        done = change["result"] == "done"
        groups.setdefault((change["step"], change["action"], done, 0 if done else number), []).append(change)
    return list(groups.values())


def _change_lines(changes: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> None:
    change = changes[-1]
    sign = SIGNS.get(change["action"], " ")
    if len(changes) > REPEATED:
        reasons = list(dict.fromkeys(line(each["reason"]) for each in changes))
        step_line(sign, change["step"], f"{len(changes)} times: {layout.names(reasons, most=REPEATED)}", ids)
        return
    for change in changes:
        step_line(sign, change["step"], line(change["reason"]) + _failure(change), ids)
        for text in some(change["diff"], most=DIFF_LINES):
            say(f"        {text}", hang=12)


def _failure(change: Mapping[str, Any]) -> str:
    if change["result"] == "done":
        return ""
    code = "" if change["exit"] is None else f", exit code {change['exit']}"
    why = f": {line(change['why'])}" if change["why"] else ""
    return paint(f"  [{line(change['result'], 20).upper()}{code}{why}]", "red")


def unfinished(log: Log | None) -> dict[str, str] | None:
    """Return the last run of this machine, if it died, for `history --json`."""
    return {"run": log.run, "next": log.goes_on} if log else None


def died(log: Log | None) -> None:
    """Print the last run of this machine, if it died."""
    if log is not None:
        shown = console.with_command(line(log.epitaph, 1000), layout.width(sys.stdout))
        print("\n".join(["", *(paint(text, "yellow") for text in shown)]), flush=True)
