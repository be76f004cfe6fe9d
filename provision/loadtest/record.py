"""One request and what became of it: a line in a file, written by Locust's processes and read by ours."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST = 10_000  # gaps kept of one answer
TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are seconds.

    Args:
        at: when it was sent, as a time stamp.
        target: the address it was sent to.
        instance: who answered, as the balancer says (`X-Instance`); empty where nobody said.
        retried: whether another instance was asked before.
        status: of HTTP; 0 where there was none.
        problem: why it failed, in one or two words; empty where it did not.
        detail: what was said of that.
        ttft: until the first token; None where none came.
        total: until its end.
        tokens: how many came.
        arrivals: in how many pieces.
        decode: in which the server made the answer, by its own words; None where it does not say.
        queued: waiting, beyond loading the model and reading the prompt; None where the server does not say.
        gaps: between one token and the next.
    """

    at: float
    target: str
    instance: str = ""
    retried: bool = False
    status: int = 0
    problem: str = ""
    detail: str = ""
    ttft: float | None = None
    total: float = 0.0
    tokens: int = 0
    arrivals: int = 0
    decode: float | None = None
    queued: float | None = None
    gaps: Sequence[float] = ()

    @property
    def end(self) -> float:
        """When it ended, as a time stamp."""
        return self.at + self.total

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first one; None where that cannot be said.

        Where tokens came in lumps, their times here say nothing: then the server's own word counts.
        """
        if self.ttft is None or self.tokens < 2:
            return None
        if 2 * self.arrivals >= self.tokens and self.total > self.ttft:
            return (self.tokens - 1) / (self.total - self.ttft)
        return self.tokens / self.decode if self.decode else None

    @property
    def wait(self) -> float | None:
        """How long somebody waited for the first token: of what timed out before it, until then."""
        if self.ttft is None and self.problem == TIMEOUT:
            return self.total
        return None if self.problem else self.ttft

    def line(self) -> str:
        """As one line of JSON."""
        short = dataclasses.replace(self, gaps=[round(gap, 5) for gap in self.gaps[:LONGEST]])
        return json.dumps(dataclasses.asdict(short))


def parse(line: str) -> Record:
    """The record that a line holds."""
    return Record(**json.loads(line))
