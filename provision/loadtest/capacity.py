"""How many users an endpoint holds: more and more of them until a target breaks, then the place in between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provision.loadtest.measure import Summary
from provision.loadtest.verdict import Judged

FINE = 0.1  # the answer is as fine as this part of it, and at least one user
SATURATED = 0.9  # of the greatest throughput: more users mostly wait from there


@dataclass(frozen=True)
class Step:
    """One step of the ramp.

    Args:
        users: how many asked at the same time.
        found: what was measured.
        judged: the targets.
    """

    users: int
    found: Summary
    judged: Sequence[Judged]

    @property
    def holds(self) -> bool:
        """Whether every target was reached."""
        return all(one.passed for one in self.judged)

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together."""
        return self.found.overall.tokens_per_second


@dataclass(frozen=True)
class Capacity:
    """What an endpoint holds.

    Args:
        steps: every step that was run, by users.
        holds: the step with the most users that reached every target; None: not even the first did.
        broke: the step with the fewest users that did not; None: all did.
        knee: the step with the fewest users whose throughput is nearly the greatest: more users only wait.
    """

    steps: Sequence[Step]
    holds: Step | None
    broke: Step | None
    knee: Step | None


def search(run: Callable[[int], Step | None], most: int) -> Capacity:
    """Double the users until a target breaks, then halve the distance.

    Args:
        run: runs one step; None: the operator stopped it.
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
    """The next number of users; one that was tried ends the search."""
    if bad > most:
        return min(most, good * 2)
    return good if bad - good <= max(1, int(good * FINE)) else (good + bad) // 2


def result(steps: Sequence[Step]) -> Capacity:
    """What steps, in order of users, come to."""
    broke = next((step for step in steps if not step.holds), None)
    held = [step for step in steps if step.holds and (broke is None or step.users < broke.users)]
    best = max((step.tokens_per_second for step in held), default=0.0)
    knee = next((step for step in held if step.tokens_per_second >= SATURATED * best), None)
    return Capacity(steps, held[-1] if held else None, broke, knee)
