"""The answers as Markdown tables for docs/balancer.md."""

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.balancer.client import Answer
from tests.bench.balancer.measure import before_first_byte, failures
from tests.bench.page import table

TITLES = {"guide": "(a) the guide's", "ours": "(b) ours", "direct": "(c) no proxy, round robin"}


def percentile(values: Iterable[float], share: float) -> float:
    """The value that a share of the values does not exceed; not a number without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def first(answers: Iterable[Answer], share: float) -> float:
    """A percentile of the time to the first token of good answers, in seconds."""
    return percentile((one.first for one in answers if one.good and one.first is not None), share)


def gap(answers: Iterable[Answer], share: float) -> float:
    """A percentile of the time between tokens, in seconds."""
    return percentile((gap for one in answers for gap in one.gaps), share)


def load(found: Mapping[str, Sequence[Answer]], titles: Mapping[str, str] = TITLES) -> str:
    """A row for each variant under the same load."""
    head = ["", "requests", "TTFT p50", "p95", "p99", "between tokens p99", "failed"]
    return table(
        head,
        [
            [
                titles.get(variant, variant),
                str(len(answers)),
                *(_ms(first(answers, share)) for share in (0.5, 0.95, 0.99)),
                _ms(gap(answers, 0.99)),
                _failed(answers),
            ]
            for variant, answers in found.items()
        ],
    )


def light(found: Mapping[str, Sequence[Answer]]) -> str:
    """A row for each variant without load: the addition of each proxy."""
    floor = first(found["direct"], 0.5)
    rows = []
    for variant, answers in found.items():
        times = [_ms(first(answers, share), 2) for share in (0.5, 0.95, 0.99)]
        added = "" if variant == "direct" else _ms(first(answers, 0.5) - floor, 2)
        rows.append([TITLES[variant], str(len(answers)), *times, added])
    return table(["", "requests", "TTFT p50", "p95", "p99", "added at p50"], rows)


def trouble(found: Mapping[str, Mapping[str, Sequence[Answer]]]) -> str:
    """A row for each event, with the failures of both proxies."""
    head = ["event", "requests", *(f"{TITLES[variant]}: failed" for variant in ("guide", "ours"))]
    rows = [
        [
            event,
            " / ".join(str(len(by[variant])) for variant in ("guide", "ours")),
            _failed(by["guide"]),
            _failed(by["ours"]),
        ]
        for event, by in found.items()
    ]
    return table(head, rows)


def goals(rows: Iterable[tuple[str, str, bool]]) -> str:
    """A row for each goal: the goal, the measurement, and whether the goal was reached."""
    return table(["goal", "measured", ""], [[goal, got, "met" if met else "**missed**"] for goal, got, met in rows])


def _ms(seconds: float, digits: int = 0) -> str:
    return f"{seconds * 1000:.{digits}f} ms"


def _failed(answers: Sequence[Answer]) -> str:
    """Number of failed requests, their kinds, and how many of them had begun to answer."""
    kinds = failures(answers)
    if not kinds:
        return "0"
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    begun = sum(kinds.values()) - before_first_byte(answers)
    return f"{sum(kinds.values())} ({counts}{f'; {begun} after the first token' if begun else ''})"
