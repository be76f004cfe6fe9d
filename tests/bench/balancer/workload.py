"""The load: requests at random times with answers of long-tailed length, the same for every variant."""

import random
from dataclasses import dataclass

from tests.bench.balancer.client import Ask

TOKENS_PER_SECOND = 100
PARALLEL = 2
MEDIAN_TOKENS = 32
SIGMA = 1.0  # sigma of the logarithm: the mean is 1.6 times the median, one answer in a hundred ten times as long
LONGEST = 500
_PROMPT_SECONDS = 0.021  # time in which the simulated server reads a prompt


@dataclass(frozen=True)
class Request:
    """One request of a load, for any server: seconds after the start, and tokens of the answer."""

    at: float
    tokens: int


def requests(seed: int, load: float, seconds: float, slots: int) -> list[Request]:
    """Draw the requests of one run.

    Args:
        seed: the same seed gives the same requests.
        load: share of the slots' time that the answers take, equal to offered token rate over capacity.
        seconds: how long requests come.
        slots: number of answers that all instances give at once.

    Returns:
        The requests by time: as many as make the load, at the times of a Poisson process with as many events.
    """
    chance = random.Random(seed)  # noqa: S311
    lengths: list[int] = []
    while busy(lengths) < load * slots * seconds:
        lengths.append(_length(chance))
    times = sorted(chance.uniform(0, seconds) for _ in lengths)
    return [Request(at, length) for at, length in zip(times, lengths, strict=True)]


def busy(lengths: list[int]) -> float:
    """Seconds in which answers of these lengths hold a slot, all together."""
    return sum(lengths) / TOKENS_PER_SECOND + len(lengths) * _PROMPT_SECONDS


def asks(found: list[Request], targets: list[tuple[str, int]], name: str) -> list[Ask]:
    """The requests, sent to these addresses in turn, with prompts of the run's own."""
    return [
        Ask(f"{name} {number}", request.tokens, *targets[number % len(targets)], at=request.at)
        for number, request in enumerate(found)
    ]


def _length(chance: random.Random) -> int:
    return max(1, min(LONGEST, round(chance.lognormvariate(0, SIGMA) * MEDIAN_TOKENS)))
