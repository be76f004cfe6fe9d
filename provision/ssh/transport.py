"""The way of commands to a host: the interface, and the part of it that needs only a root shell.

A `Session` runs the shell over SSH; `provision.testing` has a shell of this machine, and a host without any shell.
"""

import os
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import IO, Protocol

from provision.command import Answer, Put, Run
from provision.errors import FactError, HostError, UnreachableError
from provision.inventory import Connection
from provision.ssh import channels, host_paths, jobs, script
from provision.ssh.host_paths import HostPaths
from provision.ssh.time_limits import stretched
from provision.terminal_text import ending

OUTPUT_LIMIT = 32 * 1024 * 1024  # bytes of output of one exec; a host that sends more is an error
GRACE = 30.0  # seconds beyond the commands' own timeouts before the host counts as lost
TRANSFER_TIMEOUT = 3600.0  # seconds for one large file

# $1 path, $2 mode, $3 owner, $4 number of bytes: a lost connection looks like the end of the file. In one
# line, because the user's login shell parses the line, whichever shell it is.
RECEIVE = (
    'umask 077; new=$(mktemp "$1.XXXXXXXXXX") && cat >"$new" && [ "$(stat -c %s -- "$new")" -eq "$4" ] && '
    'chown -- "$3" "$new" && chmod -- "$2" "$new" && sync -- "$new" && mv -fT -- "$new" "$1" || '
    '{ rm -f -- "$new"; exit 1; }'
)


class Transport(Protocol):
    """Runs commands on one host as root. A method may open a connection, and several threads may call one transport.

    Raises (all methods):
        UnreachableError: the host cannot be reached, or the connection was lost.
        HostError: the host refuses the user.
    """

    def begin(self) -> None:
        """Begin to connect in the background. The next method raises an error of the connection."""

    def batch(self, commands: Sequence[Run | Put], *, stop: bool, beside: bool = False) -> list[Answer]:
        """Run commands in order, in one exec.

        Args:
            commands: the commands; `job` is ignored.
            stop: whether a failed command ends the exec.
            beside: whether another thread may use the connection: then a closed connection stays closed, and a
                connection without an answer stays open.

        Returns:
            an answer for each command that ran: for all commands, or up to the first failure.
        """
        ...

    def job(self, run: Run, on_line: Callable[[str], None], stopped: Callable[[], bool] = ...) -> Answer:
        """Run a long command as a job of the host, and follow the job; attach to a job that runs already.

        Args:
            run: the command.
            on_line: called with every line of output, as the line comes.
            stopped: whether a lost connection was cut on purpose: then the job is followed no further.

        Returns:
            the exit code, with the end of the log as output.
        """
        ...

    def follow(self, run: Run, on_out: Callable[[bytes], None], on_error: Callable[[bytes], None] | None = None) -> int:
        """Run one program without a time limit, and pass on its output as it comes.

        The program keeps its standard input open after the script, until the connection is closed: so a script can
        notice the end of the connection.

        Args:
            run: the program, with its script.
            on_out: called with every piece of standard output.
            on_error: called with every piece of standard error, from another thread; None drops standard error.

        Returns:
            the exit code.
        """
        ...

    def upload(self, source: IO[bytes], path: str, mode: int = 0o600, owner: str = "root:root") -> None:
        """Write a large file on the host under a temporary name, and rename the complete file.

        Args:
            source: the bytes, with a size.
            path: the path on the host.
            mode: permission bits.
            owner: user and group.
        """

    def download(self, path: str, target: IO[bytes]) -> None:
        """Read a large file of the host.

        Args:
            path: the path on the host.
            target: takes the bytes.
        """

    def close(self) -> None:
        """Close the connection. Safe at any time, from any thread."""


Connect = Callable[[Connection, str | None, HostPaths], Transport]
"""Makes the transport to a host, from the connection, sudo's password (`-K`; None for the inventory's), and the folders
of runs on the host."""


class ShellTransport(ABC):
    """A transport over a root shell that reads scripts.

    Args:
        paths: the folders of runs on the host.
        timeout_factor: by how much every time limit is longer than usual.
    """

    def __init__(self, paths: HostPaths = host_paths.DEFAULT, timeout_factor: int = 1) -> None:
        self.paths = paths
        self.timeout_factor = timeout_factor

    @abstractmethod
    def exec(
        self,
        text: bytes,
        limit_s: float,
        on_data: Callable[[bytes], None] | None = None,
        *,
        extra: IO[bytes] | None = None,
        limit: int = OUTPUT_LIMIT,
        program: Sequence[str] = ("sh", "-s"),
        beside: bool = False,
    ) -> tuple[bytes, bytes, int]:
        """Run one program as root.

        Args:
            text: the start of standard input, such as the script for a shell.
            limit_s: seconds until the host counts as unreachable.
            on_data: called with every piece of standard output, as the piece comes.
            extra: the rest of standard input.
            limit: bytes of output to keep.
            program: the words of the program.
            beside: see `Transport.batch`.

        Returns:
            standard output, standard error, and the exit code.

        Raises:
            UnreachableError: no answer, or a lost connection.
        """

    @abstractmethod
    def follow(self, run: Run, on_out: Callable[[bytes], None], on_error: Callable[[bytes], None] | None = None) -> int:
        """Run one program without a time limit; see `Transport`."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Safe at any time, from any thread."""

    def batch(self, commands: Sequence[Run | Put], *, stop: bool, beside: bool = False) -> list[Answer]:
        """Run commands in order, in one exec; see `Transport`."""
        mark = script.make_mark()
        limited = [stretched(command, self.timeout_factor) for command in commands]
        text = script.assemble(limited, mark, stop=stop)
        seconds = script.longest(limited, self.timeout_factor) + GRACE * self.timeout_factor
        out, err, _ = self.exec(text, seconds, beside=beside)
        answers = script.parse(out, err, mark, len(commands))
        complete = len(answers) == len(commands) or (stop and first_failure(commands, answers) is not None)
        if not complete:
            words = ending(err.decode(errors="replace").strip(), 800)
            refusal = None if answers else channels.sudo_refusal(words)
            raise refusal or UnreachableError(
                "the answer broke off", "look at the host, then run the command again", stderr=words
            )
        return answers

    def job(self, run: Run, on_line: Callable[[str], None], stopped: Callable[[], bool] = lambda: False) -> Answer:
        """Run a long command as a job of the host; see `Transport`.

        A job outlives the connection. A few new connections follow the same job.
        """
        follower = jobs.Follower(run, on_line, self.paths.jobs, self.timeout_factor)
        seconds = (run.timeout + GRACE) * self.timeout_factor
        for attempt in range(jobs.RECONNECTS + 1):
            try:
                self.exec(follower.script(), seconds, follower.feed)
            except UnreachableError:
                if attempt == jobs.RECONNECTS or stopped():
                    raise
                self.close()
                time.sleep(min(2.0**attempt, 15.0))
            answer = follower.answer()
            if answer is not None:
                return answer
            if stopped():
                break
        raise UnreachableError(
            "the job's log broke off", "run the command again: the run attaches to the job if the job still runs"
        )

    def upload(self, source: IO[bytes], path: str, mode: int = 0o600, owner: str = "root:root") -> None:
        """Write a large file on the host; see `Transport`."""
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        words = ("sh", "-c", RECEIVE, "receive", path, f"{mode:04o}", owner, str(size))
        _, err, code = self.exec(b"", TRANSFER_TIMEOUT * self.timeout_factor, extra=source, program=words)
        if code:
            raise HostError(f"could not write {path}", stderr=err.decode(errors="replace"))

    def download(self, path: str, target: IO[bytes]) -> None:
        """Read a large file of the host; see `Transport`."""
        word = script.make_mark()
        text = f"printf '%s\\n' {word}; cat -- {shlex.quote(path)} && printf '\\n%s' {word}\n"
        out, err, code = self.exec(text.encode(), TRANSFER_TIMEOUT * self.timeout_factor, limit=1 << 30)
        body = out.partition(f"{word}\n".encode())[2]
        if code or not body.endswith(f"\n{word}".encode()):
            raise FactError(f"could not read {path}", stderr=err.decode(errors="replace"))
        target.write(body[: -len(word) - 1])


def first_failure(commands: Sequence[Run | Put], answers: Sequence[Answer]) -> int | None:
    """Return the number of the first command that failed, or None.

    Args:
        commands: the commands of a batch.
        answers: the answers, possibly fewer.
    """
    for number, (command, answer) in enumerate(zip(commands, answers, strict=False)):
        if not command.good(answer.exit):
            return number
    return None
