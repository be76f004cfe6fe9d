"""The parts that pages of verdicts share: tables, headings, and texts that are clean enough for a page."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.results import Result, scrubbed
from tests.verdicts import Program, Verdict

WORDS = ("holds", "listed", "differs", "failed", "not run")


def runs(results: Iterable[Result], parts: Sequence[str], command: str) -> str:
    """Return a table with the run of each part: day, commit, machine, time and verdicts.

    Args:
        results: the results of the parts that ran.
        parts: all parts, in the order of the table.
        command: the command that runs a part, such as `make test-real`.
    """
    ran = {result.part: result for result in results}
    rows = [row("part", "date", "commit", "machine", "time", "cases"), row(*["---"] * 4, "---:", "---")]
    for part in parts:
        if part in ran:
            run = ran[part]
            rows.append(row(part, run.date, run.commit, run.machine, clock(run.seconds), counted(run.verdicts)))
        else:
            rows.append(row(part, f"not run: `{command} PARTS={part}` was not typed yet", *[""] * 4))
    return "\n".join(rows)


def broken(results: Iterable[Result]) -> list[str]:
    """Return a section with the verdicts that fail a part, or no section."""
    bad = [verdict for result in results for verdict in result.verdicts if verdict.breaks]
    if not bad:
        return []
    lines = [
        f"* {each.group}: {clean(each.case)} ({named(each)}): {each.verdict}: {clean(each.evidence)}" for each in bad
    ]
    return ["## What fails", "\n".join(lines)]


def group(name: str, verdicts: Iterable[Verdict], about: Iterable[str] = ()) -> list[str]:
    """Return heading, texts and table of the cases of a group.

    Args:
        name: the name of the group.
        verdicts: the verdicts of all groups.
        about: paragraphs below the heading.
    """
    own = [each for each in verdicts if each.group == name]
    rows = [row("case", "program", "verdict", "evidence", "seconds"), row("---", "---", "---", "---", "---:")]
    rows += [
        row(clean(each.case), named(each), each.verdict, clean(each.evidence), f"{each.seconds:.1f}") for each in own
    ]
    return [f"### {name}: {counted(own)}", *about, "\n".join(rows)]


def groups(verdicts: Iterable[Verdict]) -> list[str]:
    """Return the names of the groups in their order."""
    return list(dict.fromkeys(each.group for each in verdicts))


def counts(verdicts: Iterable[Verdict]) -> Counter[str]:
    """Return how often each verdict stands in a list."""
    return Counter(each.verdict for each in verdicts)


def counted(verdicts: Iterable[Verdict]) -> str:
    """Return the numbers of a list in words: `3 holds, 1 failed`."""
    number = counts(verdicts)
    return ", ".join(f"{number[word]} {word}" for word in WORDS if number[word])


def named(known: Verdict | Program) -> str:
    """Return name and version of a program."""
    name = known.program if isinstance(known, Verdict) else known.name
    return f"{name} {known.version}".strip()


def row(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def clean(text: str) -> str:
    """Return a text for a cell: short, without places of the machine, and without a sign that ends the cell."""
    return scrubbed(text).replace("|", "\\|").replace("<", "&lt;")


def clock(seconds: float) -> str:
    """Return a time in seconds below two minutes, else in minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
