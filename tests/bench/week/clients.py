"""The real clients of the week: a process for each kind, and the requests that they report."""

import json
import os
import subprocess
import threading
from pathlib import Path

from tests.bench.week.arithmetic import Request

PROGRAM = Path(__file__).parent / "client.py"
KINDS = ("openai-reuse", "openai-fresh", "ollama-reuse", "ollama-fresh")


class Clients:
    """All clients.

    Args:
        python: a Python with the clients.
        url: the common address.
        model: the model.
        trust: file with the authority that the clients trust.
        per_second: requests in a second of each client.
    """

    def __init__(self, python: Path, url: str, model: str, trust: Path, per_second: float) -> None:
        self.requests: list[Request] = []
        environment = {**os.environ, "SSL_CERT_FILE": str(trust)}
        self._processes = [
            subprocess.Popen(
                [python, PROGRAM, kind, url, model, str(per_second)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for kind in KINDS
        ]
        self._readers = [threading.Thread(target=self._read, args=(process,)) for process in self._processes]
        for reader in self._readers:
            reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.requests.append(Request(**json.loads(line)))

    def served(self, since: float, count: int) -> bool:
        """Whether each kind of client got some whole answers since a time.

        Args:
            since: seconds of the monotonic clock.
            count: the number of answers of each kind.
        """
        kinds = [request.kind for request in list(self.requests) if request.begun > since and request.whole]
        return all(kinds.count(kind) >= count for kind in KINDS)

    def end(self) -> None:
        """Let every client finish its requests, and end."""
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
        for process, reader in zip(self._processes, self._readers, strict=True):
            process.wait(60)
            reader.join()
