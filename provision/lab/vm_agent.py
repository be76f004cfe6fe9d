"""Commands in a virtual machine by QEMU's guest agent: works without the machine's network and SSH.

The protocol is JSON on a socket (QEMU's documentation, "QEMU Guest Agent Protocol Reference").
"""

import base64
import fcntl
import json
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from provision.lab.shell import LabError

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = [_PATH, "HOME=/root", "LANG=C.UTF-8"]
_DELIMITER = b"\xff"  # `guest-sync-delimited` answers with this byte first: all bytes before are older answers


class Agent:
    """The guest agent of a machine.

    Args:
        path: the agent's socket.
        patience: seconds to wait for one answer of the agent.
    """

    def __init__(self, path: Path, patience: float = 5) -> None:
        self._path = path
        self._patience = patience

    def answers(self) -> bool:
        """Whether the agent answers: the machine's systemd has started the agent."""
        try:
            self._ask("guest-ping")
        except (OSError, LabError):
            return False
        return True

    def run(
        self, words: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run words as root in the machine.

        Args:
            words: the command.
            stdin: its standard input.
            check: whether an exit code other than 0 is an error.
            timeout: seconds until the command is killed.

        Raises:
            LabError: the agent does not answer, or the command failed.
        """
        argv = ["timeout", "--kill-after=5", f"{timeout:g}", *words]
        document = {
            "path": "/usr/bin/env",
            "arg": ["-C", "/", *argv],
            "env": _ENVIRONMENT,
            "input-data": base64.b64encode((stdin or "").encode()).decode(),
            "capture-output": True,
        }
        shown = " ".join(words)
        try:
            pid = self._ask("guest-exec", document)["pid"]
            done = self._wait(pid, timeout + 4 * self._patience, shown)
        except OSError as error:
            raise LabError(f"the guest agent did not answer to `{shown}`: {error}", "look at console.log") from error
        out, err = (base64.b64decode(done.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data"))
        code = done.get("exitcode", 128 + done.get("signal", 0))
        if check and code:
            text = (err.strip() or out.strip())[-2000:]
            raise LabError(f"`{shown}` failed with exit code {code}: {text}")
        return subprocess.CompletedProcess(list(words), code, out, err)

    def _wait(self, pid: int, timeout: float, shown: str) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            status: dict[str, Any] = self._ask("guest-exec-status", {"pid": pid})
            if status["exited"]:
                return status
            if time.monotonic() > deadline:
                raise LabError(f"`{shown}` did not end within {timeout:g} seconds")
            time.sleep(0.05)

    def _ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        with self._connection() as connection:
            token = secrets.randbelow(2**31)
            lines = [{"execute": "guest-sync-delimited", "arguments": {"id": token}}]
            lines.append({"execute": command, "arguments": arguments or {}})
            connection.sendall(_DELIMITER + _line(lines[0]))
            with connection.makefile("rb") as answers:
                while _answer(answers) != {"return": token}:
                    pass
                connection.sendall(_line(lines[1]))
                answer = _answer(answers)
        if "return" not in answer:
            raise LabError(f"the guest agent refused {command}: {answer.get('error', {}).get('desc', answer)}")
        return answer["return"]

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        """Connect; QEMU serves a single client at a time, so clients take turns by a lock."""
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(self._patience)
                connection.connect(str(self._path))
                yield connection


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _answer(answers: BinaryIO) -> dict[str, Any]:
    """Read one answer; an empty answer stands for a line that an earlier client left half-read."""
    line = answers.readline()
    if not line:
        raise ConnectionError("the connection closed")
    try:
        document = json.loads(line.rpartition(_DELIMITER)[2])
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
