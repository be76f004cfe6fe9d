"""Commands in a virtual machine over SSH, with a time for each line of the output."""

import shlex
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.case import ending


@dataclass
class Said:
    """What a command said.

    Attributes:
        code: the exit code.
        lines: seconds since the start and text of each line, errors included.
        seconds: how long the command took.
    """

    code: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The whole output."""
        return "\n".join(line for _, line in self.lines)

    def since(self, opening: str) -> float:
        """Return the seconds at which the first line with an opening came.

        Args:
            opening: the beginning of the line.

        Raises:
            AssertionError: no line begins so.
        """
        for seconds, line in self.lines:
            if line.startswith(opening):
                return seconds
        raise AssertionError(f"no line begins with `{opening}`: {ending(self.text)}")


def talked(
    words: Sequence[str], log: Path, seconds: float, given: bytes = b"", env: Mapping[str, str] | None = None
) -> Said:
    """Run a command of this machine, write its output to a log as it comes, and return the output.

    Args:
        words: the command.
        log: the file that gets the output too, for a person who waits.
        seconds: how long the command may take.
        given: standard input.
        env: the whole environment, or None for ours.

    Raises:
        subprocess.TimeoutExpired: the command took longer; the error has the output.
    """
    said, begun = Said(), time.monotonic()
    with (
        log.open("a") as file,
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
        ) as process,
    ):
        late = threading.Timer(seconds, process.kill)
        late.start()
        _feed(process, given)
        for line in process.stdout or ():
            said.lines.append((time.monotonic() - begun, line.decode(errors="replace").rstrip("\n")))
            file.write(f"{said.lines[-1][0]:8.1f} {said.lines[-1][1]}\n")
            file.flush()
        process.wait()
        overdue = late.finished.is_set()  # the timer sets the flag when it has killed
        late.cancel()
    said.code, said.seconds = process.returncode, time.monotonic() - begun
    if overdue:
        raise subprocess.TimeoutExpired(list(words)[-1:], seconds, said.text.encode())
    return said


def _feed(process: "subprocess.Popen[bytes]", given: bytes) -> None:
    """Write the standard input from a thread, so that neither side waits for the other."""

    def write() -> None:
        try:
            if process.stdin:
                process.stdin.write(given)
                process.stdin.close()
        except BrokenPipeError:
            return  # the command ended early, and its exit code says why

    threading.Thread(target=write, daemon=True).start()


@dataclass(frozen=True)
class Login:
    """A login as root over SSH.

    Attributes:
        port: the port on 127.0.0.1 that leads to the machine.
        key: the private key.
        known_hosts: the file with the machine's host key.
        log: the file for all output.
        factor: by how much every wait is longer than with KVM.
    """

    port: int
    key: Path
    known_hosts: Path
    log: Path
    factor: int

    def words(self, text: str) -> list[str]:
        """The words that run a script of bash in the machine; the script ends at its first failure."""
        options = {
            "UserKnownHostsFile": self.known_hosts,
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "KexAlgorithms": "curve25519-sha256",  # ssh's own first choice is slow where QEMU emulates
            "ConnectTimeout": 10 * self.factor,
            "ServerAliveInterval": 30 * self.factor,
        }
        told = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        script = shlex.join(["bash", "--norc", "-euo", "pipefail", "-c", text])
        return ["ssh", "-i", str(self.key), "-p", str(self.port), *told, "root@127.0.0.1", script]

    def sh(self, text: str, seconds: float = 60, *, check: bool = True, given: bytes = b"") -> Said:
        """Run a script in the machine.

        Args:
            text: the script.
            seconds: how long the script may take with KVM.
            check: whether an exit code other than 0 is a failure.
            given: standard input.

        Raises:
            AssertionError: the script failed.
            subprocess.TimeoutExpired: the script took too long.
        """
        with self.log.open("a") as file:
            file.write(f"$ {text}\n")
        said = talked(self.words(text), self.log, seconds * self.factor, given)
        first = text.strip().splitlines()[0][:120]
        assert not (check and said.code), f"`{first}` ended with exit code {said.code}: {ending(said.text)}"
        return said
