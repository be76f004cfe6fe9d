"""Figures and targets -> verdicts; an overloaded endpoint; an instance far slower than its peers; a comparison with an
earlier run."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.inventory import Targets, duration_seconds, share_of
from provision.loadtest.measure import OTHER, UNNAMED, Summary
from provision.loadtest.record import Record

SLOW = 3.0  # times slower than its peers from which an instance is odd; a model on the CPU is 5 to 20 times slower
LUMP = 4  # tokens at a time from which on a proxy buffers
ENOUGH = 10  # requests per instance from which on an instance without an answer is odd
RARE = 0.01  # share of failures below which an instance is not accused
FULL = "503"  # the failure of a request for which no instance had a place
FAILED, FIRST_TOKEN, QUEUED_ANSWERS = "failed requests", "time to first token, p95", "queued answers"
QUEUEING = 0.1  # share of queued answers from which a missed target is the fault of too many users
FEW = 2  # answers from which on a speed is judged: a slow instance gives few answers


@dataclass(frozen=True)
class Verdict:
    """The verdict on a target.

    Args:
        name: name of the target.
        limit: the demand, as text.
        measured: the figure, as text.
        passed: whether the target was reached.
        value: the figure, as a number; None where it could not be measured.
        bound: the demand, as a number.
    """

    name: str
    limit: str
    measured: str
    passed: bool
    value: float | None
    bound: float


def judge(figures: Summary, targets: Targets) -> list[Verdict]:
    """Hold the figures against the targets. A target without a figure is missed.

    Only the default target for queueing needs a figure: the answers of `/v1/` tell nothing about queues.
    """
    return list(_judge(figures, targets))


def _judge(figures: Summary, targets: Targets) -> Iterator[Verdict]:
    every = figures.overall
    if targets.max_fail is not None:
        limit = share_of(targets.max_fail)
        passed = every.requests > 0 and every.fail_share <= limit
        measured = f"{percent(every.fail_share)} ({every.failed} of {every.requests})"
        demand = _demand(targets, "max_fail", targets.max_fail)
        yield Verdict(FAILED, demand, measured, passed, every.fail_share, limit)
    if targets.max_ttft_p95 is not None:
        value, most = every.ttft.p95, duration_seconds(targets.max_ttft_p95)
        passed = value is not None and value <= most
        demand = _demand(targets, "max_ttft_p95", seconds(most))
        yield Verdict(FIRST_TOKEN, demand, seconds(value), passed, value, most)
    if targets.max_queued is not None and (every.waited is not None or not targets.is_default("max_queued")):
        yield _queueing(figures, targets, share_of(targets.max_queued))
    if targets.min_tokens_per_second is not None:
        least, rate = targets.min_tokens_per_second, every.rate.p95
        passed = rate is not None and rate >= least
        yield Verdict("tokens per second of a stream, p95", f"at least {least:g}", speed(rate), passed, rate, least)
    if targets.max_skew is not None:
        bound = share_of(targets.max_skew)
        passed = figures.skew is not None and figures.skew <= bound
        measured = "unknown" if figures.skew is None else percent(figures.skew)
        yield Verdict("skew between instances", f"at most {targets.max_skew}", measured, passed, figures.skew, bound)


def _queueing(figures: Summary, targets: Targets, limit: float) -> Verdict:
    share = figures.overall.queued_share
    measured = "unknown" if share is None else f"{percent(share)} ({waiting(figures)})"
    passed = share is not None and share <= limit
    return Verdict(QUEUED_ANSWERS, _demand(targets, "max_queued", percent(limit)), measured, passed, share, limit)


def waiting(figures: Summary) -> str:
    """The number of queued answers among the answers with figures, as text."""
    return f"{figures.overall.waited} of {figures.overall.timed}"


def _demand(targets: Targets, field: str, most: str) -> str:
    """A demand as text, which tells a reader where nobody set the target."""
    return f"at most {most}" + (" (default)" if targets.is_default(field) else "")


def overload(figures: Summary, verdicts: Sequence[Verdict]) -> str:
    """A sentence about an endpoint that missed a target because more users asked than it serves; empty otherwise.

    Args:
        figures: the figures.
        verdicts: the verdicts on these figures.
    """
    every = figures.overall
    if all(target.passed for target in verdicts):
        return ""
    if every.queued_share is not None and every.queued_share > QUEUEING:
        return f"{waiting(figures)} answers waited in a queue, {seconds(every.queued.p95)} at p95"
    failed = next((target for target in verdicts if target.name == FAILED), None)
    if failed and not failed.passed and every.kinds.get(FULL):
        return f"{every.kinds[FULL]} of {every.requests} requests found every instance full ({FULL})"
    return ""


def untold(figures: Summary) -> list[str]:
    """A sentence where no answer tells about queues, though there are answers."""
    every = figures.overall
    if every.waited is not None or every.requests == every.failed:
        return []
    return ["the answers of this profile do not tell whether they waited in a queue: --profile chat does"]


def odd(figures: Summary) -> list[str]:
    """Sentences about odd instances, for an operator: instances without an answer, far slower, or with more
    failures."""
    named = {name: own for name, own in figures.instances.items() if name not in (UNNAMED, OTHER)}
    findings = []
    if figures.overall.requests >= ENOUGH * len(named):
        findings += [f"{name} answered nothing" for name, own in named.items() if not own.requests]
    speeds = {name: own.rate.p50 for name, own in named.items() if own.requests - own.failed >= FEW and own.rate.p50}
    for name, rate in speeds.items():
        usual = statistics.median([peer_rate for peer, peer_rate in speeds.items() if peer != name] or [0.0])
        if usual / rate >= SLOW:
            rates = f"{name} gives {rate:.1f} tokens per second, its peers {usual:.1f}"
            findings.append(f"{rates}: is its model on the CPU? ask `provision verify`")
    for name, own in named.items():
        if own.failed >= FEW and own.fail_share > max(RARE, SLOW * _rest(figures, name)):
            findings.append(f"{name} fails {percent(own.fail_share)} of its requests: {kinds(own.kinds)}")
    return findings


def lumps(records: Sequence[Record]) -> list[str]:
    """A sentence where answers come in lumps: a proxy in front buffers, and readers wait."""
    good = [record for record in records if not record.problem]
    tokens, pieces = sum(record.tokens for record in good), sum(record.arrivals for record in good)
    if tokens <= LUMP * pieces:
        return []
    return [f"{tokens} tokens came in {pieces} pieces: a proxy in front of the instances buffers"]


def _rest(figures: Summary, name: str) -> float:
    """The share of failed requests of all other instances."""
    peers = [own for peer, own in figures.instances.items() if peer != name]
    requests = sum(own.requests for own in peers)
    return sum(own.failed for own in peers) / requests if requests else 1.0


def compare(now: Mapping[str, Any], before: Mapping[str, Any], margin: float) -> Iterator[Verdict]:
    """Hold one run's figures against the figures of an earlier run.

    Args:
        now: `overall` of this run's document.
        before: `overall` of the earlier run's document, checked by `session.baseline`.
        margin: how much worse a figure may be, as a part of it; for failures, as a part of all requests.
    """
    new, worst = now["fail_share"], before["fail_share"] + margin
    yield Verdict("baseline: failed requests", f"at most {percent(worst)}", percent(new), new <= worst, new, worst)
    for name, point in COMPARED:
        old, new = before[name][point], now[name][point]
        if old is not None:
            most = old * (1 + margin) + 0.001  # figures counted in milliseconds may differ by one
            passed = new is not None and new <= most
            title = f"baseline: {NAMES[name]}, {point}"
            yield Verdict(title, f"at most {seconds(most)}", seconds(new), passed, new, most)
    new, least = now["tokens_per_second"], before["tokens_per_second"] * (1 - margin)
    yield Verdict("baseline: tokens per second", f"at least {least:.1f}", f"{new:.1f}", new >= least, new, least)


COMPARED = (("ttft", "p50"), ("ttft", "p95"), ("gap", "p95"))
NAMES = {"ttft": "time to first token", "gap": "time between tokens"}


def kinds(counts: Mapping[str, int]) -> str:
    """Problems and how often, in words."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


def seconds(value: float | None) -> str:
    """A time as text."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def percent(value: float) -> str:
    """A share as text."""
    return f"{value * 100:.1f}%"


def speed(value: float | None) -> str:
    """Tokens per second as text."""
    return "-" if value is None else f"{value:.1f}"
