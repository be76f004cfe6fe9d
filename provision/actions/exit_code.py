"""The exit code of an action, by the outcome of its hosts (`provision --help` lists the codes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from provision.errors import UnfitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from provision.errors import HostError

INTERRUPTED = 130
# If several apply, the first counts.
EXIT_BY_RESULT = (("stopped", INTERRUPTED), ("failed", 3), ("locked", 6), ("unreachable", 4))
ERRORS = (1, 3, 6, 4)  # exit codes of errors; the first counts


class HostOutcome(Protocol):
    """The outcome of one host."""

    host: str
    error: HostError | None

    @property
    def result(self) -> str:
        """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`."""
        ...


class Ended(Protocol):
    """A run after its end."""

    interrupted: bool
    """Whether the operator stopped the run."""
    guard_exit: int
    """The exit code of a run that stopped itself."""

    @property
    def guarded(self) -> str:
        """Why the run stopped itself; empty if it did not."""
        ...


def of_run(run: Ended, outcomes: Sequence[HostOutcome]) -> int:
    """Return the exit code of a run that changed hosts: first an operator's stop, then a bug, then a guard's stop."""
    if run.interrupted:
        return INTERRUPTED
    return 1 if _has_bug(outcomes) else run.guard_exit if run.guarded else of_outcomes(outcomes)


def of_plan(run: Ended, outcomes: Sequence[HostOutcome]) -> int:
    """Return the exit code of a run that changed nothing."""
    return INTERRUPTED if run.interrupted else of_outcomes(outcomes)


def of_outcomes(outcomes: Sequence[HostOutcome]) -> int:
    """Return the exit code for the outcomes of hosts."""
    results = {outcome.result for outcome in outcomes}
    if "stopped" not in results and _has_bug(outcomes):
        return 1
    if "stopped" not in results and any(isinstance(outcome.error, UnfitError) for outcome in outcomes):
        return UnfitError.exit_code
    return next((code for result, code in EXIT_BY_RESULT if result in results), 0)


def of_errors(errors: Iterable[HostError]) -> int:
    """Return the exit code for the errors of hosts that were only asked a question."""
    codes = {error.exit_code for error in errors}
    return next((code for code in ERRORS if code in codes), 0)


def _has_bug(outcomes: Sequence[HostOutcome]) -> bool:
    return any(outcome.error and outcome.error.exit_code == 1 for outcome in outcomes)
