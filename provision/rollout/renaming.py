"""Finds the hosts on which a run would rename more instances at once than may be out.

A new name means another instance: the old member stays `down` until the last wave adds the new member. So a deploy of a
fleet with all instances renamed changes one host. An instance with a new port or address keeps its name, and gets
requests at the new place before the next instance goes out: a moved fleet needs a single deploy.
"""

from collections.abc import Sequence

from provision.errors import RefusedError
from provision.plan.change_order import creates, is_container
from provision.plan.planner import HostPlan
from provision.rollout.budget import DisruptionBudget, Renaming
from provision.rollout.host_part import HostPart


def refused(hosts: Sequence[HostPart], budget: DisruptionBudget) -> list[tuple[HostPart, RefusedError]]:
    """Return the hosts to refuse, each with the error. A host that was changed already is never refused.

    Args:
        hosts: the hosts that are well.
        budget: how many instances may be out.
    """
    renamings = [Renaming(host.run.host, _renamed(host.planned)) for host in hosts if host.planned is not None]
    errors = budget.refuse_renaming([renaming for renaming in renamings if renaming.count])
    return [(host, errors[host.name]) for host in hosts if host.name in errors and not host.run.plans]


def _renamed(planned: HostPlan) -> int:
    """Count the instances of a host that are removed while new instances are made."""
    changes = planned.changes
    removed = [change for change in changes if change.action == "remove" and is_container(change.step)]
    running = [change for change in removed if (change.have or {}).get("running")]
    return min(len(running), sum(creates(change) for change in changes))
