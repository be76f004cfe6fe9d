"""State that the hosts of one roll share."""

from dataclasses import dataclass, field

from provision.rollout.balancer_pool import BalancerPool, BalancerPools, MakePool
from provision.rollout.budget import DisruptionBudget
from provision.rollout.members import Members
from provision.rollout.speeds import Speeds
from provision.runs.context import Context


@dataclass(frozen=True)
class Roll:
    """State that the hosts of one roll share.

    Args:
        context: of the run.
        pools: the upstreams of the balancers.
        members: the membership of every instance.
        budget: how many instances may be out at once.
        speeds: the measured speeds of the instances.
    """

    context: Context
    pools: BalancerPools
    members: Members
    budget: DisruptionBudget
    speeds: Speeds = field(default_factory=Speeds)

    @classmethod
    def of(cls, context: Context, become_password: str | None = None, make: MakePool = BalancerPool) -> "Roll":
        """Begin a roll.

        Args:
            context: of the run.
            become_password: sudo's password for the balancers (`-K`), or None for the password in the inventory.
            make: makes the pool of a balancer.
        """
        pools = BalancerPools(context, become_password, make)
        return cls(context, pools, Members(), DisruptionBudget(context.inventory))
