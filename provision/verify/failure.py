"""What fails of a step, in lines for an operator. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.steps.wording import shown
from provision.terminal_text import line, lines
from provision.verify.drift import DECLARED, PRESENCE

if TYPE_CHECKING:  # importing it imports testinfra
    from provision.verify.checks import StepResult

CONNECTION = "connection"  # what the steps of a host wait for that does not answer


def describe(result: StepResult) -> str:
    """How a step differs and which of its proofs fail, in lines: each with what was expected and what was got.

    Args:
        result: what verify found of the step.
    """
    rows = lines(result.problem, most=10) if result.problem else []
    if result.drifted:
        rows += [f"differs from the inventory: {line(result.why)}", *(f"  {line(text, 200)}" for text in result.diff)]
    for check in result.checks:
        is_explained = result.drifted and (check.name.endswith(DECLARED) or check.name == PRESENCE)
        if not (check.passed or is_explained):
            expected, got = line(shown(check.expected), 600), line(shown(check.got), 600)
            rows += [line(check.name), f"  expected {expected}", f"  got      {got}"]
    return "\n".join(rows)
