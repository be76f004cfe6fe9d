"""One request and its outcome: a line in a file, written by Locust's processes and read by ours."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST = 10_000  # gaps kept of one answer
TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Record:
    """One request. Times are seconds.

    Args:
        at: when the request was sent, as a time stamp.
        target: the address to which the request was sent.
        instance: the instance that answered, from the balancer's `X-Instance`; empty without that header.
        retried: whether another instance was asked before.
        status: the status of HTTP; 0 without an answer.
        problem: why the request failed, in one or two words; empty for a good answer.
        detail: the error's own text.
        ttft: seconds until the first token; None without a token.
        total: seconds until the end.
        tokens: number of tokens.
        arrivals: number of reads in which tokens came.
        decode: seconds in which the server made the answer, by its own figures; None where the server gives none.
        queued: seconds of waiting, beyond loading the model and reading the prompt; None without the server's figures.
        gaps: seconds between one token and the next.
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
        """When the request ended, as a time stamp."""
        return self.at + self.total

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first token; None where unknown.

        Where tokens came in lumps, their times here tell nothing: then the server's own figure counts.
        """
        if self.ttft is None or self.tokens < 2:
            return None
        if 2 * self.arrivals >= self.tokens and self.total > self.ttft:
            return (self.tokens - 1) / (self.total - self.ttft)
        return self.tokens / self.decode if self.decode else None

    @property
    def wait(self) -> float | None:
        """Seconds that a client waited for the first token; None for a failure that is no timeout.

        A client of a request that timed out has waited too: until the first token, or without one until the timeout.
        """
        if self.problem == TIMEOUT:
            return self.total if self.ttft is None else self.ttft
        return None if self.problem else self.ttft

    def line(self) -> str:
        """The record as one line of JSON."""
        short = dataclasses.replace(self, gaps=[round(gap, 5) for gap in self.gaps[:LONGEST]])
        return json.dumps(dataclasses.asdict(short))


class RecordFiles:
    """The files of a folder to which Locust's processes append records.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Record]:
        """Yield the records of every new, whole line."""
        for path in sorted(self._folder.iterdir()):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
                self._read[path] = self._read.get(path, 0) + len(line)
                yield parse(line.decode())


def parse(line: str) -> Record:
    """The record in a line."""
    return Record(**json.loads(line))
