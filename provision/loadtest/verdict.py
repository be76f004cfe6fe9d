"""Figures and targets -> what was reached; an instance that is far slower than its peers; an earlier run compared."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provision.errors import UsageError
from provision.inventory import Targets, duration_seconds, share_of
from provision.loadtest.measure import UNNAMED, Summary

SLOW = 3.0  # how many times slower than its peers an instance is the odd one; a model on the CPU is 5 to 20 times
FEW = 2  # answers from which on a speed is judged: a slow instance gives few of them


@dataclass(frozen=True)
class Judged:
    """One target.

    Args:
        name: which.
        limit: what was demanded, for people.
        measured: what was found, for people.
        passed: whether it was reached.
    """

    name: str
    limit: str
    measured: str
    passed: bool


def judge(found: Summary, targets: Targets) -> list[Judged]:
    """Hold the figures against the targets. What could not be measured has not been reached."""
    return list(_judge(found, targets))


def _judge(found: Summary, targets: Targets) -> Iterator[Judged]:
    every = found.overall
    if targets.max_fail is not None:
        limit = share_of(targets.max_fail)
        passed = every.requests > 0 and every.fail_share <= limit
        measured = f"{percent(every.fail_share)} ({every.failed} of {every.requests})"
        yield Judged("failed requests", f"at most {targets.max_fail}", measured, passed)
    if targets.max_ttft_p95 is not None:
        value, most = every.ttft.p95, duration_seconds(targets.max_ttft_p95)
        passed = value is not None and value <= most
        yield Judged("time to first token, p95", f"at most {seconds(most)}", seconds(value), passed)
    if targets.min_tokens_per_second is not None:
        least = targets.min_tokens_per_second
        passed = every.rate.p95 is not None and every.rate.p95 >= least
        yield Judged("tokens per second of a stream, p95", f"at least {least:g}", speed(every.rate.p95), passed)
    if targets.max_skew is not None:
        passed = found.skew is not None and found.skew <= share_of(targets.max_skew)
        measured = "unknown" if found.skew is None else percent(found.skew)
        yield Judged("skew between instances", f"at most {targets.max_skew}", measured, passed)


def odd(found: Summary) -> list[str]:
    """What an operator should look at, each a sentence: instances that got nothing, are far slower, or fail more."""
    named = {name: own for name, own in found.instances.items() if name != UNNAMED}
    said = [f"{name} got no request" for name, own in named.items() if not own.requests]
    speeds = {name: own.rate.p50 for name, own in named.items() if own.requests - own.failed >= FEW and own.rate.p50}
    for name, rate in speeds.items():
        usual = statistics.median([other for peer, other in speeds.items() if peer != name] or [0.0])
        if usual / rate >= SLOW:
            rates = f"{name} gives {rate:.1f} tokens per second, its peers {usual:.1f}"
            said.append(f"{rates}: has it fallen to the CPU? `provision verify` says")
    for name, own in named.items():
        if own.failed and own.fail_share > SLOW * _rest(found, name):
            said.append(f"{name} fails {percent(own.fail_share)} of its requests: {kinds(own.kinds)}")
    return said


def _rest(found: Summary, name: str) -> float:
    """The share of requests that failed elsewhere."""
    others = [own for other, own in found.instances.items() if other != name]
    requests = sum(own.requests for own in others)
    return sum(own.failed for own in others) / requests if requests else 1.0


def compare(now: Mapping[str, Any], before: Mapping[str, Any], margin: float) -> list[Judged]:
    """Hold one run's document against that of an earlier one.

    Args:
        now: the document of this run.
        before: an earlier `provision loadtest --json`.
        margin: how much worse a figure may be, as a part of it; of failures, so many per cent of all requests.

    Raises:
        UsageError: the earlier one is no such document, or was another test.
    """
    try:
        for key in ("model", "profile", "users", "max_tokens"):
            if before[key] != now[key]:
                raise UsageError(
                    f"the baseline is of another test: its {key} is {before[key]}, not {now[key]}",
                    "compare like with like",
                )
        return list(_compare(now["overall"], before["overall"], margin))
    except (KeyError, TypeError) as error:
        raise UsageError("the baseline is no document of `provision loadtest --json`", f"it lacks {error}") from error


def _compare(now: Mapping[str, Any], before: Mapping[str, Any], margin: float) -> Iterator[Judged]:
    worst = float(before["fail_share"]) + margin
    passed = float(now["fail_share"]) <= worst
    yield Judged("baseline: failed requests", f"at most {percent(worst)}", percent(now["fail_share"]), passed)
    for name, point in (("ttft", "p50"), ("ttft", "p95"), ("gap", "p95")):
        old, new = before[name][point], now[name][point]
        if old is not None:
            limit = float(old) * (1 + margin) + 0.001  # what is counted in milliseconds may differ by one
            passed = new is not None and float(new) <= limit
            yield Judged(f"baseline: {NAMES[name]}, {point}", f"at most {seconds(limit)}", seconds(new), passed)
    old, new = before["tokens_per_second"], now["tokens_per_second"]
    limit = float(old) * (1 - margin)
    yield Judged("baseline: tokens per second", f"at least {limit:.1f}", f"{float(new):.1f}", float(new) >= limit)


NAMES = {
    "ttft": "time to first token",
    "gap": "time between tokens",
    "rate": "tokens per second of a stream",
    "total": "time to the end",
    "queued": "waiting in a queue",
}


def kinds(found: Mapping[str, int]) -> str:
    """Problems and how often, in words."""
    return ", ".join(f"{count} {kind}" for kind, count in found.items()) or "none"


def seconds(value: float | None) -> str:
    """A time for people."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def percent(value: float) -> str:
    """A share for people."""
    return f"{value * 100:.1f}%"


def speed(value: float | None) -> str:
    """Tokens per second for people."""
    return "-" if value is None else f"{value:.1f}"
