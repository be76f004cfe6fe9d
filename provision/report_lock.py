"""What `provision lock` prints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from provision.errors import HostError
from provision.inventory import Host
from provision.lock import Held
from provision.printable import line
from provision.report import error_text, indent, say


def locks_text(found: Sequence[tuple[Host, Held | HostError | None]], *, released: bool) -> None:
    """Who has which host; or, where locks were taken away, who had it."""
    width = max((len(host.name) for host, _ in found), default=4)
    for host, one in found:
        said = f"failed: {one.message}" if isinstance(one, HostError) else str(one) if one else "nobody"
        say(f"{host.name:{width}}  {'was held by ' if released and isinstance(one, Held) else ''}{line(said, 400)}")
    for host, one in found:
        if isinstance(one, HostError):
            say(f"\n{host.name}")
            say(indent(error_text(one)))


def locks_document(found: Sequence[tuple[Host, Held | HostError | None]]) -> dict[str, Any]:
    """The body of `lock ... --json`."""
    return {"hosts": [_locks_host(host, one) for host, one in found]}


def _locks_host(host: Host, one: Held | HostError | None) -> dict[str, Any]:
    if isinstance(one, HostError):
        result = {3: "failed", 4: "unreachable", 6: "locked"}.get(one.exit_code, "failed")
        return {"host": host.name, "result": result, "why": one.message, "lock": None}
    return {"host": host.name, "result": "ok", "why": "", "lock": one and dataclasses.asdict(one)}
