"""A load test as lines for a terminal."""

import math
from collections.abc import Iterator, Sequence

from provision.loadtest.capacity import Capacity
from provision.loadtest.measure import Figures, Spread, Summary, Tally, histogram
from provision.loadtest.session import Result
from provision.loadtest.sizing import ASSUMED, Sizing
from provision.loadtest.verdict import kinds, percent, seconds, speed, waiting
from provision.terminal_text import line

BARS = " ▁▂▃▄▅▆▇█"
BINS = 12
RELIEF = "Fewer users at once, more instances or more ollama.num_parallel help"


def whole(result: Result) -> Iterator[str]:
    """The lines of a load test for an operator."""
    load = result.load
    yield f"{load.profile.name} with {load.profile.model} against {', '.join(load.targets)}"
    if result.ended.why:
        yield f"ended before its time: {line(result.ended.why, 200)}"
    yield ""
    if result.capacity:
        yield from capacity(result.capacity, whole=not result.ended.why)
    else:
        yield f"{load.users} users, {result.figures.seconds:.0f} s, answers of at most {load.profile.max_tokens} tokens"
        yield ""
        yield from table(result.figures, result.tally)
        yield ""
        yield from verdict(result)
    for finding in result.findings:
        yield f"look at: {line(finding, 300)}"
    if result.capacity:
        yield ""
        yield from sizing(result.sizing)


def table(figures: Summary, tally: Tally) -> Iterator[str]:
    """The figures of all requests and of each instance."""
    width = max([len("INSTANCE"), *(len(line(name, 60)) for name in figures.instances)])
    yield (
        f"{'INSTANCE':{width}}  {'SHARE':>6} {'REQUESTS':>8} {'FAILED':>6}  {'FIRST TOKEN  p50':>16} {'p95':>8}"
        f" {'p99':>8}  {'BETWEEN TOKENS  p50':>19} {'p99':>7}  {'TOKENS/S  p50':>13} {'p95':>6} {'ALL':>7}"
    )
    for name, own in figures.instances.items():
        yield _row(line(name, 60), width, own)
    yield _row("all", width, figures.overall)
    yield ""
    yield from _spreads(figures, tally)


def _row(name: str, width: int, own: Figures) -> str:
    return (
        f"{name:{width}}  {percent(own.share):>6} {own.requests:>8} {own.failed:>6}  {seconds(own.ttft.p50):>16}"
        f" {seconds(own.ttft.p95):>8} {seconds(own.ttft.p99):>8}  {seconds(own.gap.p50):>19} {seconds(own.gap.p99):>7}"
        f"  {speed(own.rate.p50):>13} {speed(own.rate.p95):>6} {own.tokens_per_second:>7.1f}"
    ).rstrip()


def _spreads(figures: Summary, tally: Tally) -> Iterator[str]:
    """Histograms of all requests, and how many were queued and failed."""
    good = [record for record in tally.records if not record.problem]
    first = [record.wait for record in tally.records if record.wait is not None]
    every = figures.overall
    yield _spread("time to first token", every.ttft, first)
    yield _spread("between tokens", every.gap, [])
    rate = every.rate
    yield f"  {'tokens/s of a stream':22} p50 {speed(rate.p50)}, p95 {speed(rate.p95)}, p99 {speed(rate.p99)}"
    yield _spread("time to the end", every.total, [record.total for record in good])
    if every.waited is not None:
        waits = f"{waiting(figures)} answers waited for a place"
        yield f"  {'waiting in a queue':22} p50 {seconds(every.queued.p50)}, p95 {seconds(every.queued.p95)}; {waits}"
    yield f"  {'failed':22} {line(kinds(every.kinds), 300)}"
    for problem, detail in examples(tally):
        yield f"  {'':22} {problem}: {line(detail, 160)}"
    if figures.retried:
        yield f"  {'second tries':22} a second instance answered {figures.retried} requests"
    if figures.skew is not None:
        yield f"  {'skew':22} {percent(figures.skew)}"


def examples(tally: Tally) -> Iterator[tuple[str, str]]:
    """For each problem, the text of one instance."""
    seen = set()
    for record in tally.records:
        if record.problem and record.problem not in seen and record.detail:
            seen.add(record.problem)
            yield record.problem, f"{record.detail} [{record.instance}]"


def _spread(name: str, spread: Spread, values: Sequence[float]) -> str:
    percentiles = f"  {name:22} p50 {seconds(spread.p50)}, p95 {seconds(spread.p95)}, p99 {seconds(spread.p99)}"
    return f"{percentiles}   {bars(values)}" if values else percentiles


def bars(values: Sequence[float], bins: int = BINS) -> str:
    """A small histogram in steps of the logarithm, between the least and the greatest value."""
    positive = [value for value in values if value > 0]
    if not positive:
        return ""
    low, high = min(positive), max(positive)
    counts = histogram(positive, low, max(high, low * 1.1), bins)
    top = max(counts)
    drawn = "".join(BARS[math.ceil(count / top * (len(BARS) - 1))] for count in counts)
    return f"{seconds(low)} {drawn} {seconds(high)}"


def verdict(result: Result) -> Iterator[str]:
    """The end of a test in a word, and a line for each target."""
    if result.overload:
        yield f"OVERLOADED: {result.overload}"
    verdicts = result.verdicts
    width = max((len(target.name) for target in verdicts), default=0)
    for target in verdicts:
        word = "pass" if target.passed else "FAIL"
        yield f"{word}  {target.name:{width}}  {target.measured}, demanded {target.limit}"
    if result.overload:
        yield f"{RELIEF}; `provision loadtest --find-capacity` finds the number of users that fit."


def capacity(result: Capacity, *, whole: bool = True) -> Iterator[str]:
    """The steps, and the capacity.

    Args:
        result: the result of the search.
        whole: whether the search was completed.
    """
    yield f"{'USERS':>6}  {'TOKENS/S':>9}  {'FIRST TOKEN p95':>15}  {'FAILED':>7}  RESULT"
    for step in result.steps:
        broken = ", ".join(f"{target.name} {target.measured}" for target in step.verdicts if not target.passed)
        every = step.figures.overall
        yield (
            f"{step.users:>6}  {step.tokens_per_second:>9.1f}  {seconds(every.ttft.p95):>15}"
            f"  {percent(every.fail_share):>7}  {broken or 'holds'}"
        )
    yield ""
    yield from answer(result, whole=whole)


def answer(result: Capacity, *, whole: bool = True) -> Iterator[str]:
    """The capacity in sentences.

    Args:
        result: the result of the search.
        whole: whether the search was completed.
    """
    held, knee, broke = result.holds, result.knee, result.broke
    if not result.steps:
        yield "No step was completed."
        return
    if held is None or knee is None:
        yield "The endpoint does not hold a single user."
    else:
        yield f"The endpoint holds {counted(held.users, 'user')}, with {held.tokens_per_second:.1f} tokens per second."
        if knee.users < held.users:
            speed_there = f"{knee.tokens_per_second:.1f} tokens per second"
            yield f"The knee is at {counted(knee.users, 'user')}, with {speed_there}: more users only wait."
        elif broke is None:
            yield f"Throughput still grows: the knee is at {counted(knee.users, 'user')} or beyond."
        else:
            yield f"The knee is at {counted(knee.users, 'user')}: more users miss a target."
    if broke is None:
        yield "No target broke: the endpoint may hold more" + ("; try with more --users." if whole else ".")
    else:
        broken = "; ".join(
            f"{target.name} {target.measured}, demanded {target.limit}"
            for target in broke.verdicts
            if not target.passed
        )
        yield f"The limit, met with {counted(broke.users, 'user')}: {broken}."


def sizing(result: Sizing | None) -> Iterator[str]:
    """The instances that numbers of users need, and the assumptions."""
    if result is None:
        yield "How many instances a number of users needs is unknown: no step reached every target."
        return
    most = "" if result.limited else " at most"
    unit = "instance" if result.instances else "endpoint as this one"
    for users, instances in result.needs:
        yield f"{users} users need{most} {counted(instances, unit)}."
    yield basis(result)


def basis(result: Sizing) -> str:
    """The measurement and the assumptions behind a number of instances, as sentences."""
    measured = counted(result.instances, "instance") if result.instances else "an endpoint of unknown instances"
    return f"By the knee: {counted(result.knee, 'user')} on {measured}. Assumed: {'; '.join(ASSUMED)}."


def counted(number: int, noun: str) -> str:
    """A number and a noun, as text."""
    first, _, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{rest and f' {rest}'}"


def progress(tally: Tally, elapsed: float) -> str:
    """The progress of a test, in a line."""
    recent = [record.ttft for record in tally.records[-200:] if record.ttft is not None]
    first = seconds(sorted(recent)[len(recent) // 2]) if recent else "-"
    return f"{elapsed:4.0f} s  {tally.count} requests  {tally.failures} failed  first token {first} (p50 of the last)"
