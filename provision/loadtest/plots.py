"""The plots of a load test: matplotlib's SVG, to stand inside a page.

Matplotlib draws without a display, a network or a script, and is loaded when a page is written, not before.
"""

import io
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provision.loadtest.measure import overlap
from provision.loadtest.record import TIMEOUT, Record
from provision.loadtest.session import Result
from provision.loadtest.verdict import FIRST_TOKEN, QUEUED_ANSWERS, seconds
from provision.terminal_text import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOTS = 2000  # dots of a plot; more dots make a page slow and show nothing more
MOST_NAMES = 7  # instances with a colour and a place in the legend of their own
MOST_STEPS = 240  # parts of the time in which the throughput is counted
SIZE = (5.6, 3.1)  # inches: text stays readable on a telephone, and two plots fit beside each other on a screen
INK = "#010203"  # stands for the page's own colour of text, which depends on light and dark
COLOURS = ("#1f83c4", "#d9662b", "#2b9e6b", "#a06bd0", "#b0892b", "#d0538f", "#2aa3b5", "#808080")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text as text: small, and found by the reader's search
    "text.parse_math": False,  # a name with a dollar is no formula
    "figure.figsize": SIZE,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        title: the title.
        svg: the SVG element.
    """

    title: str
    svg: str


def plots(result: Result) -> list[Plot]:
    """The plots of a result; none without answers."""
    drawn: list[tuple[str, Callable[[Axes], None]]] = []
    if result.capacity and result.capacity.steps:
        drawn += [
            ("Tokens per second by users", lambda axes: _throughput_by_users(axes, result)),
            ("Time to first token by users", lambda axes: _first_token_by_users(axes, result)),
        ]
    records = [record for record in result.tally.records if record.wait is not None]
    if records:
        begin = min(record.at for record in records)
        drawn += [
            ("Time to first token", lambda axes: _first_tokens(axes, result, records, begin)),
            ("Answers with a first token within a time", lambda axes: _shares(axes, result, records)),
            ("Tokens per second of all streams", lambda axes: _throughput(axes, result, begin)),
        ]
    if any(record.queued is not None for record in records):
        drawn += [("Waiting in a queue", lambda axes: _queues(axes, result, records, begin))]
    return [_drawn(f"plot{number}", title, draw) for number, (title, draw) in enumerate(drawn, 1)]


def _drawn(name: str, title: str, draw: "Callable[[Axes], None]") -> Plot:
    """Draw in a style of ours, whatever the operator's configuration of matplotlib says."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # the first plot on a machine would tell of its fonts
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        figure = Figure()
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return Plot(title, _inline(out.getvalue(), name, title))


def _inline(text: str, name: str, title: str) -> str:
    """A file of SVG as an element of a page: without head and metadata, in the page's colour, with ids of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return text.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _first_tokens(axes: "Axes", result: Result, records: Sequence[Record], begin: float) -> None:
    """A dot for every request, at its start; a cross for a request that timed out."""
    for label, colour, own in _named(result, records):
        good = [record for record in own if record.problem != TIMEOUT]
        late = [record for record in own if record.problem == TIMEOUT]
        _dots(axes, good, begin, "o", colour, label)
        _dots(axes, late, begin, "x", colour, f"{label}, timed out")
    _target(axes, result, FIRST_TOKEN)
    _labelled(axes, "start of the request (s)", "time to first token (s)")


def _dots(axes: "Axes", records: Sequence[Record], begin: float, mark: str, colour: str, label: str) -> None:
    kept = records[:: math.ceil(len(records) / MOST_DOTS)] if records else []
    if kept:
        axes.plot(
            [record.at - begin for record in kept],
            [record.wait or 0.0 for record in kept],
            mark,
            color=colour,
            markersize=4,
            alpha=0.8,
            label=label,
        )


def _named(result: Result, records: Sequence[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    """The records of each instance with its label and colour; the last label is for all instances without a colour."""
    names = [name for name in result.figures.instances if any(record.instance == name for record in records)]
    alone = names if len(names) <= MOST_NAMES + 1 else names[:MOST_NAMES]
    for name, colour in zip(alone, COLOURS, strict=False):
        # matplotlib leaves labels that begin with an underscore out of the legend
        yield f" {line(name, 28)}", colour, [record for record in records if record.instance == name]
    rest = set(names) - set(alone)
    if rest:
        yield f"{len(rest)} other instances", COLOURS[-1], [record for record in records if record.instance in rest]


def _shares(axes: "Axes", result: Result, records: Sequence[Record]) -> None:
    """The share of the answers that began within a time: true for nine answers as for nine thousand."""
    values = sorted(max(0.001, record.wait or 0.0) for record in records)
    kept = _thinned(values)
    axes.step(
        [value for _, value in kept], [share for share, _ in kept], where="post", color=COLOURS[0], label="answers"
    )
    axes.axhline(95, color=COLOURS[3], linestyle=":", label="95 %")
    _target(axes, result, FIRST_TOKEN, upright=True)
    axes.set_xscale("log")
    _in_seconds(axes)
    axes.set_ylim(0, 103)
    _labelled(axes, "time to first token (steps of the logarithm)", "answers (%)")


def _thinned(values: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs of a share in per cent and the value that this share of sorted values does not exceed."""
    every = max(1, math.ceil(len(values) / MOST_DOTS))
    places = sorted({*range(0, len(values), every), len(values) - 1})
    return [(0.0, values[0]), *((100 * (place + 1) / len(values), values[place]) for place in places)]


def _in_seconds(axes: "Axes") -> None:
    """Ticks of a logarithmic axis as times with their unit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _throughput(axes: "Axes", result: Result, begin: float) -> None:
    good = [record for record in result.tally.records if not record.problem and record.ttft is not None]
    length = max(1.0, result.figures.seconds)
    part = max(1.0, length / MOST_STEPS)
    parts = math.ceil(length / part)
    heights = [0.0] * parts
    for record in good:
        first, last = int((record.at - begin) / part), int((record.end - begin) / part)
        for number in range(max(0, first), min(parts, last + 1)):
            heights[number] += overlap(record, begin + number * part, begin + (number + 1) * part) / part
    axes.step([number * part for number in range(parts)], heights, where="post", color=COLOURS[0], label="all streams")
    mean = result.figures.overall.tokens_per_second
    axes.axhline(mean, color=COLOURS[3], linestyle=":", label=f"mean: {mean:.1f} tokens/s")
    axes.set_ylim(bottom=0)
    _labelled(axes, "time (s)", "tokens per second")


def _queues(axes: "Axes", result: Result, records: Sequence[Record], begin: float) -> None:
    known = [record for record in records if record.queued is not None]
    kept = known[:: math.ceil(len(known) / MOST_DOTS)]
    places = [(record.at - begin, record.queued or 0.0) for record in kept]
    share = next((target.measured for target in result.verdicts if target.name == QUEUED_ANSWERS), "")
    label = f"answers; queued: {share}" if share else "answers"
    axes.plot(
        [x for x, _ in places], [y for _, y in places], "o", color=COLOURS[1], markersize=4, alpha=0.8, label=label
    )
    axes.set_ylim(bottom=0)
    _labelled(axes, "start of the request (s)", "waiting in a queue (s)")


def _throughput_by_users(axes: "Axes", result: Result) -> None:
    """Tokens per second of every step, and the knee."""
    capacity = result.capacity
    steps = capacity.steps if capacity else ()
    speeds = [step.tokens_per_second for step in steps]
    axes.plot([step.users for step in steps], speeds, "-", color=COLOURS[0], label="all streams")
    _marks(axes, result, speeds)
    if capacity and capacity.knee:
        axes.axvline(capacity.knee.users, color=COLOURS[3], linestyle=":", label=f"knee: {capacity.knee.users} users")
    axes.set_ylim(bottom=0)
    _labelled(axes, "users", "tokens per second")


def _first_token_by_users(axes: "Axes", result: Result) -> None:
    steps = [step for step in (result.capacity.steps if result.capacity else ()) if step.figures.overall.ttft.p95]
    values = [step.figures.overall.ttft.p95 or 0.0 for step in steps]
    axes.plot([step.users for step in steps], values, "-", color=COLOURS[0], label="p95")
    _target(axes, result, FIRST_TOKEN)
    axes.set_ylim(bottom=0)
    _labelled(axes, "users", "time to first token, p95 (s)")


def _marks(axes: "Axes", result: Result, heights: Sequence[float]) -> None:
    """A dot for a step that reached every target, a cross for a step that missed one."""
    steps = result.capacity.steps if result.capacity else ()
    for holds, mark, label in ((True, "o", "reached every target"), (False, "x", "missed a target")):
        own = [(step.users, height) for step, height in zip(steps, heights, strict=True) if step.holds == holds]
        if own:
            axes.plot([x for x, _ in own], [y for _, y in own], mark, color=COLOURS[2 if holds else 1], label=label)


def _target(axes: "Axes", result: Result, name: str, *, upright: bool = False) -> None:
    """A line at a target in seconds."""
    steps = result.capacity.steps if result.capacity else ()
    judged = itertools.chain(result.verdicts, *(step.verdicts for step in steps))
    bound = next((target.bound for target in judged if target.name == name), None)
    if bound is not None:
        draw = axes.axvline if upright else axes.axhline
        draw(bound, color=COLOURS[1], linestyle="--", label=f"target: {seconds(bound)}")


def _labelled(axes: "Axes", across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
