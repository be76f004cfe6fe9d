"""Shows a run at work: a line per changing host, or a line per change."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from provision.events import Event
from provision.report import layout
from provision.report.console import warn
from provision.terminal_text import line

if TYPE_CHECKING:
    from rich.progress import TaskID


_ADDRESS = re.compile(r"[0-9a-f]*[.:][0-9a-f.:]+")
ENDS = ("failed", "unreachable", "locked", "stopped")
SHOWN = frozenset({"changed", *ENDS})
VERBOSE = frozenset({"checking", "changing", "command", "progress", "ok", "planned", "finished"})
REPEATED = 3  # hosts with the same error shown during the run; the recap names all of them
ROW = 120  # characters of a row, at most


class Lines:
    """One line per change, host first so that parallel hosts can be grepped: for logs and pipes.

    Args:
        width: columns of the longest host name.
        verbose: whether to show every step, with its commands and the progress of long commands.
    """

    def __init__(self, width: int, *, verbose: bool = False) -> None:
        self.width = width
        self.verbose = verbose
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}
        self._waits: set[tuple[str, str]] = set()
        self._repeats: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        shown = SHOWN | VERBOSE if self.verbose else SHOWN
        if event.kind not in shown and not self._first_wait(event):
            return
        if event.kind in ENDS and not self._is_news(event):
            return
        seconds = f"{event.seconds:8.1f}s" if event.seconds else ""
        step, detail = line(event.step, 120), line(event.text, 200)
        detail = "" if event.kind in ENDS and not self.verbose else detail  # the recap has the error, once
        text = f"{event.host:{self.width}}  {event.kind:8}  {step:44} {detail}{seconds}".rstrip()
        limit = layout.width(sys.stderr)
        if limit < layout.WHOLE:
            text = _row(event, self.width, limit)
        with self._lock:
            if self._last.get(event.host) != text:
                self._last[event.host] = text
                # Nobody reads the pipe any more (`| head`): no reason to stop half-way.
                with contextlib.suppress(OSError):
                    print(text, file=sys.stderr, flush=True)

    def _is_news(self, event: Event) -> bool:
        """Whether few hosts have ended with this result so far: the recap names 200 unreachable hosts."""
        alike = f"{event.kind} {event.step} {_ADDRESS.sub('', event.text.replace(event.host, ''))}"
        with self._lock:
            self._repeats[alike] += 1
            return self._repeats[alike] <= REPEATED

    def _first_wait(self, event: Event) -> bool:
        """Whether a step begins to wait: a log that is silent for minutes should have the reason."""
        if event.kind != "progress" or not event.text.startswith("waiting"):
            return False
        with self._lock:
            known = (event.host, event.step) in self._waits
            self._waits.add((event.host, event.step))
        return not known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


def _row(event: Event, width: int, limit: int) -> str:
    """Return the event of a host for one row of a terminal. The recap has the error, once.

    Args:
        event: the event.
        width: columns of the longest host name.
        limit: columns of the terminal.
    """
    seconds = f"  {event.seconds:.1f}s" if event.seconds else ""
    step = line(event.step, ROW)
    text = "" if event.kind in ENDS else line(event.text, ROW)
    row = "  ".join(filter(None, (f"{event.host:{width}}", f"{event.kind:11}", step, text)))
    room = limit - len(seconds)
    return f"{row if len(row) <= room else row[: room - 1] + '…'}{seconds}".rstrip()


class Live:
    """A line per host with its present work, for terminals; changes scroll by above.

    Args:
        hosts: names of the hosts.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._lines = Lines(max(map(len, hosts), default=0))
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[host]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._adding = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        for host in hosts:
            self._task(host)

    def __call__(self, event: Event) -> None:
        if event.kind in SHOWN:
            self._lines(event)
        if event.kind == "done":
            self._progress.update(self._task(event.host), visible=False)
            return
        if event.kind == "command":
            return
        words = f"{event.step} {event.text}" if event.step else f"{event.kind} {event.text}"
        self._progress.update(self._task(event.host), description=line(words, ROW), visible=True)

    def _task(self, host: str) -> TaskID:
        """Return the line of a host, or of a balancer outside the selection on which only marks change."""
        with self._adding:
            if host not in self._tasks:
                self._tasks[host] = self._progress.add_task("", host=host, total=None)
            return self._tasks[host]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Progress:
    """The listener of the command line: shows the run on stderr, live on a terminal and in lines elsewhere.

    Args:
        as_json: whether a JSON document follows, which has the warnings of the inventory.
        verbose: whether to show the progress of long steps too.
    """

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self._as_json = as_json
        self._verbose = verbose
        self._hosts: list[str] = []
        self._shown: Lines | Live | None = None
        self._beginning = threading.Lock()

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "warning":
                if not (self._as_json and event.step == "inventory"):
                    warn(event.text)
            case "selected":
                self._hosts.append(event.host)
            case "over":
                self._end()
            case _:
                self._begun()(event)

    def _begun(self) -> Lines | Live:
        """Return the display of the run, made at the first event of a host, when all hosts are known."""
        with self._beginning:
            if self._shown is None:
                self._shown = self._display().__enter__()
            return self._shown

    def _display(self) -> Lines | Live:
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        if sys.stderr.isatty() and not self._verbose and not self._as_json and not plain:
            return Live(self._hosts)
        return Lines(max(map(len, self._hosts), default=0), verbose=self._verbose)

    def _end(self) -> None:
        if self._shown is not None:
            self._shown.__exit__()
        self._shown, self._hosts = None, []


def failures_only(event: Event) -> None:
    """The listener of `--quiet`: shows warnings of the run itself, such as a failed hook. A report shows the failures
    of hosts."""
    if event.kind == "warning" and event.step != "inventory":
        warn(event.text)
