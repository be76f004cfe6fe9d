"""What `drain` and `undrain` print."""

from collections.abc import Sequence

from provision.actions.draining import Drain
from provision.report.console import COLOURS, failures, paint, say
from provision.report.recap import last_line
from provision.terminal_text import line

WORDS = {"drain": ("drained", "was drained"), "undrain": ("gets requests again", "was not drained")}


def text(command: str, found: Sequence[Drain], run_id: str, again: str) -> None:
    """Every balancer with what it was told, and every instance that did not prove itself.

    Args:
        command: `drain` or `undrain`.
        found: what became of it.
        run_id: the run.
        again: the command that tries again.
    """
    failures((one.host, one.error) for one in found)
    if any(one.error for one in found):
        say()
    width = max((len(one.host) for one in found), default=4)
    done, nothing = WORDS[command]
    for one in found:
        names = ", ".join(map(line, one.labels))
        said = paint(one.result.upper(), COLOURS[one.result]) if one.error else done if one.changed else nothing
        say(f"{one.host:{width}}  {names}  {said}")
    last_line([one.result for one in found], run_id, again)
