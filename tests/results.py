"""The results of long runs, a committed file for each part: a part that runs again replaces the part's file alone."""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.verdicts import Program, Verdict

ROOT = Path(__file__).parents[1]
_LONGEST = 400  # characters of evidence
_ABROAD = re.compile(
    r"(?<![\w.])(?:https?://)?(?!127\.0\.0\.1|localhost|192\.0\.2\.)[\w-]+(?:\.[\w-]+)+(?::\d+)?(?=/v2/|/library/)"
)
_PATHS = re.compile(r"(?<![\w.:/])/(?:tmp|root|home|work|var|opt|usr|srv|mnt|etc)(?:/[\w.@+-]+)+")
_DRAWN = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|[\u2800-\u28ff\x00-\x08\x0e-\x1f]")
"""What a program draws on a terminal: control sequences and spinners."""
_PORTS = re.compile(r"\b(127\.0\.0\.1|localhost):\d{2,5}\b")


@dataclass(frozen=True)
class Machine:
    """The machine of a run.

    Attributes:
        cores: the number of processors of the run.
        memory: the memory in GiB.
        kernel: the version of the kernel, such as 6.1.0; empty where the run did not note the kernel.
        acceleration: what does the work, such as "CPU only" or "KVM".
    """

    cores: int
    memory: int
    kernel: str
    acceleration: str

    def __str__(self) -> str:
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        return f"{self.cores} cores, {self.memory} GiB{kernel}, {self.acceleration}"


@dataclass
class Result:
    """The run of a part.

    Attributes:
        part: the name of the part.
        date: the day of the run, YYYY-MM-DD.
        commit: the commit of the run in short, and whether the tree had changes.
        machine: the machine of the run.
        seconds: how long the part took.
        note: sentences for the page, such as the programs that the part took along.
        programs: the programs in the run.
        verdicts: the verdicts, in the order of the run.
    """

    part: str
    date: str
    commit: str
    machine: Machine
    seconds: float = 0.0
    note: str = ""
    programs: list[Program] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the part passes: no verdict breaks the run, and a case was judged."""
        judged = any(verdict.verdict in {"holds", "listed"} for verdict in self.verdicts)
        return judged and not any(verdict.breaks for verdict in self.verdicts)

    def save(self, folder: Path) -> None:
        """Write the file of the part into a folder, with scrubbed evidence: the file is committed."""
        folder.mkdir(exist_ok=True)
        self.seconds = round(self.seconds, 1)
        self.verdicts = [replace(each, evidence=scrubbed(each.evidence)) for each in self.verdicts]
        partial = folder / f".{self.part}.partial"
        partial.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        partial.rename(folder / f"{self.part}.json")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure how long the part takes."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds = time.monotonic() - began


def begun(part: str, machine: Machine) -> Result:
    """Return the empty result of a part that begins now, on the commit of the tree."""
    return Result(part, f"{datetime.now(UTC):%Y-%m-%d}", commit(), machine)


def load(folder: Path, parts: Sequence[str]) -> list[Result]:
    """Return the results of a folder in the order of the parts, without the parts that never ran.

    Raises:
        ValueError: a file is no result; the text names the file.
    """
    return [_read(folder / f"{part}.json") for part in parts if (folder / f"{part}.json").exists()]


def _read(path: Path) -> Result:
    try:
        row: dict[str, Any] = json.loads(path.read_text())
        row["machine"] = Machine(**row["machine"])
        row["programs"] = [Program(**each) for each in row["programs"]]
        row["verdicts"] = [Verdict(**each) for each in row["verdicts"]]
        return Result(**row)
    except (ValueError, TypeError, KeyError) as error:
        advice = "run the part again, or take the file from git"
        raise ValueError(f"{path.relative_to(path.parents[2])} is no result of a part: {error}: {advice}") from error


def scrubbed(text: str) -> str:
    """Return a text as a single short line without folders, ports and registries of the machine."""
    text = _PATHS.sub("FOLDER", _ABROAD.sub("REGISTRY", _DRAWN.sub("", text)))
    text = " ".join(_PORTS.sub(r"\1:PORT", text).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def machine(acceleration: str) -> Machine:
    """Return this machine.

    Args:
        acceleration: what does the work of the run, in words for the page.
    """
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    version = re.match(r"[\d.]*\d", platform.release())
    return Machine(len(os.sched_getaffinity(0)), round(memory), version[0] if version else "", acceleration)


def commit(tree: Path = ROOT) -> str:
    """Return the short hash of the tree's commit; "with changes" follows where files differ from the commit."""
    known = _git(tree, "rev-parse", "--short", "HEAD")
    changed = _git(tree, "status", "--porcelain", "--untracked-files=no", "--", ":!docs", ":!tests/*/results")
    return f"{known or 'no commit'}{', with changes' if changed else ''}"


def _git(tree: Path, *words: str) -> str:
    safe = ["-c", f"safe.directory={tree}"]
    return subprocess.run(["git", *safe, *words], cwd=tree, capture_output=True, text=True, check=False).stdout.strip()
