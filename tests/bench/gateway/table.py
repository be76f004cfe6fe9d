"""The figures as Markdown: a row for each figure, with the standing of ours beside LiteLLM, and the goals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench import page
from tests.bench.gateway.places import DIRECT, LITELLM, OURS, PLAIN

COLUMNS = (DIRECT, PLAIN, OURS, LITELLM)
AHEAD, EVEN, BEHIND = "ahead", "even", "**behind**"
_ONE, _TEN, _HUNDRED = 1.0, 10.0, 100.0


@dataclass(frozen=True)
class Row:
    """A figure of every way.

    Args:
        title: the figure, with its unit.
        figures: name of a way -> the figure.
        more: whether a greater figure is the better figure.
        notes: name of a way -> further words.
    """

    title: str
    figures: Mapping[str, float]
    more: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def standing(self) -> str:
        """The standing of ours beside LiteLLM; empty where nobody has measured. Who has not a single good answer is
        behind."""
        if OURS not in self.figures or LITELLM not in self.figures:
            return ""
        ours, others = self.figures[OURS], self.figures[LITELLM]
        if ours == others or (math.isnan(ours) and math.isnan(others)):
            return EVEN
        if math.isnan(ours) or math.isnan(others):
            return BEHIND if math.isnan(ours) else AHEAD
        return AHEAD if (ours > others) == self.more else BEHIND

    def cell(self, name: str) -> str:
        """Return the figure of a way with its words.

        Args:
            name: name of the way.
        """
        figure = number(self.figures[name]) if name in self.figures else "-"
        return f"{figure} ({self.notes[name]})" if self.notes.get(name) else figure


def number(value: float) -> str:
    """Return a number with as many digits as mean something.

    Args:
        value: the number.
    """
    if math.isnan(value):
        return "-"
    if value == int(value):
        return f"{int(value):,}"
    size = abs(value)
    digits = 3 if size < _ONE / 10 else 2 if size < _TEN else 1 if size < _HUNDRED else 0
    return f"{value:,.{digits}f}"


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that a share of the values does not exceed; not a number without values.

    Args:
        values: the values.
        share: from 0 to 1.
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def compared(rows: Sequence[Row]) -> str:
    """Return the table of all ways.

    Args:
        rows: the figures.
    """
    cells = [[row.title, *map(row.cell, COLUMNS), row.standing] for row in rows]
    return page.table(["", *COLUMNS, "ours to LiteLLM"], cells)


@dataclass(frozen=True)
class Goal:
    """A goal.

    Args:
        text: the goal.
        measured: the measurement in words.
        met: whether the goal is met; None where the bench has not measured.
    """

    text: str
    measured: str
    met: bool | None


def at_most(text: str, figure: float | None, limit: float, unit: str) -> Goal:
    """Return a goal for a figure that must not be greater than a limit.

    Args:
        text: the goal.
        figure: the figure; None where it is missing.
        limit: the limit.
        unit: unit of the figure.
    """
    if figure is None:
        return Goal(text, "not measured", None)
    return Goal(text, f"{number(figure)} {unit}", figure <= limit)


def ahead(rows: Sequence[Row]) -> Goal:
    """Return the goal to be ahead of LiteLLM in every row. A row where both have the same figure is even.

    Args:
        rows: the figures.
    """
    text = "ahead of LiteLLM in every row"
    by: dict[str, list[str]] = {AHEAD: [], EVEN: [], BEHIND: []}
    for row in rows:
        if row.standing:
            by[row.standing].append(row.title)
    if not any(by.values()):
        return Goal(text, "not measured", None)
    words = f"ahead in {len(by[AHEAD])} rows, even in {len(by[EVEN])}, behind in {len(by[BEHIND])}"
    behind = f": {'; '.join(by[BEHIND])}" if by[BEHIND] else ""
    return Goal(text, words + behind, not by[BEHIND])


def goals(reached: Sequence[Goal]) -> str:
    """Return the table of the goals.

    Args:
        reached: the goals.
    """
    words = {True: "met", False: "**lost**", None: "-"}
    return page.table(["goal", "measured", ""], [[goal.text, goal.measured, words[goal.met]] for goal in reached])
