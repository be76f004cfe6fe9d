"""Bring hosts to the state in the inventory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from provision.actions.exit_code import INTERRUPTED
from provision.actions.pace import DEFAULT_PACE, Pace
from provision.actions.plan import RENEW_WITHIN, planned
from provision.actions.request import Request
from provision.actions.results import DeployResult, Plan
from provision.events import Listener, ignore


def deploy(
    request: Request,
    pace: Pace = DEFAULT_PACE,
    *,
    resume: str = "",
    confirm: Callable[[Plan], bool] | None = None,
    listen: Listener = ignore,
    tell: Callable[[DeployResult], None] = ignore,
) -> DeployResult:
    """Bring hosts to the state in the inventory. A step that is as declared is not touched.

    Args:
        request: selects hosts and roles.
        pace: how carefully the run goes.
        resume: id of a killed run to go on with; empty for a new run.
        confirm: gets the plan and returns whether to deploy; no other change is made then. None deploys without a
            question.
        listen: hears the progress; called from many threads.
        tell: gets the result before the hooks that follow the run; Ctrl-C does not interrupt the call.

    Returns:
        the result; `run_id` is empty if the run did not begin.

    Raises:
        ProvisionError: nothing was done. A failure of a host is in the outcome of the host.
    """
    from provision.actions.resume import resumed
    from provision.actions.run_session import hosts_of, session_over_hosts
    from provision.plan import local_files

    if resume:
        request, pace = resumed(request, pace, resume)
    seen = None
    if confirm is not None:
        seen = planned(request, resume, listen)
        agreed = confirm(seen)
        if seen.is_none or not agreed:
            code = seen.exit_code if seen.is_none else INTERRUPTED
            return DeployResult("", "deploy", request, pace, seen.inventory, seen.outcomes, code)
    session, rollout = session_over_hosts(
        request, pace, listen, run_id=resume, confirmed=seen, renew_within=RENEW_WITHIN
    )
    local_files.keep(session.context.inventory, hosts_of(rollout), session.context.roles)
    result = partial(session.result, DeployResult)
    return session.run(rollout, rollout.deploy, hosts_of(rollout), result, tell)
