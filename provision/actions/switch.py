"""Move the common address of the balancers to another balancer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from provision.actions.pace import DEFAULT_PACE, Pace
from provision.actions.request import Request
from provision.actions.results import RunResult
from provision.events import Listener, ignore

if TYPE_CHECKING:
    from provision.actions.switching import Switched  # noqa: F401 - a base class names it


@dataclass(frozen=True)
class SwitchResult(RunResult["Switched"]):
    """The result of a switch."""

    @property
    def cut(self) -> int:
        """The number of requests that had not ended in time."""
        return sum(outcome.cut for outcome in self.outcomes)

    def document(self) -> dict[str, Any]:
        """Return the body of `switch --json`."""
        hosts = [
            {
                "host": outcome.host,
                "result": outcome.result,
                "why": outcome.error.message if outcome.error else "",
                "holds": outcome.holds,
                "cut": outcome.cut,
            }
            for outcome in self.outcomes
        ]
        return {"run": self.run_id, "hosts": hosts}


def switch(
    request: Request,
    to: str = "",
    pace: Pace = DEFAULT_PACE,
    *,
    timeout: float | None = None,
    force: bool = False,
    listen: Listener = ignore,
    tell: Callable[[SwitchResult], None] = ignore,
) -> SwitchResult:
    """Move the common address, after the streams of its holder have ended. New requests go to the next balancer before.

    Args:
        request: the inventory, and how to connect; its limit and roles are not used.
        to: the next holder; empty for the first other balancer that can take the address.
        pace: a switch uses `lock_wait` alone.
        timeout: seconds to wait for streams, which are cut then; None for `balancer.shutdown_timeout`.
        force: whether to switch to a balancer that sends to other instances.
        listen: hears the progress.
        tell: gets the result before the hooks that follow the run; Ctrl-C does not interrupt the call.

    Raises:
        ProvisionError: nothing was done. A failure of a balancer is in its outcome.
    """
    from provision.actions.run_session import RunSession
    from provision.actions.switching import Switching
    from provision.plan import role_interface

    inventory = role_interface.load(request.inventory, request.overrides)
    session = RunSession(request, pace, "switch", inventory, frozenset(), listen, words=(to,) if to else ())
    switching = Switching(session.context, request.become_password, to)
    result = partial(session.result, SwitchResult)
    work = partial(switching.switch, timeout, force=force)
    return session.run(switching, work, switching.hosts(), result, tell)
