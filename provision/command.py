"""Commands on a host, as values. Steps return commands, `ssh` runs them, tests compare them.

A command is a tuple of words, quoted exactly once, in `script.py`. Logic that needs a shell is a constant script on
standard input with its data as words (`sh()`). So nothing from an inventory, a host or a server is ever pasted into
shell text, seen in a process list beyond its words, or cut by the 128 kB limit of one argument.
"""

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

READ_TIMEOUT = 20.0
CHANGE_TIMEOUT = 120.0
OUT_OF_TIME = 124  # exit code of timeout(1)
SLOW = "where the host is only slow, raise timeout_factor in the inventory"


class Script(str):
    """A constant POSIX shell script.

    Args:
        name: the name of the script in the output of `describe`, such as `instance/start`. Unique.
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
    """Run a program as root.

    Args:
        words: the program and its arguments. Never a secret: every user of the host can read the words.
        stdin: standard input of the program; may hold secrets.
        timeout: seconds after which the host ends the program (exit code 124). `timeout_factor` of the host multiplies
            the seconds.
        ok: exit codes of success; empty for any.
        title: shown to people in place of the words.
        job: a long command. A job runs detached on the host with its own log and survives a lost connection; its
            output is streamed.
        progress: pure; turns one line of a job's output into a line to show, or None.
        slow: a read that other reads need not wait for; see `script.assemble`.
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
        """Whether an exit code means success."""
        return not self.ok or exit_code in self.ok


@dataclass(frozen=True)
class Put:
    """Write a file: under a temporary name beside the file, then renamed.

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
        """Whether an exit code means success."""
        return exit_code == 0

    def __str__(self) -> str:
        digest = hashlib.sha256(self.content).hexdigest()[:12]
        return f"write {self.path} ({len(self.content)} bytes, sha256 {digest}, mode {self.mode:04o})"


@dataclass(frozen=True)
class Obtain:
    """Have an artifact at `path`: from the controller's store, or else made on a host and fetched.

    A single host makes the artifact, however many hosts need it at the same time; the rest gets the bytes.

    Args:
        key: identifies the artifact completely: equal keys mean interchangeable bytes.
        path: the path of the artifact on the host.
        make: the commands that make the artifact at `path`.
        host: the only host that may make the artifact; empty for the first host that needs it.
        title: shown to people.
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
    """The answer of a host to one command.

    Args:
        exit: exit code; 124 if the host ended the command after its timeout.
        stdout: bounded.
        stderr: bounded; empty for a job, whose log has both streams.
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
        """Standard error as text, stripped; standard output if empty. For commands that change a host."""
        return self.complaint or self.text.strip()

    @property
    def complaint(self) -> str:
        """Standard error as text, stripped. For reads, whose standard output may be secret, such as containers'
        environment."""
        return self.stderr.decode(errors="replace").strip()


def run(*words: str, timeout: float = CHANGE_TIMEOUT, ok: tuple[int, ...] = (0,), title: str = "") -> Run:
    """Make a short command.

    Args:
        words: the program and its arguments.
        timeout: seconds.
        ok: exit codes of success.
        title: shown to people in place of the words.
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
    """Make a command from a constant script, with its data as `$1`, `$2`, ...

    Args:
        script: the script. Runs under `set -eu`.
        args: the arguments.
        title: shown to people.
        timeout: seconds.
        ok: exit codes of success.
        job: see `Run`.
        progress: see `Run`.
    """
    stdin = ("set -eu\n" + script.strip("\n") + "\n").encode()
    return Run(("sh", "-s", "--", *args), stdin, timeout, ok, title, job, progress, script=script.name)


def look(script: Script, *args: str, title: str, timeout: float = READ_TIMEOUT, slow: bool = False) -> Run:
    """Make a command from a constant script that only reads, and goes on after a failed command.

    Args:
        script: the script. Runs under `set -u`.
        args: the arguments.
        title: shown to people.
        timeout: seconds.
        slow: see `Run`.
    """
    stdin = ("set -u\n" + script.strip("\n") + "\n").encode()
    return Run(("sh", "-s", "--", *args), stdin, timeout, title=title, slow=slow, script=script.name)


def describe(command: Command, hide: Callable[[str], str] = str) -> str:
    """Describe a command completely, for tests and for an operator who looks closely.

    A `Run` has the title, the words as a shell reads them, the name of the script on standard input, and every
    difference from a short command: `start container a $ sh -s -- a 10.0.0.11:3001 < instance/start [180 s]`. A `Put`
    has the path, size, hash, mode and owner. An `Obtain` has the commands that make the artifact on lines of their own.

    Args:
        command: the command.
        hide: masks secrets in a text, such as `inventory.Mask`.
    """
    return hide("\n".join(_described(command)))


def _described(command: Command) -> list[str]:
    if isinstance(command, Put):
        return [f"{command} {command.owner}"]
    if isinstance(command, Obtain):
        where = f" on {command.host}" if command.host else ""
        lines = (line for part in command.make for line in _described(part))
        return [f"{command}: obtain {command.key} at {command.path}, made{where} by", *(f"  {line}" for line in lines)]
    parts = [command.title, "$", shlex.join(command.words)]
    if command.stdin:
        parts.append(f"< {command.script or f'{len(command.stdin)} bytes'}")
    limits = ["job"] if command.job else []
    if command.timeout != CHANGE_TIMEOUT:
        limits.append(f"{command.timeout:g} s")
    if command.ok != (0,):
        limits.append(f"exit {', '.join(map(str, command.ok)) or 'any'}")
    return [" ".join([*filter(None, parts), *([f"[{'; '.join(limits)}]"] if limits else [])])]
