"""The cost of running a program: wall time, CPU of the program and its children, memory of its largest process."""

import contextlib
import ctypes
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class BenchError(Exception):
    """The measured program did not do its job; the message holds the evidence."""


@dataclass
class Peak:
    """The greatest numbers seen while a program ran.

    Args:
        threads: threads of the process.
        files: open file descriptors.
    """

    threads: int = 0
    files: int = 0


@dataclass(frozen=True)
class Sample:
    """One run of a program.

    Args:
        wall: seconds from the program's start to its end.
        cpu: seconds of CPU, user and system, of the program and all its children on this machine.
        memory: MiB, peak resident set of the largest process.
        code: exit code; 124 where the program took too long and was ended.
        out: standard output.
        err: standard error.
        peak: threads and files of the program's first process, where watched.
    """

    wall: float
    cpu: float
    memory: float
    code: int
    out: str
    err: str
    peak: Peak = field(default_factory=Peak)


def _environment() -> dict[str, str]:
    """Our environment, but programs may keep their bytecode, as installed programs do: else ours alone would
    compile."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def measured(
    words: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 900.0,
    watch: bool = False,
    interrupt: float = 0.0,
) -> Sample:
    """Run a program to its end and measure it.

    Args:
        words: the command. Leftover processes (ssh's ControlPersist masters) are ended, and their CPU counts.
        env: additions to the environment.
        cwd: directory to run in.
        timeout: seconds until the program is killed.
        watch: whether to count threads and files, fifty times a second.
        interrupt: seconds after which the program gets SIGINT, as from Ctrl-C; never for 0.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _adopting():
        known, begun = _children(), time.monotonic()
        child = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=_environment() | dict(env or {}),
            cwd=cwd,
            start_new_session=True,
        )
        timers = [threading.Timer(timeout, child.kill)]
        if interrupt:
            timers.append(threading.Timer(interrupt, child.send_signal, (signal.SIGINT,)))
        with _killing(child), _running(timers), _watching(child.pid, enabled=watch) as peak:
            _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime + _end_orphans(known)
        return Sample(wall, cpu, usage.ru_maxrss / 1024, child.returncode, _text(out), _text(err), peak)


def expect(sample: Sample, code: int = 0) -> Sample:
    """The same sample, of a program with the right exit code.

    Raises:
        BenchError: the exit code is wrong.
    """
    if sample.code != code:
        raise BenchError(f"exit {sample.code} instead of {code}\n{sample.out[-2000:]}\n{sample.err[-3000:]}")
    return sample


@contextlib.contextmanager
def _killing(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the program when we are interrupted."""
    try:
        yield
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        raise


@contextlib.contextmanager
def _running(timers: Sequence[threading.Timer]) -> Iterator[None]:
    for timer in timers:
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def _watching(pid: int, *, enabled: bool) -> Iterator[Peak]:
    peak, done = Peak(), threading.Event()

    def look() -> None:
        with contextlib.suppress(OSError):  # the program has ended
            while not done.wait(0.02):
                peak.threads = max(peak.threads, _entries(f"/proc/{pid}/task"))
                peak.files = max(peak.files, _entries(f"/proc/{pid}/fd"))

    thread = threading.Thread(target=look, daemon=True)
    if enabled:
        thread.start()
    try:
        yield peak
    finally:
        done.set()


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of every process that a program leaves behind, to end the process and count its CPU."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def _end_orphans(known: set[int]) -> float:
    """End the processes that a program left running, but not our other children, and return their CPU seconds."""
    seconds = 0.0
    while orphans := _children() - known:
        for pid in orphans:
            os.kill(pid, signal.SIGTERM)
            _, _, usage = os.wait4(pid, 0)
            seconds += usage.ru_utime + usage.ru_stime
    return seconds


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())
