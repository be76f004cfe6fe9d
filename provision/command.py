"""What can be done to a host, as values. Steps return them, `ssh` runs them, tests compare them.

A command is a tuple of words that is quoted exactly once, in `script.py`. Logic that needs a shell is a constant
script that goes in by stdin with its data as words (`sh()`), so nothing from an inventory, a host or a server is
ever pasted into shell text, seen in a process list beyond its words, or cut by the 128 kB limit of one argument.
"""

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

READ_TIMEOUT = 20.0
CHANGE_TIMEOUT = 120.0


class Script(str):
    """A constant POSIX shell script.

    Args:
        name: the name under which `describe` shows the script, such as `instance/start`. No two scripts share a name.
        text: the script. A constant: data belongs in arguments.
    """

    name: str

    def __new__(cls, name: str, text: str) -> Self:
        """Give the text its name."""
        self = super().__new__(cls, text)
        self.name = name
        return self


@dataclass(frozen=True)
class Run:
    """Run these words as root.

    Args:
        words: the program and its arguments. Never a secret: every user of the host can read them.
        stdin: what the program reads; may hold secrets.
        timeout: seconds after which the host ends it (exit code 124).
        ok: exit codes that are no failure; empty for any.
        title: what people are shown instead of the words.
        job: a long command. It runs detached, as a job of the host with a log of its own, and goes on when the
            connection does not; its output is streamed.
        progress: pure; turns one line of a job's output into what is shown live, or None for nothing.
        slow: a read that others need not wait for; see `script.assemble`.
        script: the name of the constant script on standard input.
    """

    words: tuple[str, ...]
    stdin: bytes = field(default=b"", repr=False)
    timeout: float = CHANGE_TIMEOUT
    ok: tuple[int, ...] = (0,)
    title: str = ""
    job: bool = False
    progress: Callable[[str], str | None] | None = field(default=None, compare=False, repr=False)
    slow: bool = False
    script: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.title or shlex.join(self.words)

    def good(self, exit_code: int) -> bool:
        """Whether an exit code is no failure."""
        return not self.ok or exit_code in self.ok


@dataclass(frozen=True)
class Put:
    """Write these bytes to a file: under a temporary name beside it, then renamed.

    Args:
        path: absolute path on the host; its directory must exist.
        content: the bytes.
        mode: permission bits, such as 0o644.
        owner: user and group, such as `root:root`.
    """

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    owner: str = "root:root"

    def good(self, exit_code: int) -> bool:
        """Whether an exit code is no failure."""
        return exit_code == 0

    def __str__(self) -> str:
        digest = hashlib.sha256(self.content).hexdigest()[:12]
        return f"write {self.path} ({len(self.content)} bytes, sha256 {digest}, mode {self.mode:04o})"


@dataclass(frozen=True)
class Obtain:
    """Have an artifact at `path`: from the controller's store if it is there, else made on a host and fetched.

    One host makes it, whatever number wants it at the same time; the others are given the bytes.

    Args:
        key: what the artifact is, complete enough that equal keys mean interchangeable bytes.
        path: where the artifact is put on the host.
        make: the commands that make it at `path`.
        host: the only host that may make it; empty for whichever comes first.
        title: what people are shown.
    """

    key: str
    path: str
    make: tuple["Run | Put", ...]
    host: str = ""
    title: str = ""

    def __str__(self) -> str:
        return self.title or f"obtain {self.key}"


Command = Run | Put | Obtain


@dataclass(frozen=True)
class Answer:
    """What a host said to one command.

    Args:
        exit: exit code; 124 when the host ended it for taking too long.
        stdout: as it came, bounded.
        stderr: as it came, bounded; empty for a job, whose log has both.
    """

    exit: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are no UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def error(self) -> str:
        """Standard error as text, stripped; standard output where that is empty. Of commands that change something."""
        return self.complaint or self.text.strip()

    @property
    def complaint(self) -> str:
        """Standard error as text, stripped. Of reads, whose standard output may be secret: containers' environment."""
        return self.stderr.decode(errors="replace").strip()


def run(*words: str, timeout: float = CHANGE_TIMEOUT, ok: tuple[int, ...] = (0,), title: str = "") -> Run:
    """A short command.

    Args:
        words: the program and its arguments.
        timeout: seconds.
        ok: exit codes that are no failure.
        title: what people are shown instead of the words.
    """
    return Run(words, timeout=timeout, ok=ok, title=title)


def sh(
    script: Script,
    *args: str,
    title: str,
    timeout: float = CHANGE_TIMEOUT,
    ok: tuple[int, ...] = (0,),
    job: bool = False,
    progress: Callable[[str], str | None] | None = None,
) -> Run:
    """A constant script with its data as `$1`, `$2`, ...

    Args:
        script: the script. It runs under `set -eu`.
        args: its arguments.
        title: what people are shown.
        timeout: seconds.
        ok: exit codes that are no failure.
        job: see `Run`.
        progress: see `Run`.
    """
    stdin = ("set -eu\n" + script.strip("\n") + "\n").encode()
    return Run(("sh", "-s", "--", *args), stdin, timeout, ok, title, job, progress, script=script.name)


def look(script: Script, *args: str, title: str, timeout: float = READ_TIMEOUT, slow: bool = False) -> Run:
    """A constant script that only reads, and goes on after a command that fails.

    Args:
        script: the script. It runs under `set -u`.
        args: its arguments.
        title: what people are shown.
        timeout: seconds.
        slow: see `Run`.
    """
    stdin = ("set -u\n" + script.strip("\n") + "\n").encode()
    return Run(("sh", "-s", "--", *args), stdin, timeout, title=title, slow=slow, script=script.name)


def describe(command: Command, hide: Callable[[str], str] = str) -> str:
    """Everything that decides about what a command does on a host, for tests and for an operator who looks closely.

    A `Run` is its title, its words as a shell reads them, the name of the script on standard input, and what differs
    from a short command: `start container a $ sh -s -- a 10.0.0.11:3001 < instance/start [180 s]`. A `Put` is its path,
    size, hash, mode and owner. An `Obtain` has the commands that make the artifact on lines of their own.

    Args:
        command: the command.
        hide: takes secrets out of a text, such as `inventory.Mask`.
    """
    return hide("\n".join(_described(command)))


def _described(command: Command) -> list[str]:
    if isinstance(command, Put):
        return [f"{command} {command.owner}"]
    if isinstance(command, Obtain):
        where = f" on {command.host}" if command.host else ""
        made = (line for part in command.make for line in _described(part))
        return [f"{command}: obtain {command.key} at {command.path}, made{where} by", *(f"  {line}" for line in made)]
    parts = [command.title, "$", shlex.join(command.words)]
    if command.stdin:
        parts.append(f"< {command.script or f'{len(command.stdin)} bytes'}")
    limits = ["job"] if command.job else []
    if command.timeout != CHANGE_TIMEOUT:
        limits.append(f"{command.timeout:g} s")
    if command.ok != (0,):
        limits.append(f"exit {', '.join(map(str, command.ok)) or 'any'}")
    return [" ".join([*filter(None, parts), *([f"[{'; '.join(limits)}]"] if limits else [])])]
