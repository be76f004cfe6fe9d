"""A command of ours, started as an operator starts it and watched line by line."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping

import pytest

from tests.fleet import Done, Fleet

LONGEST = 600  # seconds after which a command counts as hanging


class Running:
    """A running command that can be held still at a line of its output.

    Args:
        fleet: the fleet with the inventory.
        words: the command.
        hold_at: a pattern of a line on stderr at which the command is stopped (SIGSTOP) until `go` or `kill`, so that a
            fault can be put in place at this very step.
        env: further variables of its environment.
    """

    def __init__(self, fleet: Fleet, *words: str, hold_at: str = "", env: Mapping[str, str] | None = None) -> None:
        self._at = re.compile(hold_at) if hold_at else None
        self.held = threading.Event()
        self._process = subprocess.Popen(
            fleet.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**fleet.environment, **(env or {})},
        )
        self.lines: list[str] = []
        self._out: list[str] = []
        self._readers = [threading.Thread(target=self._watch), threading.Thread(target=self._read)]
        for reader in self._readers:
            reader.start()

    def _watch(self) -> None:
        for line in self._process.stderr:
            if self._at and not self.held.is_set() and self._at.search(line):
                self.signal(signal.SIGSTOP)
                self.held.set()
            self.lines.append(line)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._out.append(line)

    @property
    def printed(self) -> list[str]:
        """The lines of standard output so far."""
        return "".join(self._out).splitlines()

    def signal(self, number: int) -> None:
        """Send the command a signal, unless it has ended."""
        if self._process.poll() is None:
            os.kill(self._process.pid, number)

    def until_held(self, seconds: float = 600) -> None:
        """Wait until the command is held at its line."""
        while not self.held.wait(0.1):
            seconds -= 0.1
            if self._process.poll() is not None or seconds < 0:
                pytest.fail(f"no line of the output matched {self._at.pattern!r}: {self.end()!r}")

    def go(self) -> None:
        """Let the command go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the command, as a crash of the controller would."""
        self.signal(signal.SIGKILL)

    def end(self, seconds: float = LONGEST) -> Done:
        """Wait for the end, and return the output. A command that does not end by itself is a failure."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            pytest.fail(f"the command hangs: not over after {seconds:g} s: {''.join(self.lines)[-3000:]}")
        for reader in self._readers:
            reader.join(60)
        return Done(code, "".join(self._out), "".join(self.lines))
