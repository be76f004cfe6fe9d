"""What a deploy would change: every host is read and compared with the inventory. Changes nothing."""

from __future__ import annotations

from provision.actions.pace import DEFAULT_PACE
from provision.actions.request import Request
from provision.actions.results import Plan, clocks
from provision.events import Listener, ignore


def plan(request: Request, *, resume: str = "", listen: Listener = ignore) -> Plan:
    """Say what a deploy would change.

    Args:
        request: what it would be about.
        resume: id of a killed run that the deploy would go on with; empty for none.
        listen: hears what happens; called from many threads.

    Raises:
        ProvisionError: nothing could be planned for; what fails on a host is in the outcome of that host.
    """
    if resume:
        from provision.actions.resume import resumed

        request, _ = resumed(request, DEFAULT_PACE, resume)
    return planned(request, resume, listen)


def planned(request: Request, resume: str, listen: Listener) -> Plan:
    """The plan for a request that already says what a run that goes on was about.

    Args:
        request: what the deploy would be about.
        resume: id of the run that goes on; empty for a new one.
        listen: hears what happens.
    """
    from provision.actions import exit_code
    from provision.actions.run_session import hosts_of, session_over_hosts
    from provision.runs import log

    session, rollout = session_over_hosts(request, DEFAULT_PACE, listen, run_id=resume)
    outcomes = session.look(rollout, rollout.plan, hosts_of(rollout))
    dead = None if resume else log.Logs(log.default_folder()).unfinished(request.inventory)
    remarks = (*clocks(outcomes), *([dead.epitaph] if dead else []))
    return Plan(session.context.inventory, outcomes, exit_code.of_plan(rollout, outcomes), remarks)
