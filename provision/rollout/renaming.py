"""Instances that a run renames: which hosts would rename more of them at once than may be out."""

from collections.abc import Sequence

from provision.errors import RefusedError
from provision.plan.change_order import creates, is_container
from provision.plan.planner import HostPlan
from provision.rollout.budget import DisruptionBudget, Renaming
from provision.rollout.host_part import HostPart


def refused(hosts: Sequence[HostPart], budget: DisruptionBudget) -> list[tuple[HostPart, RefusedError]]:
    """The hosts that are not changed for that, each with its error. A host that was worked on already is none of them.

    Args:
        hosts: those that are well.
        budget: how many instances may be out.
    """
    renamings = [Renaming(host.run.host, _renamed(host.planned)) for host in hosts if host.planned is not None]
    errors = budget.refuse_renaming([renaming for renaming in renamings if renaming.count])
    return [(host, errors[host.name]) for host in hosts if host.name in errors and not host.run.plans]


def _renamed(planned: HostPlan) -> int:
    """How many instances of a host are removed while others are made."""
    changes = planned.changes
    removed = [change for change in changes if change.action == "remove" and is_container(change.step)]
    running = [change for change in removed if (change.have or {}).get("running")]
    return min(len(running), sum(creates(change) for change in changes))
