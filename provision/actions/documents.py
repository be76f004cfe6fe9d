"""The result of a run as plain values: the body of the JSON document, also given to the hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provision.actions.draining import Drain
    from provision.errors import HostError
    from provision.rollout.outcome import Outcome
    from provision.runs.rollback_plan import Undo

RESULTS = ("ok", "changed", "failed", "unreachable", "locked", "stopped")
STDERR_LIMIT = 4000  # characters of evidence


def deployed(outcomes: Sequence[Outcome], run_id: str, guarded: str) -> dict[str, Any]:
    """Return the body of `deploy --json`.

    Args:
        outcomes: of every host.
        run_id: the id of the run.
        guarded: why the run stopped itself, if that decides the exit code; else empty.
    """
    hosts = [_host(outcome) for outcome in outcomes]
    results = [outcome.result for outcome in outcomes]
    summary = {"hosts": len(outcomes), **counts(results)}
    return {"run": run_id, "guard": first(guarded), "hosts": hosts, "drained": drained(outcomes), "summary": summary}


def _host(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    failed = error and {
        "step": error.step,
        "command": error.command,
        "exit": error.exit_status,
        "stderr": error.stderr[-STDERR_LIMIT:],
    }
    return {
        "host": outcome.host,
        "result": outcome.result,
        "why": why(error),
        "changed": outcome.changed,
        "changes": changes(outcome),
        "failed": failed,
        "seconds": round(outcome.seconds, 3),
    }


def changes(outcome: Outcome) -> list[dict[str, str]]:
    """The changes that were made on a host, each with role, action and reason, which a plan knows in advance.

    Args:
        outcome: of the host.
    """
    planned = {change.step.id: change for change in outcome.plan.changes}
    changed = ((step, planned.get(step)) for step in outcome.changed)
    return [
        {
            "step": step,
            "role": change.role if change else "",
            "action": change.action if change else "",
            "reason": change.reason if change else "",
        }
        for step, change in changed
    ]


def drains(outcomes: Sequence[Drain], run_id: str) -> dict[str, Any]:
    """Return the body of `drain --json` and `undrain --json`.

    Args:
        outcomes: of every balancer, and of every host whose instance failed its test.
        run_id: the id of the run.
    """
    hosts = [
        {
            "host": outcome.host,
            "result": outcome.result,
            "why": outcome.error.message if outcome.error else "",
            "instances": list(outcome.labels),
        }
        for outcome in outcomes
    ]
    return {"run": run_id, "hosts": hosts}


def drained(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """Return the instances that operators have drained, each once."""
    records = {record.label: record for outcome in outcomes for record in outcome.drained}
    return [
        {"instance": record.label, "since": record.since, "by": record.by, "why": record.why}
        for record in records.values()
    ]


def counts(results: Sequence[str]) -> dict[str, int]:
    """Count the hosts of each result."""
    return {result: results.count(result) for result in RESULTS}


def why(error: HostError | None) -> str:
    """Return the first line of an error's message; empty without an error."""
    return first(error.message) if error else ""


def first(text: str) -> str:
    """Return the first line of a text, at most 1000 characters."""
    return (text.splitlines() or [""])[0][:1000]


def left(undos: Mapping[str, Undo]) -> list[dict[str, str]]:
    """Return the changes that a rollback leaves as they are, of every host."""
    return [{"host": host, "step": step.step, "why": step.why} for host, undo in undos.items() for step in undo.left]
