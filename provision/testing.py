"""Fake hosts, for tests of steps and roles without SSH.

A `FakeHost` runs nothing: it records every command and gives the answers of the test. A `ShellHost` is a shell of this
machine: every script runs for real, so its steps must stay below a folder of the test. `setup` makes either of them
the hosts of an action:

    from provision import actions, testing

    request = actions.Request("inventory.yaml", setup=testing.setup(folder, testing.FakeHost(answers).connect))
    plan = actions.plan(request)

`docs/library.md` has an example.
"""

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from provision.command import Answer, Command, Put, Run, describe
from provision.errors import FactError, UnreachableError
from provision.inventory import Connection, Host, Inventory
from provision.plan.catalog import Catalog
from provision.plan.role_interface import Entry
from provision.runs.setup import Setup, Timings
from provision.ssh import host_paths
from provision.ssh.host_paths import HostPaths
from provision.ssh.transport import Connect, ShellTransport, Transport, first_failure
from provision.steps.base import Owned, State, Step
from provision.steps.facts import TITLE, HostFacts

__all__ = ["FakeHost", "ShellHost", "Transport", "commands", "described", "setup"]

Reply = Callable[[Run], Answer]
"""Returns the answer of a host to a command."""


def exits_well(run: Run) -> Answer:
    """Answer every command with exit code 0 and no output."""
    return Answer(0)


DEBIAN = """# os
ID=debian
VERSION_ID="13"
VERSION_CODENAME=trixie
# arch
amd64
# cgroup
2
# systemd
yes
# gpu-exit
127
# end
"""
"""The host facts of a Debian 13 without cards, as the host answers."""


class FakeHost:
    """A host without a shell. Safe for many threads.

    Args:
        answers: title of a command, or its words as a shell reads them -> the answer; text stands for standard output.
        reply: answers every other command.
        lost_at: numbers of the execs, from 1, at which the connection is lost.
        facts: the host facts, as the host answers.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer | str] | None = None,
        reply: Reply = exits_well,
        lost_at: frozenset[int] = frozenset(),
        facts: str = DEBIAN,
    ) -> None:
        self.answers = {TITLE: facts, **(answers or {})}
        self.reply = reply
        self.lost_at = lost_at
        self.commands: list[Run | Put] = []
        """Every command that the host ran, in order."""
        self.files: dict[str, bytes] = {}
        """Path -> bytes, of every file that was written or uploaded."""
        self.execs = 0
        """The number of execs so far."""
        self.closes = 0
        """How often the connection was closed."""
        self._lock = threading.RLock()

    def connect(self, connection: Connection, become_password: str | None, paths: HostPaths) -> Transport:
        """Return this host, whatever the connection."""
        return self

    def begin(self) -> None:
        """Do nothing: there is no connection."""

    def batch(self, commands: Sequence[Run | Put], *, stop: bool, beside: bool = False) -> list[Answer]:
        """Record the commands, and answer each; see `Transport`."""
        with self._lock:
            self._exec()
            answers: list[Answer] = []
            for command in commands:
                answers.append(self._answer(command))
                if stop and first_failure(commands, answers) is not None:
                    break
            return answers

    def job(self, run: Run, on_line: Callable[[str], None], stopped: Callable[[], bool] = lambda: False) -> Answer:
        """Record a job, pass on its output line by line, and answer; see `Transport`."""
        with self._lock:
            self._exec()
            answer = self._answer(run)
        for line in answer.text.splitlines():
            on_line(line)
        return answer

    def follow(self, run: Run, on_out: Callable[[bytes], None], on_error: Callable[[bytes], None] | None = None) -> int:
        """Record a program, pass on its output, and return its exit code; see `Transport`."""
        with self._lock:
            self._exec()
            answer = self._answer(run)
        on_out(answer.stdout)
        if on_error is not None:
            on_error(answer.stderr)
        return answer.exit

    def upload(self, source: IO[bytes], path: str, mode: int = 0o600, owner: str = "root:root") -> None:
        """Record a file; see `Transport`."""
        source.seek(0)
        with self._lock:
            self._exec()
            self._answer(Put(path, source.read(), mode, owner))

    def download(self, path: str, target: IO[bytes]) -> None:
        """Read a recorded file; see `Transport`."""
        with self._lock:
            self._exec()
            if path not in self.files:
                raise FactError(f"could not read {path}", stderr="No such file or directory")
            target.write(self.files[path])

    def close(self) -> None:
        """Note that the connection was closed."""
        self.closes += 1

    def _exec(self) -> None:
        self.execs += 1
        if self.execs in self.lost_at:
            raise UnreachableError("the connection was lost", "run the command again")

    def _answer(self, command: Run | Put) -> Answer:
        self.commands.append(command)
        if isinstance(command, Put):
            self.files[command.path] = command.content
            return Answer(0)
        answer = self.answers.get(str(command))
        if answer is None:
            return self.reply(command)
        return Answer(0, answer.encode()) if isinstance(answer, str) else answer


class ShellHost(ShellTransport):
    """A shell of this machine as a host: every script runs for real, without sudo.

    Args:
        paths: the folders of runs; below a folder of the test.
        lost_at: numbers of the execs, from 1, at which the connection is lost.
    """

    def __init__(self, paths: HostPaths = host_paths.DEFAULT, lost_at: frozenset[int] = frozenset()) -> None:
        super().__init__(paths)
        self.lost_at = lost_at
        self.execs = 0
        """The number of execs so far."""
        self.scripts: list[bytes] = []
        """Standard input of every exec, in order."""
        self._followed: list[IO[bytes]] = []

    def begin(self) -> None:
        """Do nothing: there is no connection."""

    def exec(
        self,
        text: bytes,
        limit_s: float,
        on_data: Callable[[bytes], None] | None = None,
        *,
        extra: IO[bytes] | None = None,
        limit: int = 0,
        program: Sequence[str] = ("sh", "-s"),
        beside: bool = False,
    ) -> tuple[bytes, bytes, int]:
        """Run one program on this machine; see `ShellTransport`."""
        self.execs += 1
        self.scripts.append(text)
        if self.execs in self.lost_at:
            raise UnreachableError("the connection was lost")
        data = text + (extra.read() if extra else b"")
        done = subprocess.run(program, input=data, capture_output=True, check=False, timeout=limit_s)
        if on_data:
            on_data(done.stdout)
        return done.stdout, done.stderr, done.returncode

    def follow(self, run: Run, on_out: Callable[[bytes], None], on_error: Callable[[bytes], None] | None = None) -> int:
        """Run one program on this machine in a session of its own; see `Transport`."""
        self.execs += 1
        piped = subprocess.PIPE
        words = list(run.words)
        with subprocess.Popen(words, stdin=piped, stdout=piped, stderr=piped, start_new_session=True) as process:
            stdin, stdout, stderr = cast("tuple[IO[bytes], ...]", (process.stdin, process.stdout, process.stderr))
            self._followed.append(stdin)
            stdin.write(run.stdin)
            stdin.flush()
            while chunk := os.read(stdout.fileno(), 65536):
                on_out(chunk)
            if on_error is not None:
                on_error(stderr.read())
        return process.returncode

    def close(self) -> None:
        """Close standard input of the followed programs."""
        for stdin in self._followed:
            with contextlib.suppress(OSError):
                stdin.close()
        self._followed.clear()


def setup(
    folder: str | Path,
    connect: Connect | None = None,
    *,
    steps: Callable[[Host, Inventory], tuple[Entry, ...]] | None = None,
    owned: Sequence[tuple[str, Owned]] | None = None,
    timings: Timings | None = None,
    who: str = "tester@test",
) -> Setup:
    """Return a setup whose hosts are fakes, for the `setup` of a request.

    Args:
        folder: a folder of the test; runs keep the files of their hosts below.
        connect: makes the transport to a host; when None every host is a `ShellHost`.
        steps: returns the steps of a host in place of the roles' steps.
        owned: the finders in place of the roles' finders; when None, none beside `steps`.
        timings: the times of a run.
        who: operator and machine.
    """
    usual = Catalog()
    finders = () if owned is None else tuple(owned)
    return Setup(
        connect=connect or (lambda connection, become_password, paths: ShellHost(paths)),
        paths=HostPaths(run=f"{folder}/run", state=f"{folder}/state"),
        timings=timings or Timings(),
        who=who,
        catalog=Catalog(steps or usual.steps, usual.owned if steps is None and owned is None else lambda: finders),
    )


def commands(step: Step, have: State = None, facts: HostFacts | None = None) -> Sequence[Command]:
    """Return the commands that bring a host to the wanted state of a step.

    Args:
        step: the step.
        have: the state on the host; None for an absent thing.
        facts: facts about the host.

    Raises:
        RefusalError: the step refuses the host.
    """
    return step.commands(have, step.want(facts or HostFacts(), have))


def described(step: Step, have: State = None, facts: HostFacts | None = None) -> list[str]:
    """Return the same commands as text, with every word; see `provision.command.describe`.

    Args:
        step: the step.
        have: the state on the host; None for an absent thing.
        facts: facts about the host.
    """
    return [describe(command) for command in commands(step, have, facts)]
