"""How many users an endpoint holds: more and more users until a target breaks, then the number in between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provision.loadtest.measure import Summary
from provision.loadtest.verdict import Verdict

FINE = 0.1  # the search ends at a distance of this share of the answer, or of one user
SATURATED = 0.9  # of the greatest throughput: from there on more users mostly wait


@dataclass(frozen=True)
class Step:
    """One step of the ramp.

    Args:
        users: how many users asked at the same time.
        figures: the figures.
        verdicts: the targets.
    """

    users: int
    figures: Summary
    verdicts: Sequence[Verdict]

    @property
    def holds(self) -> bool:
        """Whether every target was reached."""
        return all(target.passed for target in self.verdicts)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of all streams together."""
        return self.figures.overall.tokens_per_second


@dataclass(frozen=True)
class Capacity:
    """The capacity of an endpoint.

    Args:
        steps: every step, by users.
        holds: the step with the most users that reached every target; None where the first step missed a target.
        broke: the step with the fewest users that missed a target; None where every step reached all targets.
        knee: the step with the fewest users whose throughput is nearly the greatest: more users only wait.
    """

    steps: Sequence[Step]
    holds: Step | None
    broke: Step | None
    knee: Step | None


def search(run: Callable[[int], Step | None], most: int) -> Capacity:
    """Double the users until a target breaks, then halve the distance.

    Args:
        run: runs one step; None where the operator stopped the step.
        most: the most users to try.
    """
    steps: dict[int, Step] = {}
    good, bad, users = 0, most + 1, 1
    while good < users < bad:
        step = run(users)
        if step is None:
            break
        steps[users] = step
        good, bad = (users, bad) if step.holds else (good, users)
        users = _next(good, bad, most)
    return result([steps[users] for users in sorted(steps)])


def _next(good: int, bad: int, most: int) -> int:
    """The next number of users; a number tried before ends the search."""
    if bad > most:
        return min(most, good * 2)
    return good if bad - good <= max(1, int(good * FINE)) else (good + bad) // 2


def result(steps: Sequence[Step]) -> Capacity:
    """Judge steps that are in order of users."""
    broke = next((step for step in steps if not step.holds), None)
    held = [step for step in steps if step.holds and (broke is None or step.users < broke.users)]
    best = max((step.tokens_per_second for step in held), default=0.0)
    knee = next((step for step in held if step.tokens_per_second >= SATURATED * best), None)
    return Capacity(steps, held[-1] if held else None, broke, knee)
