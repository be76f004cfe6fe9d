"""What a test notes for its row of the page."""

from dataclasses import dataclass


@dataclass
class Noted:
    """The notes of a case.

    Attributes:
        program: the judged program.
        version: the version of the program.
        evidence: what shows the verdict, in words for the page.
        not_run: the reason for which the case has no verdict; empty for a case that ran.
    """

    program: str = "Ollama"
    version: str = ""
    evidence: str = ""
    not_run: str = ""

    def judge(self, program: str, version: str) -> None:
        """Name another program than the server as the judged one."""
        self.program, self.version = program, version
