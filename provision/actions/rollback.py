"""Undo the changes of a run."""

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
    """Plan a rollback. Changes nothing.

    Args:
        request: selects hosts and roles.
        run: id of the run to undo; empty for the last run with changes.
        listen: hears the progress; called from many threads.

    Raises:
        ProvisionError: the steps to restore are unknown.
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
    """Undo the changes of a run.

    Args:
        request: selects hosts and roles.
        run: id of the run to undo; empty for the last run with changes.
        pace: a rollback uses `lock_wait` alone.
        confirm: gets the plan and returns whether to go on; no other change is made then. None asks nobody.
        listen: hears the progress; called from many threads.
        tell: gets the result before the hooks that follow the run; Ctrl-C does not interrupt the call.

    Returns:
        the result; `run_id` is empty if the rollback did not begin.

    Raises:
        ProvisionError: nothing was done. A failure of a host is in the outcome of the host.
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
