"""Plan a deploy: read every host and compare with the inventory. Changes nothing."""

from __future__ import annotations

from provision.actions.pace import DEFAULT_PACE
from provision.actions.request import Request
from provision.actions.results import Plan, accepted, advice, clocks, doubled_cards, forced
from provision.events import Listener, ignore

RENEW_WITHIN = 30
"""Days before its end within which a deploy renews the certificate of a balancer."""


def plan(request: Request, *, resume: str = "", listen: Listener = ignore) -> Plan:
    """Plan a deploy.

    Args:
        request: selects hosts and roles.
        resume: id of a killed run that the deploy would go on with; empty for a new run.
        listen: hears the progress; called from many threads.

    Raises:
        ProvisionError: no host could be planned. A failure of a host is in the outcome of the host.
    """
    if resume:
        from provision.actions.resume import resumed

        request, _ = resumed(request, DEFAULT_PACE, resume)
    return planned(request, resume, listen)


def planned(request: Request, resume: str, listen: Listener) -> Plan:
    """Plan for a request that already has the hosts and roles of a resumed run.

    Args:
        request: selects hosts and roles.
        resume: id of the resumed run; empty for a new run.
        listen: hears the progress.
    """
    from provision.actions import exit_code
    from provision.actions.run_session import hosts_of, session_over_hosts
    from provision.runs import log

    session, rollout = session_over_hosts(request, DEFAULT_PACE, listen, run_id=resume, renew_within=RENEW_WITHIN)
    outcomes = session.look(rollout, rollout.plan, hosts_of(rollout))
    dead = None if resume else log.Logs(log.default_folder()).unfinished(request.inventory)
    inventory = session.context.inventory
    told = dict.fromkeys((*advice(inventory, outcomes), *accepted(inventory, session.context.roles)))
    remarks = (*clocks(outcomes), *doubled_cards(outcomes), *forced(outcomes), *told, *([dead.epitaph] if dead else []))
    return Plan(inventory, outcomes, exit_code.of_plan(rollout, outcomes), remarks)
