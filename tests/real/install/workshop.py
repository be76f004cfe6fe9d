"""The folder of the installed programs, and how a program is run there."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PINS = Path(__file__).parents[1] / "pins"
LINES = 15  # of the output of a failed program


class InstallError(Exception):
    """A real program cannot be installed. The text names the program, the evidence and the next step."""


def _say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class Workshop:
    """A place where programs are installed.

    Args:
        folder: the folder for the programs; made where it is missing.
        environment: the environment of started programs. Its PATH finds go, apt-get and dpkg-query.
        python: the Python that makes the virtual environment.
        say: called with a line before each long step.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    python: str = sys.executable
    say: Callable[[str], None] = _say

    def run(self, words: Sequence[str | Path], doing: str, advice: str, folder: Path | None = None, **more: str) -> str:
        """Run a program and return its output, errors included. The whole output also is in a file.

        Args:
            words: the words of the command.
            doing: the purpose in words, the start of the message about a failure.
            advice: the next step after a failure.
            folder: the working folder; by default the folder of the workshop.
            more: environment variables of the program.

        Raises:
            InstallError: the program is missing or fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**self.environment, **more}
        log = self.folder / f"{Path(words[0]).name}.log"
        try:
            done = subprocess.run(
                list(map(str, words)),
                cwd=folder or self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise InstallError(f"{doing} failed: {words[0]} does not start: {error.strerror}. {advice}") from None
        log.write_text(done.stdout)
        if done.returncode:
            end = "\n".join(f"    {line[:300]}" for line in done.stdout.strip().splitlines()[-LINES:])
            raise InstallError(
                f"{doing} failed: {' '.join(map(str, words))[:300]} exited {done.returncode}:\n{end}\n"
                f"The whole output is in {log}. {advice}"
            )
        return done.stdout

    def search_path(self) -> str:
        """The folders in which programs are searched."""
        return self.environment.get("PATH", os.defpath)


def default_folder() -> Path:
    """The folder below the user's cache: outside of the tree, and used again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "provision-real"


def pinned(name: str) -> tuple[Path, str]:
    """Return a file of pins and the hash of its text.

    Args:
        name: name of the file in `tests/real/pins`, without the ending.
    """
    path = PINS / f"{name}.txt"
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
