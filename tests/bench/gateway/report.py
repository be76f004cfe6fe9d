"""The figures of the bench as the text of docs/performance.md."""

from collections.abc import Iterator, Mapping

from tests.bench import page
from tests.bench.gateway import table
from tests.bench.gateway.bodies import SIZES, WAYS
from tests.bench.gateway.client import Answer
from tests.bench.gateway.flood import RATE, Shared
from tests.bench.gateway.measured import Figures
from tests.bench.gateway.peer import PINNED, WORKERS
from tests.bench.gateway.places import CONCURRENCY, DIRECT, FEW, LITELLM, OURS, PLAIN, UNCOUNTED
from tests.bench.gateway.sizes import Sizes
from tests.bench.gateway.streams import Held
from tests.bench.gateway.table import Goal, Row, number, percentile
from tests.bench.gateway.trouble import RATE as NEW
from tests.bench.gateway.trouble import RUNNING

MB = 1e6
LEAST_ADDED, MOST_MEMORY, MOST_RISE = 1.0, 300.0, 20.0
_HEADINGS = (PLAIN, OURS, UNCOUNTED)


def text(found: Figures, sizes: Sizes, about: str, seconds: float) -> str:
    """Return everything as Markdown.

    Args:
        found: the figures.
        sizes: the size of each part.
        about: the machine, in a line.
        seconds: length of the whole bench.
    """
    rows = list(compared(found, sizes))
    peer = PINNED["litellm"][0] if LITELLM in found.firsts else "Without LiteLLM"
    conditions = f"{peer}, {WORKERS} worker processes each, on the cores of the SIMULATED instances and of the clients."
    return "\n\n".join(
        [
            f"Measured {about} `make bench-gateway`, {seconds / 60:.0f} minutes. {conditions}",
            table.compared(rows),
            table.goals(list(goals(found, rows))),
            "What the scripts cost, with answers counted (`count_tokens`, by `js_body_filter`) and not counted:",
            scripts(found, sizes),
            "Longest pause of a stream while its worker process takes a large body, in ms:",
            stalls(found),
        ]
    )


def added(found: Figures, share: float) -> dict[str, float]:
    """Return name -> milliseconds that a proxy adds to a percentile of the time to the first token.

    Args:
        found: the figures.
        share: the percentile, from 0 to 1.
    """
    times = _ttft(found, share)
    return {name: time - times[DIRECT] for name, time in times.items() if name != DIRECT}


def _ttft(found: Figures, share: float) -> dict[str, float]:
    good = {name: [answer.ttft for answer in answers if answer.good] for name, answers in found.firsts.items()}
    return {name: 1000 * percentile(times, share) for name, times in good.items()}


def compared(found: Figures, sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of all ways.

    Args:
        found: the figures.
        sizes: the size of each part.
    """
    failed = {name: sum(not answer.good for answer in answers) for name, answers in found.firsts.items()}
    for title, share in (("p50", 0.5), ("p99", 0.99)):
        yield Row(f"TTFT {title}, ms", _ttft(found, share), notes=_words(failed, "failed"))
        yield Row(f"added TTFT {title}, ms", added(found, share))
    yield from _served(found, sizes)
    yield from _held(found.held, sizes.streams)
    yield from _held(found.many, sizes.many)
    yield from _troubled(found)
    yield from _flooded(found.shared)


def _served(found: Figures, sizes: Sizes) -> Iterator[Row]:
    failed = _words({name: served.failed for name, served in found.served.items()}, "failed")
    rates = {name: served.good / served.seconds for name, served in found.served.items()}
    yield Row(f"requests/s, {sizes.clients} clients", rates, more=True, notes=failed)
    proxies = {name: served for name, served in found.served.items() if name != DIRECT}
    yield Row("CPU of a request, ms", {name: 1000 * by.cpu / max(by.good, 1) for name, by in proxies.items()})


def _held(found: Mapping[str, Held], count: int) -> Iterator[Row]:
    lost = _words({name: held.asked - held.held for name, held in found.items()}, "not open")
    yield Row(f"memory with {count:,} open streams, MB", _memory(found), notes=lost)
    cpu = {name: 100 * held.cpu * 1000 / count for name, held in found.items()}
    yield Row(f"CPU for 1,000 of {count:,} open streams, % of a core", cpu, notes=lost)


def _memory(found: Mapping[str, Held]) -> dict[str, float]:
    return {name: held.memory / MB for name, held in found.items()}


def _words(counts: Mapping[str, int], word: str) -> dict[str, str]:
    return {name: f"{count:,} {word}" for name, count in counts.items() if count}


def _troubled(found: Figures) -> Iterator[Row]:
    admitted = {name: f"{left.first} admitted, then {left.last}" for name, left in found.left.items()}
    places = {name: float(left.lost) for name, left in found.left.items()}
    yield Row(f"places of a key lost after its clients left ({CONCURRENCY[FEW]} allowed)", places, notes=admitted)
    died = {name: float(losses.unanswered) for name, losses in found.died.items()}
    cut = {name: f"of {losses.requests}; {losses.cut} streams cut" for name, losses in found.died.items()}
    yield Row("requests lost when an instance dies", died, notes=cut)
    running = {name: float(both[0].cut + both[0].unanswered) for name, both in found.reloaded.items()}
    yield Row(f"streams cut by a reload, of {RUNNING}", running)
    refused = {name: float(both[1].cut + both[1].unanswered) for name, both in found.reloaded.items()}
    times = {name: f"a restart of {both[1].seconds:.0f} s" for name, both in found.reloaded.items() if name == LITELLM}
    yield Row(f"new requests lost by a reload, at {NEW:g}/s", refused, notes=times)


def _flooded(shared: Mapping[str, Shared]) -> Iterator[Row]:
    yield Row("TTFT p95 of a client, ms", {name: _p95(by.quiet) for name, by in shared.items()})
    flooded = {name: _p95(by.flooded) for name, by in shared.items()}
    refused = {name: f"{by.flood['429']:,} of {by.flood.total():,} refused" for name, by in shared.items()}
    yield Row(f"TTFT p95 beside another key's flood of {RATE:g}/s, ms", flooded, notes=refused)
    yield Row("rise by the flood, %", {name: rise(by) for name, by in shared.items()})


def _p95(answers: list[Answer]) -> float:
    return 1000 * percentile((answer.ttft for answer in answers if answer.good), 0.95)


def rise(shared: Shared) -> float:
    """Return by how much a flood raises the 95th percentile of another client's time to the first token, in percent.

    Args:
        shared: the answers.
    """
    return 100 * (_p95(shared.flooded) / _p95(shared.quiet) - 1)


def goals(found: Figures, rows: list[Row]) -> Iterator[Goal]:
    """Yield the goals.

    Args:
        found: the figures.
        rows: the rows of all ways.
    """
    yield table.at_most("added TTFT p50 under 1 ms", added(found, 0.5)[OURS], LEAST_ADDED, "ms")
    many = found.many[OURS]
    text = f"{many.asked:,} open streams on {WORKERS} cores under 300 MB"
    memory = many.memory / MB
    words = f"{many.held:,} open, {number(memory)} MB with {many.each:.0f} tokens in each"
    yield Goal(text, words, many.held == many.asked and memory < MOST_MEMORY)
    yield table.ahead(rows)
    text = "a flood by one key raises another key's TTFT p95 by at most 20 %"
    yield table.at_most(text, rise(found.shared[OURS]), MOST_RISE, "%")


def scripts(found: Figures, sizes: Sizes) -> str:
    """Return the table of what the scripts cost.

    Args:
        found: the figures.
        sizes: the size of each part.
    """
    request = {name: 1e6 * by.cpu / max(by.good, 1) for name, by in found.served.items()}
    token = {name: 1e6 * held.cpu_of_token for name, held in found.priced.items()}
    kept = {name: held.growth / max(held.tokens, 1) for name, held in found.priced.items()}
    lines = (
        ("added TTFT p50, ms", added(found, 0.5)),
        ("CPU of a request, µs", request),
        ("of that the scripts", {name: request[name] - request[PLAIN] for name in (OURS, UNCOUNTED)}),
        ("CPU of a token, µs", token),
        ("of that the scripts", {name: token[name] - token[PLAIN] for name in (OURS, UNCOUNTED)}),
        ("memory of a token until the answer ends, bytes", kept),
        (f"memory with {sizes.many:,} open streams, MB", _memory(found.many)),
        ("memory of an open stream, kB", {name: _each(found, name) for name in _HEADINGS}),
    )
    cells = [[title, *(number(by[name]) if name in by else "-" for name in _HEADINGS)] for title, by in lines]
    return page.table(["", *_HEADINGS], cells)


def _each(found: Figures, name: str) -> float:
    """Return kB of memory of an open stream, over the memory before any streams: nginx gives little memory back."""
    many = found.many[name]
    return (many.memory - found.held[name].before) / max(many.held, 1) / 1000


def stalls(found: Figures) -> str:
    """Return the table of pauses.

    Args:
        found: the figures.
    """
    head = ["body", *(f"{name}, `{path}`" for name, path in WAYS)]
    rows = [
        [f"{size} MB" if size else "none", *(number(1000 * found.stalls[(*way, size)]) for way in WAYS)]
        for size in SIZES
    ]
    return page.table(head, rows)
