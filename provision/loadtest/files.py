"""The files of a load test: every request as CSV, and a page with plots that needs no network."""

import csv
import errno
import io
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ProvisionError, UsageError
from provision.loadtest.measure import Tally, histogram, overlap
from provision.loadtest.record import Record
from provision.loadtest.session import Result
from provision.loadtest.verdict import percent, seconds, speed
from provision.render import render
from provision.terminal_text import line

COLUMNS = (
    "at",
    "target",
    "instance",
    "status",
    "problem",
    "detail",
    "ttft",
    "total",
    "tokens",
    "rate",
    "queued",
    "retried",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a cell that a spreadsheet would run
MOST_DOTS = 5000  # dots in a plot; more dots make a page slow and show nothing more
BINS = 40


def check(*paths: str) -> None:
    """Make sure that files can be written: before the load, not after it.

    Raises:
        UsageError: a file cannot be written, or two paths are the same file.
    """
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError("two reports cannot be written to the same file")
    for path in paths:
        try:
            if Path(path).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=Path(path).parent):
                pass
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def _put(path: str, data: bytes) -> None:
    """Write a file: all of it, or the old content stays.

    Raises:
        ProvisionError: the file cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ProvisionError(f"{path} cannot be written: {error.strerror or error}") from error


def write_csv(path: str, tally: Tally) -> None:
    """Write a line per request. Times are seconds.

    Args:
        path: the file; its content is replaced.
        tally: the requests.

    Raises:
        ProvisionError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for record in tally.records:
        writer.writerow([_cell(getattr(record, column)) for column in COLUMNS])
    _put(path, text.getvalue().encode())


def _cell(value: object) -> object:
    """A value that is safe for a spreadsheet: a server's text must not become a formula."""
    if not isinstance(value, str):
        return value
    text = line(value, 300)
    return f"'{text}" if text.startswith(FORMULA) else text


@dataclass(frozen=True)
class Plot:
    """A plot of dots or bars, in units of its own.

    Args:
        title: the title.
        unit: unit of the upright axis.
        kind: `dots`, `line` or `bars`.
        points: (place to the right, height, number of the colour).
        width: greatest place to the right.
        height: greatest height.
        low: text at the left end.
        high: text at the right end.
    """

    title: str
    unit: str
    kind: str
    points: Sequence[tuple[float, float, int]]
    width: float
    height: float
    low: str
    high: str


def write_page(path: str, result: Result) -> None:
    """Write the page.

    Args:
        path: the file; its content is replaced.
        result: the result to show.

    Raises:
        ProvisionError: the file cannot be written.
    """
    page = render(
        "loadtest/report.html.j2",
        result=result,
        load=result.load,
        rows=[*result.figures.instances.items(), ("all", result.figures.overall)],
        plots=plots(result),
        seconds=seconds,
        percent=percent,
        speed=speed,
    )
    _put(path, page)


def plots(result: Result) -> list[Plot]:
    """The plots of a result; none without answers."""
    good = [record for record in result.tally.records if not record.problem and record.ttft is not None]
    if not good:
        return []
    begin, length = min(record.at for record in good), max(1.0, result.figures.seconds)
    numbers = {name: number for number, name in enumerate(result.figures.instances)}
    drawn = [_capacity(result)] if result.capacity and result.capacity.steps else []
    drawn += [_first_tokens(good, begin, length, numbers), _throughput(good, begin, length), _histogram(good)]
    return drawn


def _first_tokens(good: Sequence[Record], begin: float, length: float, numbers: dict[str, int]) -> Plot:
    every = good[:: math.ceil(len(good) / MOST_DOTS)]
    points = [(record.at - begin, record.ttft or 0.0, numbers.get(record.instance, 0)) for record in every]
    height = max(point[1] for point in points)
    return Plot("Time to first token", "s", "dots", points, length, height, "0 s", f"{length:.0f} s")


def _throughput(good: Sequence[Record], begin: float, length: float) -> Plot:
    """Tokens per second of all streams, second by second (in 240 parts for a long run)."""
    part = max(1.0, length / 240)
    heights = [0.0] * (math.ceil(length / part) + 1)
    for record in good:
        first = int((record.at - begin) / part)
        for number in range(max(0, first), min(len(heights), int((record.end - begin) / part) + 1)):
            heights[number] += overlap(record, begin + number * part, begin + (number + 1) * part) / part
    points = [(number * part, height, 0) for number, height in enumerate(heights)]
    return Plot("Tokens per second", "", "line", points, length, max(heights), "0 s", f"{length:.0f} s")


def _histogram(good: Sequence[Record]) -> Plot:
    values = [record.ttft for record in good if record.ttft]
    low, high = (min(values), max(*values, min(values) * 1.1)) if values else (0.001, 1.0)
    counts = histogram(values, low, high, BINS)
    points = [(float(number), float(count), 0) for number, count in enumerate(counts)]
    title = "Time to first token: how many answers (steps of the logarithm)"
    return Plot(title, "", "bars", points, BINS, max(counts), seconds(low), seconds(high))


def _capacity(result: Result) -> Plot:
    steps = result.capacity.steps if result.capacity else ()
    points = [(float(step.users), step.tokens_per_second, 0) for step in steps]
    most = max(step.users for step in steps)
    height = max(step.tokens_per_second for step in steps)
    return Plot("Tokens per second by users", "", "line", points, most, height, "0 users", f"{most} users")
