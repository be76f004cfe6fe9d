"""How many instances a number of users needs, by the knee of a search for the capacity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from provision.loadtest.capacity import Capacity
from provision.loadtest.measure import OTHER, UNNAMED

USUAL = (10, 50, 100, 500)  # numbers of users of a table for an operator who names no number

ASSUMED = (
    "the same model, cards and settings in every instance",
    "answers and prompts as long as in this test",
    "users that ask again as soon as the answer ends (count the people who wait for an answer at the same moment)",
    "a balancer and a network with room for as many users",
)


@dataclass(frozen=True)
class Sizing:
    """The instances that numbers of users need.

    Args:
        instances: number of measured instances; 0 where no answer names an instance: then the endpoint counts as one.
        knee: users at the knee of these instances.
        limited: whether more users than the knee only waited or missed a target; else an instance may serve more.
        needs: (number of users, number of instances).
    """

    instances: int
    knee: int
    limited: bool
    needs: Sequence[tuple[int, int]]

    @property
    def per_instance(self) -> float:
        """Users of one instance at the knee."""
        return self.knee / max(1, self.instances)


def sized(capacity: Capacity, declared: int, wanted: int | None) -> Sizing | None:
    """Return the instances that numbers of users need; None where no step reached every target.

    Args:
        capacity: the result of the search.
        declared: number of instances of the inventory; 0 without an inventory, then the answering instances count.
        wanted: the operator's number of users; None for a table of usual numbers.
    """
    knee, held = capacity.knee, capacity.holds
    if knee is None or held is None:
        return None
    answering = [name for name, own in knee.figures.instances.items() if own.requests and name not in (UNNAMED, OTHER)]
    instances = declared or len(answering)
    # whole numbers: 7 users need 7 instances where 3 instances hold 3 users, whatever a float says of 7 / (3 / 3)
    needs = [(users, math.ceil(users * max(1, instances) / knee.users)) for users in ([wanted] if wanted else USUAL)]
    limited = knee.users < held.users or capacity.broke is not None
    return Sizing(instances, knee.users, limited, needs)
