"""Verdicts on real programs: `python -m tests.real` collects the verdicts, and a page prints the list."""

from dataclasses import dataclass, field
from typing import Literal

Word = Literal["holds", "differs", "listed", "failed", "not run"]
"""`listed`: a difference with a reason in differences.yaml. `failed`: no verdict, because something broke before."""


@dataclass(frozen=True)
class Program:
    """A real program of the run.

    Attributes:
        name: the name, for example Ollama.
        version: the version in the words of the program.
        installed: the source, for example "Go module github.com/ollama/ollama, built here".
    """

    name: str
    version: str
    installed: str


@dataclass(frozen=True)
class Verdict:
    """The end of a case.

    Attributes:
        program: the name of the judged program.
        version: the version of the program.
        group: the group of cases, a heading of the page: a file of the contract, "scripts", "balancer", "clients".
        case: the name of the case, a sentence or the name in the contract.
        verdict: the verdict, a `Word`.
        evidence: what shows the verdict: the differences, the last lines, the reason for a listed difference.
        seconds: how long the case took.
    """

    program: str
    version: str
    group: str
    case: str
    verdict: Word
    evidence: str = ""
    seconds: float = 0.0

    @property
    def breaks(self) -> bool:
        """Whether the verdict fails the run: a case without a verdict needs a reason."""
        return self.verdict in {"differs", "failed"} or (self.verdict == "not run" and not self.evidence)


@dataclass
class Session:
    """A run of `make test-real`.

    Attributes:
        date: the day of the run, YYYY-MM-DD.
        machine: the class of the machine, for example "4 cores, 16 GiB, CPU only".
        programs: the programs in the run.
        verdicts: the verdicts, in the order of the run.
        seconds: how long the parts of the run took, by name of the part.
    """

    date: str
    machine: str
    programs: list[Program] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the run passes: no verdict breaks the run, and the list is not empty."""
        return bool(self.verdicts) and not any(verdict.breaks for verdict in self.verdicts)
