"""Write the page of a run of `make test-real`: the verdicts on real programs, case by case."""

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.contract.ollama import cases
from tests.contract.ollama.targets import RECORDED
from tests.real.verdicts import Program, Session, Verdict

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "real.md"
WORDS = ("holds", "listed", "differs", "failed", "not run")
_MEANING = """\
**holds**: the program did what the case says. **listed**: the program differs, and
`tests/contract/ollama/differences.yaml` gives the reason. **differs**: the program differs, and no reason is listed.
**failed**: the case has no verdict, because a step before the case broke. **not run**: the run left the case out, and
says why."""
_EVIDENCE = 400

_ABROAD = re.compile(
    r"\b(?:https?://)?(?!127\.0\.0\.1|localhost|192\.0\.2\.)[\w-]+(?:\.[\w-]+)+(?::\d+)?(?=/v2/|/library/)"
)
_PATHS = re.compile(r"(?<![\w.:/])/(?:tmp|root|home|work|var|opt|usr|srv|mnt|etc)(?:/[\w.@+-]+)+")
_DRAWN = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|[\u2800-\u28ff\x00-\x08\x0e-\x1f]")
"""What a program draws on a terminal: control sequences and spinners."""
_PORTS = re.compile(r"\b(127\.0\.0\.1|localhost):\d{2,5}\b")


def write(session: Session, path: Path = PAGE) -> None:
    """Write the page of a run."""
    path.write_text(render(session))


def render(session: Session) -> str:
    """Return the page of a run, in Markdown."""
    parts = [
        "# Against the real Ollama",
        _opening(session),
        "## Summary",
        _summary(session),
        _MEANING,
        *_broken(session),
        "## What only a recording backs",
        _recorded(session),
        "## Every case",
        *(text for group in _groups(session.verdicts) for text in _group(group, session)),
        "## Durations",
        _durations(session),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(session: Session) -> str:
    seconds = sum(session.seconds.values())
    return (
        f"`make test-real` wrote this page on {session.date}, on a machine with {session.machine}, "
        f"in {_clock(seconds)}. The programs of the summary are real. A CPU did all the work of the models: "
        "this page proves nothing about GPUs. A card or a container in a case is simulated, and the page says so."
    )


def _summary(session: Session) -> str:
    rows = [_row("program", "version", "how installed", *WORDS), _row(*["---"] * 3, *["---:"] * len(WORDS))]
    for program in session.programs:
        own = _counts(
            each for each in session.verdicts if (each.program, each.version) == (program.name, program.version)
        )
        rows.append(
            _row(program.name, program.version, _clean(program.installed), *(own[word] or "" for word in WORDS))
        )
    total = _counts(session.verdicts)
    rows.append(_row("in all", "", "", *(total[word] or "" for word in WORDS)))
    return "\n".join(rows)


def _broken(session: Session) -> list[str]:
    """Return a section with the verdicts that fail the run, or no section."""
    bad = [each for each in session.verdicts if each.breaks]
    if not bad:
        return []
    lines = [
        f"* {each.group}: {_clean(each.case)} ({_name(each)}): {each.verdict}: {_clean(each.evidence)}" for each in bad
    ]
    return ["## What fails this run", "\n".join(lines)]


def _recorded(session: Session) -> str:
    newest = RECORDED[0]
    live = {(each.group, each.case): each for each in session.verdicts if each.program == "Ollama"}
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


def _groups(verdicts: Iterable[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.group for each in verdicts))


def _group(group: str, session: Session) -> list[str]:
    own = [each for each in session.verdicts if each.group == group]
    counts = _counts(own)
    said = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])
    rows = [_row("case", "program", "verdict", "evidence", "seconds"), _row("---", "---", "---", "---", "---:")]
    rows += [
        _row(_clean(each.case), _name(each), each.verdict, _clean(each.evidence), f"{each.seconds:.1f}") for each in own
    ]
    return [f"### {group}: {said}", *_about(group), "\n".join(rows)]


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


def _durations(session: Session) -> str:
    rows = [_row("part", "time"), _row("---", "---:")]
    return "\n".join(rows + [_row(part, _clock(seconds)) for part, seconds in session.seconds.items()])


def _name(verdict: Verdict | Program) -> str:
    name = verdict.program if isinstance(verdict, Verdict) else verdict.name
    return f"{name} {verdict.version}".strip()


def _counts(verdicts: Iterable[Verdict]) -> Counter[str]:
    return Counter(each.verdict for each in verdicts)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _clean(text: str) -> str:
    """Return a text for a cell: a single short line without folders, ports and registries of the machine."""
    text = _DRAWN.sub("", text)
    text = _PORTS.sub(r"\1:PORT", _PATHS.sub("FOLDER", _ABROAD.sub("REGISTRY", text)))
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= _EVIDENCE else f"{text[:_EVIDENCE]} ..."


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
