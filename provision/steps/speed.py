"""The speed of answers, compared between instances with the same model on the same cards. Pure.

No absolute speed is right or wrong: the same model on the same kind of card is the measure. Work on the CPU is 5 to 20
times slower by reports (docs/facts.md#model-memory); heat, power limits and other settings cost less than half of the
speed (a choice, not measured).
"""

import statistics
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

NAME = "speed"
"""The name under which verify compares the speeds of all instances."""
FACTOR = 4.0
"""An instance fails if its speed is lower than the median by more than this factor."""
FEWEST = 3
"""The least number of comparable instances, including the judged instance: of two, nobody knows which is right."""


@dataclass(frozen=True)
class Speed:
    """The speed of one answer.

    Args:
        what: the model and the cards, such as `qwen3:8b on NVIDIA L40S`; equal for comparable speeds.
        rate: tokens per second, by the server's own account.
    """

    what: str
    rate: float


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison.

    Args:
        passed: whether the speed is usual; None for too few comparable instances.
        words: the figures.
    """

    passed: bool | None
    words: str


def judge(rate: float, rates: Collection[float]) -> Verdict:
    """Compare one speed with the median of all comparable speeds.

    Args:
        rate: tokens per second.
        rates: of all comparable instances, including the judged instance.
    """
    if len(rates) < FEWEST:
        return Verdict(None, f"{len(rates)} of at least {FEWEST} comparable instances")
    median = statistics.median(rates)
    figures = f"{rate:.1f} tokens per second, and the median of {len(rates)} instances is {median:.1f}"
    return Verdict(rate * FACTOR >= median, figures)


def cards_in_words(names: Iterable[str]) -> str:
    """Return cards in words, such as `2 x NVIDIA L40S`; empty without cards or with an unknown card.

    Args:
        names: product names of the cards; an empty name is an unknown card.
    """
    counts = Counter(names)
    if "" in counts:
        return ""
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in sorted(counts.items()))
