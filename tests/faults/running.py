"""A command of ours as an operator starts it, watched line by line."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping

import pytest

from tests.fleet import Done, Fleet

LONGEST = 600  # seconds: what has not ended by then hangs


class Running:
    """A running command that can be held still at a line of its output.

    Args:
        fleet: whose inventory.
        words: the command.
        hold_at: a pattern of a line on stderr at which it is stopped (SIGSTOP) until `go` or `kill`; so a fault can be
            put in place at that very step.
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
        self._out.append(self._process.stdout.read())

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self._process.poll() is None:
            os.kill(self._process.pid, number)

    def until_held(self, seconds: float = 600) -> None:
        """Wait until it said what it is to be held at."""
        while not self.held.wait(0.1):
            seconds -= 0.1
            if self._process.poll() is not None or seconds < 0:
                pytest.fail(f"it never said {self._at.pattern!r}: {self.end()!r}")

    def go(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash of the controller would."""
        self.signal(signal.SIGKILL)

    def end(self, seconds: float = LONGEST) -> Done:
        """What it said. A command that does not end by itself is a failure."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            pytest.fail(f"it hangs: not over after {seconds:g} s: {''.join(self.lines)[-3000:]}")
        for reader in self._readers:
            reader.join(10)
        return Done(code, "".join(self._out), "".join(self.lines))
