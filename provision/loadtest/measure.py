"""Records -> figures: the results of a load test, for all requests and for each instance."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from provision.loadtest.record import Record

UNNAMED = "(none)"  # no instance answered, or no answer names an instance
OTHER = "(other)"  # an instance that the inventory does not declare
NGINX = re.compile(r"ollama(?:_\d+)?")  # nginx's names of the upstreams, where nginx had no instance to send to
POINTS = (50, 95, 99)
STEP = 0.001  # seconds; gaps between tokens are counted in steps of this length
QUEUED = 0.5  # seconds of waiting from which a request counts as queued; less is a busy machine or network
FARTHEST = 0.5  # seconds of a request's way through the network, at most


@dataclass
class Tally:
    """Every request of a run; gaps between tokens are only counted, for there may be millions of them.

    Args:
        labels: address and port -> the instance at that address, for answers after a second try.
        known: names of the declared instances; empty where unknown.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    records: list[Record] = field(default_factory=list)
    gaps: dict[str, Counter[int]] = field(default_factory=dict)
    failures: int = 0

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self.records)

    def add(self, record: Record) -> None:
        """Count a request. After a second try the balancer names both instances; the last name is the one that
        answered."""
        name = record.instance.rpartition(",")[2].strip()
        name = UNNAMED if not name or NGINX.fullmatch(name) else self.labels.get(name, name)
        name = OTHER if self.known and name not in self.known | {UNNAMED} else name
        self.gaps.setdefault(name, Counter()).update(round(gap / STEP) for gap in record.gaps)
        self.records.append(replace(record, instance=name, retried="," in record.instance, gaps=()))
        self.failures += bool(record.problem)


@dataclass(frozen=True)
class Spread:
    """A quantity over many requests: 50, 95 and 99 % were at most (for speeds: at least) this value. None: no
    request."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Figures:
    """The figures of some requests. Times are seconds.

    Args:
        requests: number of requests.
        failed: number of failed requests.
        kinds: problem -> how often.
        share: share of all requests of the run, 0 to 1.
        ttft: time to the first token; of a request that timed out before it, the time until then.
        gap: time between two tokens.
        rate: tokens per second of one stream, after its first token; 95 % of streams had at least `p95`.
        total: time to the end.
        queued: waiting beyond loading and reading the prompt; empty where the server gives no figures.
        waited: number of queued answers; None where the server gives no figures.
        timed: number of answers with such figures.
        tokens: tokens of good answers.
        tokens_per_second: tokens per second of all streams together.
    """

    requests: int
    failed: int
    kinds: Mapping[str, int]
    share: float
    ttft: Spread
    gap: Spread
    rate: Spread
    total: Spread
    queued: Spread
    waited: int | None
    timed: int
    tokens: int
    tokens_per_second: float

    @property
    def fail_share(self) -> float:
        """Share of failed requests, 0 to 1."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def queued_share(self) -> float | None:
        """Share of queued answers among the answers with figures, 0 to 1; None without figures."""
        return None if self.waited is None else self.waited / self.timed


@dataclass(frozen=True)
class Summary:
    """The figures of a run.

    Args:
        seconds: the time that was measured.
        overall: figures of all requests.
        instances: name of an instance -> figures of its requests, in order of names.
        skew: the greatest difference of an instance's share from the share by its weight, as a part of the latter; None
            where the instances are unknown.
        retried: requests that a second instance had to answer.
    """

    seconds: float
    overall: Figures
    instances: Mapping[str, Figures]
    skew: float | None
    retried: int


def summary(
    tally: Tally,
    weights: Mapping[str, float],
    window: tuple[float, float] | None = None,
    length: float | None = None,
) -> Summary:
    """Put a run into figures.

    Args:
        tally: the requests of the run.
        weights: declared instance -> its weight; empty where unknown.
        window: time stamps; only requests under way between them count (but gaps between tokens, of all requests).
            None: all.
        length: seconds in which users asked; later tokens do not count for the throughput. None: to the end.
    """
    records = [
        record for record in tally.records if window is None or (record.end >= window[0] and record.at < window[1])
    ]
    start, end = window or _span(records, length)
    groups: dict[str, list[Record]] = {name: [] for name in weights}
    for record in records:
        groups.setdefault(record.instance, []).append(record)
    whole = _Part(len(records), start, end, _way(tally.records))
    instances = {name: _figures(groups[name], tally.gaps.get(name, Counter()), whole) for name in sorted(groups)}
    every = sum(tally.gaps.values(), Counter[int]())
    overall = _figures(records, every, whole)
    return Summary(end - start, overall, instances, _skew(groups, weights), sum(record.retried for record in records))


def histogram(values: Iterable[float], low: float, high: float, bins: int) -> list[int]:
    """Count the values in each of equal steps of their logarithm.

    Args:
        values: values above zero.
        low: the lower end of the first bin; lesser values count there.
        high: the upper end of the last bin; greater values count there.
        bins: number of bins.
    """
    counts = [0] * bins
    width = math.log(high / low) / bins if high > low else 1.0
    for value in values:
        place = int(math.log(max(value, low) / low) / width) if value > 0 else 0
        counts[min(bins - 1, max(0, place))] += 1
    return counts


def overlap(record: Record, start: float, end: float) -> float:
    """The tokens of an answer between two time stamps, if its tokens came evenly."""
    if record.problem or record.ttft is None:
        return 0.0
    first = record.at + record.ttft
    spent = record.end - first
    if spent <= 0:
        return float(record.tokens) if start <= first < end else 0.0
    return record.tokens * max(0.0, min(end, record.end) - max(start, first)) / spent


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that `share` per cent of the values do not exceed (nearest rank).

    Args:
        values: sorted.
        share: per cent.
    """
    return values[max(0, math.ceil(len(values) * share / 100) - 1)] if values else None


@dataclass(frozen=True)
class _Part:
    requests: int
    start: float
    end: float
    way: float


def _way(records: Sequence[Record]) -> float:
    """Seconds that a request spends in the network: the least waiting of any answer, because the first answers of a run
    find free places. The bound is for an endpoint that was full before the run."""
    return min([FARTHEST, *(record.queued for record in records if record.queued is not None)])


def _span(records: Sequence[Record], length: float | None) -> tuple[float, float]:
    start = min((record.at for record in records), default=0.0)
    end = max((record.end for record in records), default=0.0)
    return start, min(end, start + length) if length else end


def _figures(records: Sequence[Record], gaps: Counter[int], whole: _Part) -> Figures:
    good = [record for record in records if not record.problem]
    kinds = Counter(record.problem for record in records if record.problem)
    queued = [record.queued for record in good if record.queued is not None]
    waited = sum(value - whole.way > QUEUED for value in queued)
    came = sum(overlap(record, whole.start, whole.end) for record in good)
    return Figures(
        requests=len(records),
        failed=len(records) - len(good),
        kinds=dict(kinds.most_common()),
        share=len(records) / whole.requests if whole.requests else 0.0,
        ttft=spread(record.wait for record in records),
        gap=_counted(gaps),
        rate=_speeds(record.rate for record in good),
        total=spread(record.total for record in good),
        queued=spread(queued),
        waited=waited if queued else None,
        timed=len(queued),
        tokens=sum(record.tokens for record in good),
        tokens_per_second=came / (whole.end - whole.start) if whole.end > whole.start else 0.0,
    )


def spread(values: Iterable[float | None]) -> Spread:
    """The percentiles of times."""
    known = sorted(value for value in values if value is not None)
    return Spread(*(percentile(known, point) for point in POINTS))


def _speeds(values: Iterable[float | None]) -> Spread:
    """Percentiles of speeds. Low speeds are bad: 95 % of the streams had at least `p95`."""
    known = sorted(value for value in values if value is not None)
    return Spread(*(known[len(known) - math.ceil(len(known) * point / 100)] if known else None for point in POINTS))


def _counted(gaps: Counter[int]) -> Spread:
    total, seen, values = sum(gaps.values()), 0, []
    points = [math.ceil(total * point / 100) for point in POINTS]
    for step in sorted(gaps):
        seen += gaps[step]
        values += [step * STEP] * sum(seen - gaps[step] < point <= seen for point in points)
    return Spread(*values) if values else Spread()


def _skew(groups: Mapping[str, Sequence[Record]], weights: Mapping[str, float]) -> float | None:
    """The greatest distance of an instance's share from the share by its weight, as a part of it: 1 for no request at
    all."""
    total, weight = sum(len(groups[name]) for name in weights), sum(weights.values())
    if not total or not weight:
        return None
    return max(abs(len(groups[name]) / total * weight / own - 1) for name, own in weights.items() if own)
