"""Write the page of `make test-real` from the results of all parts: the verdicts on real programs, case by case."""

import ast
import itertools
from collections.abc import Sequence
from pathlib import Path

from tests import verdict_page
from tests.contract.ollama import cases
from tests.contract.ollama.targets import RECORDED
from tests.results import Result
from tests.verdict_page import WORDS, clean, counts, row
from tests.verdicts import Program, Verdict

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "real.md"
_OPENING = """\
`make test-real` runs real programs, keeps the verdicts of each part in `tests/real/results/`, and writes this page from
these files. `make test-real PARTS="contract clients"` runs some parts again, and the other parts keep their verdicts.
The programs of the summary are real. A CPU did all the work of the models: this page proves nothing about GPUs. A card
or a container in a case is simulated, and the page says so."""
_MEANING = """\
**holds**: the program did what the case says. **listed**: the program differs, and
`tests/contract/ollama/differences.yaml` gives the reason. **differs**: the program differs, and no reason is listed.
**failed**: the case has no verdict, because a step before the case broke. **not run**: the run left the case out, and
says why."""


def write(results: Sequence[Result], parts: Sequence[str], path: Path = PAGE) -> None:
    """Write the page of the results."""
    path.write_text(render(results, parts))


def render(results: Sequence[Result], parts: Sequence[str]) -> str:
    """Return the page of the results, in Markdown.

    Args:
        results: the results of the parts that ran.
        parts: all parts, in the order of the page.
    """
    verdicts = [verdict for result in results for verdict in result.verdicts]
    notes = {group: result.note for result in results for group in verdict_page.groups(result.verdicts)}
    sections = [
        "# Against the real Ollama",
        _OPENING,
        verdict_page.runs(results, parts, "make test-real"),
        "## Summary",
        _summary(results, verdicts),
        _MEANING,
        *verdict_page.broken(results),
        "## What only a recording backs",
        _recorded(verdicts),
        "## Every case",
    ]
    for group in verdict_page.groups(verdicts):
        sections += verdict_page.group(group, verdicts, filter(None, [*_about(group), notes[group]]))
    return "\n\n".join(sections) + "\n"


def _programs(results: Sequence[Result]) -> list[Program]:
    """The programs of all parts, each version once, with the words of the last part."""
    known = {(program.name, program.version): program for result in results for program in result.programs}
    return list(known.values())


def _summary(results: Sequence[Result], verdicts: Sequence[Verdict]) -> str:
    rows = [row("program", "version", "how installed", *WORDS), row(*["---"] * 3, *["---:"] * len(WORDS))]
    for program in _programs(results):
        own = counts(each for each in verdicts if (each.program, each.version) == (program.name, program.version))
        rows.append(row(program.name, program.version, clean(program.installed), *(own[word] or "" for word in WORDS)))
    total = counts(verdicts)
    rows.append(row("in all", "", "", *(total[word] or "" for word in WORDS)))
    return "\n".join(rows)


def _recorded(verdicts: Sequence[Verdict]) -> str:
    newest = RECORDED[0]
    live = {(each.group, each.case): each for each in verdicts if each.program == "Ollama"}
    other, unasked, alone = [], [], []
    for case in cases.load():
        verdict = live.get((case.group, case.name))
        judged = verdict is not None and verdict.verdict in {"holds", "listed", "differs"}
        if judged and verdict is not None and case.expected(verdict.version) != case.expected(newest):
            other.append(case)
        elif not judged:
            (unasked if case.recorded else alone).append(case)
    opening = (
        f"The simulator of the lab is held to Ollama {newest}. A live server of that version was recorded on "
        f"2026-11-29; this run has none. So the recording alone backs the answers of {newest} in these cases:"
    )
    lines = [
        opening,
        "",
        f"* The live server answers otherwise, as an older version may ({len(other)}): {_listed(other)}.",
        f"* The live server gave no verdict ({len(unasked)}): {_listed(unasked)}.",
        "",
        f"Without a recording and without a verdict of a live server ({len(alone)}): {_listed(alone)}.",
    ]
    return "\n".join(lines)


def _listed(found: list[cases.Case]) -> str:
    return ", ".join(f"`{case.name}`" for case in found) or "none"


def _about(group: str) -> list[str]:
    """Return the subject of a group: the first comment of a file of the contract, or the tests' docstring."""
    if group in cases.GROUPS:
        path = cases.FOLDER / f"{group}.yaml"
        lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        about = " ".join(line.removeprefix("#").strip() for line in lines)
        return [f"{about} Requests and facts: `tests/contract/ollama/{path.name}`."]
    path = FOLDER / f"test_{group.replace(' ', '_')}.py"
    about = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split()) if path.exists() else ""
    return [f"{about} The cases: `tests/real/{path.name}`."] if about else []
