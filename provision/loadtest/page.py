"""A load test as a page: one file, without a script, and without anything from a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provision.loadtest import files
from provision.loadtest.about import About
from provision.loadtest.measure import Figures, Spread
from provision.loadtest.plots import plots
from provision.loadtest.session import Result
from provision.loadtest.text import RELIEF, answer, basis, counted, examples
from provision.loadtest.verdict import kinds, percent, seconds, speed, waiting
from provision.render import render
from provision.terminal_text import line

POINTS = ("p50", "p95", "p99")
NONE = "-"  # a cell without a figure


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: the heading.
        group: the heading over several columns; empty for a column of its own.
        text: whether the column has text, and no numbers.
    """

    name: str
    group: str = ""
    text: bool = False

    @property
    def whole(self) -> str:
        """The heading with its group, for a narrow screen."""
        return f"{self.group} {self.name}".strip()


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: the title.
        columns: the columns.
        rows: the cells of each row.
        note: a sentence below the table; may be empty.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    note: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headings over columns, with the number of their columns."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and column.group and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def write(path: str, result: Result, about: About) -> None:
    """Write the page.

    Args:
        path: the file; its content is replaced.
        result: the result to show.
        about: the circumstances of the test.

    Raises:
        ProvisionError: the file cannot be written.
    """
    word, reason = outcome(result)
    page = render(
        "loadtest/report.html.j2",
        model=line(result.load.profile.model, 100),
        word=word,
        reason=reason,
        good=result.exit_code == 0,
        facts=[(name, line(value, 2000) or NONE) for name, value in facts(result, about)],
        command=about.command,
        notes=[line(note, 300) for note in (*about.notes, *(f"look at: {finding}" for finding in result.findings))],
        simulated=about.simulated,
        tables=[_safe(table) for table in tables(result, about)],
        plots=plots(result),
    )
    files.put(path, page)


def _safe(table: Table) -> Table:
    rows = [[line(cell, 200).strip() or NONE for cell in row] for row in table.rows]
    return Table(table.title, table.columns, rows, table.note)


def outcome(result: Result) -> tuple[str, str]:
    """The result in a word, and its reason in a sentence."""
    if result.ended.why:
        return "ENDED EARLY", line(result.ended.why, 200)
    if result.capacity:
        held = result.capacity.holds
        return ("HOLDS", counted(held.users, "user")) if held else ("FAIL", "the endpoint does not hold a single user")
    if result.overload:
        return "OVERLOADED", f"{result.overload}. {RELIEF}."
    missed = [target.name for target in result.verdicts if not target.passed]
    return ("FAIL", f"missed: {', '.join(missed)}") if missed else ("PASS", "every target was reached")


def facts(result: Result, about: About) -> Iterator[tuple[str, str]]:
    """The circumstances of a test: a name and a value."""
    load = result.load
    yield "Date", about.date
    yield "Endpoint", ", ".join(load.targets)
    yield "Model", load.profile.model
    yield "Requests", f"{load.profile.name}, answers of at most {load.profile.max_tokens} tokens"
    step = " (the last step)" if result.capacity else ""
    yield "Load", f"{counted(load.users, 'user')}{step}, {result.figures.seconds:.0f} s, timeout {load.timeout:g} s"
    yield "Versions", f"provision {about.provision}, Locust {about.locust}, Ollama {about.server}"
    yield "Fleet", _fleet(about)
    yield "Simulated", "the model server and its cards, by the provision lab" if about.simulated else "nothing"


def _fleet(about: About) -> str:
    if not about.members:
        return "unknown: the test ran without an inventory"
    hosts = counted(len({member.name.rpartition("/")[0] for member in about.members}), "host")
    instances = f"{counted(len(about.members), 'instance')} on {hosts}"
    if not all(member.parallel for member in about.members):
        return f"{instances}, answers at once by the estimate of each host"
    return f"{instances}, {counted(sum(member.parallel for member in about.members), 'answer')} at once"


def tables(result: Result, about: About) -> Iterator[Table]:
    """The tables of a page."""
    if result.verdicts and not result.capacity:
        yield _verdicts(result)
    if result.capacity:
        yield _steps(result)
    if result.sizing:
        yield _sizes(result)
    if result.tally.count:
        yield _requests(result)
        yield _speeds(result)
    if result.figures.overall.kinds:
        yield _failures(result)
    if about.members:
        yield _members(about)


def _verdicts(result: Result) -> Table:
    rows = [
        (target.name, target.limit, target.measured, "pass" if target.passed else "FAIL") for target in result.verdicts
    ]
    return Table("Targets", [Column(name, text=True) for name in ("target", "demanded", "measured", "result")], rows)


def _steps(result: Result) -> Table:
    columns = [
        Column("users"),
        Column("tokens/s"),
        Column("first token p95"),
        Column("queued"),
        Column("failed"),
        Column("result", text=True),
    ]
    rows = []
    for step in result.capacity.steps if result.capacity else ():
        every = step.figures.overall
        missed = ", ".join(f"{target.name}: {target.measured}" for target in step.verdicts if not target.passed)
        figures = (seconds(every.ttft.p95), _queued(every), percent(every.fail_share))
        rows.append((str(step.users), f"{step.tokens_per_second:.1f}", *figures, missed or "holds"))
    return Table("Steps", columns, rows, " ".join(answer(result.capacity)) if result.capacity else "")


def _sizes(result: Result) -> Table:
    sizing = result.sizing
    most = "at most " if sizing and not sizing.limited else ""
    rows = [(str(users), f"{most}{instances}") for users, instances in (sizing.needs if sizing else ())]
    unit = "instances" if sizing and sizing.instances else "endpoints as this one"
    return Table("Users and instances", [Column("users"), Column(unit)], rows, basis(sizing) if sizing else "")


def _rows(result: Result) -> list[tuple[str, Figures]]:
    return [*result.figures.instances.items(), ("all", result.figures.overall)]


def _requests(result: Result) -> Table:
    columns = [
        Column("instance", text=True),
        Column("share"),
        Column("requests"),
        Column("failed"),
        *(Column(point, "first token") for point in POINTS),
        Column("answers", "waiting in a queue"),
        *(Column(point, "waiting in a queue") for point in POINTS),
    ]
    rows = [
        (
            name,
            percent(own.share),
            str(own.requests),
            str(own.failed),
            *_times(own.ttft),
            _queued(own),
            *_times(own.queued),
        )
        for name, own in _rows(result)
    ]
    notes = []
    every = result.figures
    if every.overall.waited is not None:
        notes.append(f"{waiting(every)} answers with figures of the server waited in a queue.")
    if every.retried:
        notes.append(f"A second instance answered {counted(every.retried, 'request')}.")
    if every.skew is not None:
        notes.append(f"Skew: {percent(every.skew)}.")
    return Table("Requests of each instance", columns, rows, " ".join(notes))


def _queued(own: Figures) -> str:
    return NONE if own.queued_share is None else f"{own.waited} ({percent(own.queued_share)})"


def _speeds(result: Result) -> Table:
    columns = [
        Column("instance", text=True),
        *(Column(point, "between tokens") for point in POINTS),
        *(Column(point, "tokens/s of a stream") for point in POINTS),
        Column("of all", "tokens/s"),
        *(Column(point, "whole answer") for point in POINTS),
    ]
    rows = [
        (
            name,
            *_times(own.gap),
            *(speed(value) for value in (own.rate.p50, own.rate.p95, own.rate.p99)),
            f"{own.tokens_per_second:.1f}",
            *_times(own.total),
        )
        for name, own in _rows(result)
    ]
    return Table("Speed of each instance", columns, rows, "95 % of the streams were at least as fast as p95.")


def _times(spread: Spread) -> tuple[str, str, str]:
    return seconds(spread.p50), seconds(spread.p95), seconds(spread.p99)


def _failures(result: Result) -> Table:
    told = dict(examples(result.tally))
    counts = result.figures.overall.kinds
    rows = [(kind, str(count), told.get(kind, NONE)) for kind, count in counts.items()]
    columns = [Column("failure", text=True), Column("requests"), Column("one example", text=True)]
    return Table("Failures", columns, rows, f"Failed: {kinds(counts)}.")


def _members(about: About) -> Table:
    names = ("instance", "cards", "answers at once", "weight", "models")
    columns = [Column(name, text=name in ("instance", "cards", "models")) for name in names]
    rows = [
        (
            member.name,
            ", ".join(map(str, member.cards)),
            str(member.parallel or "auto"),
            str(member.weight),
            ", ".join(member.models),
        )
        for member in about.members
    ]
    return Table("Fleet", columns, rows, "As the inventory declares the instances.")
