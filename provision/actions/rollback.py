"""Put back what a run changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from provision.actions.exit_code import INTERRUPTED
from provision.actions.pace import DEFAULT_PACE, Pace
from provision.actions.request import Request
from provision.actions.results import RollbackPlan, RollbackResult
from provision.events import Listener, ignore


def plan_rollback(request: Request, run: str = "", *, listen: Listener = ignore) -> RollbackPlan:
    """Say what a rollback would put back. Changes nothing.

    Args:
        request: the hosts and roles that it would be about.
        run: id of the run to undo; empty for the last one that changed something.
        listen: hears what happens; called from many threads.

    Raises:
        ProvisionError: it is not known what is to be put back.
    """
    from provision.actions.undoing import planned, undoing_of

    return planned(request, undoing_of(request, run, listen), listen)


def rollback(
    request: Request,
    run: str = "",
    pace: Pace = DEFAULT_PACE,
    *,
    confirm: Callable[[RollbackPlan], bool] | None = None,
    listen: Listener = ignore,
    tell: Callable[[RollbackResult], None] = ignore,
) -> RollbackResult:
    """Put back what a run changed.

    Args:
        request: the hosts and roles that it is about.
        run: id of the run to undo; empty for the last one that changed something.
        pace: how carefully it goes; of it a rollback uses `lock_wait` alone.
        confirm: is shown the plan and says whether to put it back; then nothing else is changed. None asks nobody.
        listen: hears what happens; called from many threads.
        tell: is given the result before the hooks that follow the run; Ctrl-C does not break it off.

    Returns:
        what came of it; the result of a rollback that did not begin has no `run_id`.

    Raises:
        ProvisionError: nothing was done; what fails on a host is in the outcome of that host.
    """
    from provision.actions.run_session import hosts_of
    from provision.actions.undoing import planned, session_over_undoing, undoing_of

    undoing = undoing_of(request, run, listen)
    if confirm is not None:
        seen = planned(request, undoing, listen)
        agreed = confirm(seen)
        if seen.is_none or not agreed:
            code = seen.exit_code if seen.is_none else INTERRUPTED
            about = (request, pace, seen.inventory, seen.outcomes, code, undoing.run, undoing.undos)
            return RollbackResult("", f"rollback {undoing.run}", *about)
        undoing = dataclasses.replace(undoing, confirmed=seen.by_host)
    session, rollout = session_over_undoing(request, pace, undoing, listen)
    result = partial(session.result, RollbackResult, of=undoing.run, undos=undoing.undos)
    return session.run(
        rollout, lambda: undoing.with_failed(rollout.deploy()), hosts_of(rollout), result, tell, of=undoing.run
    )
