"""From requests and faults to an availability: pure functions.

A lost request belongs to the last fault before its end. A second is lost by the share of its requests that are lost: of
four requests begun in a second, a single lost request is a quarter of a second.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

WEEK = 604_800  # seconds


@dataclass(frozen=True)
class Request:
    """A request of a client.

    Args:
        kind: of the client.
        begun: seconds of the monotonic clock.
        ended: seconds of the monotonic clock.
        whole: whether the answer came whole.
        error: the error of the client; empty for a whole answer.
    """

    kind: str
    begun: float
    ended: float
    whole: bool
    error: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault, or a change of an operator.

    Args:
        key: the class, a key of assumptions.yaml.
        begun: seconds of the monotonic clock.
    """

    key: str
    begun: float


@dataclass(frozen=True)
class Loss:
    """What clients lost by a fault.

    Args:
        key: the class; empty for lost requests before the first fault.
        seconds: lost seconds, by the share of lost requests.
        touched: seconds with a lost request.
        requests: lost requests.
    """

    key: str
    seconds: float
    touched: int
    requests: int


def losses(requests: Sequence[Request], faults: Sequence[Fault]) -> list[Loss]:
    """Return the loss of each fault in its order; a loss without a fault comes first, if there is any.

    Args:
        requests: all requests.
        faults: in the order of their begin.
    """
    begun = Counter(int(request.begun) for request in requests)
    lost: dict[int, list[int]] = {}
    for request in requests:
        if not request.whole:
            number = sum(fault.begun <= request.ended for fault in faults)
            lost.setdefault(number, []).append(int(request.begun))
    keys = ["", *(fault.key for fault in faults)]
    return [_loss(key, lost.get(number, []), begun) for number, key in enumerate(keys) if number or lost.get(number)]


def _loss(key: str, seconds: Sequence[int], begun: Mapping[int, int]) -> Loss:
    return Loss(key, sum(1 / begun[second] for second in seconds), len(set(seconds)), len(seconds))


@dataclass(frozen=True)
class Cost:
    """What a class of faults costs in a week.

    Args:
        key: the class.
        made: faults that were made.
        mean: lost seconds of a fault.
        worst: lost seconds of the worst fault.
        touched: mean seconds with a lost request.
        per_week: assumed faults in a week.
    """

    key: str
    made: int
    mean: float
    worst: float
    touched: float
    per_week: float

    @property
    def week(self) -> float:
        """Lost seconds in a week."""
        return self.mean * self.per_week


def costs(lost: Sequence[Loss], per_week: Mapping[str, float]) -> list[Cost]:
    """Return the cost of each class, in the order of the assumptions.

    Args:
        lost: the loss of each fault.
        per_week: class -> assumed faults in a week.

    Raises:
        ValueError: no fault of a class was made, so its cost is unknown.
    """
    result = []
    for key, number in per_week.items():
        own = [loss for loss in lost if loss.key == key]
        if not own:
            raise ValueError(f"no fault of the class {key} was made")
        seconds = [loss.seconds for loss in own]
        result.append(Cost(key, len(own), fmean(seconds), max(seconds), fmean(loss.touched for loss in own), number))
    return result


def availability(classes: Sequence[Cost]) -> float:
    """Return the availability in a week, in percent.

    Args:
        classes: the cost of each class.
    """
    return 100 * (1 - sum(cost.week for cost in classes) / WEEK)
