"""Verdicts on cases of long runs: `tests.real` and `tests.vm` collect the verdicts, `tests.results` keeps them."""

from dataclasses import dataclass
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
