"""What `drain` and `undrain` print, and how drained instances are shown elsewhere."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from provision.printable import line
from provision.report import error_text, indent, paint, say

if TYPE_CHECKING:
    from provision.drain import Drain
    from provision.errors import HostError

WORDS = {"drain": ("drained", "was drained"), "undrain": ("gets requests again", "was not drained")}


def text(command: str, found: "Sequence[Drain]") -> None:
    """Every balancer with what it was told, and every instance that did not prove itself.

    Args:
        command: `drain` or `undrain`.
        found: what became of it.
    """
    width = max((len(one.host) for one in found), default=4)
    done, nothing = WORDS[command]
    for one in found:
        names = ", ".join(map(line, one.labels))
        said = paint("FAILED", "red") if one.error else done if one.changed else nothing
        say(f"{one.host:{width}}  {names}  {said}")
    for one in found:
        if one.error:
            say(f"\n{paint(one.host, 'bold')}")
            say(indent(error_text(one.error)))


def document(found: "Iterable[Drain]", run_id: str) -> dict[str, Any]:
    """The body of `drain --json` and `undrain --json`."""
    hosts = [
        {
            "host": one.host,
            "result": _result(one.error) if one.error else "changed" if one.changed else "ok",
            "why": one.error.message if one.error else "",
            "instances": list(one.labels),
        }
        for one in found
    ]
    return {"run": run_id, "hosts": hosts}


def _result(error: "HostError") -> str:
    return {4: "unreachable", 6: "locked"}.get(error.exit_code, "failed")
