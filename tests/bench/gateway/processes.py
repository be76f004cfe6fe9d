"""Programs of the bench: each in a session of its own, and ended with all its processes."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.gateway.client import Place
from tests.bench.measure import BenchError


@contextmanager
def started(
    words: Sequence[str], folder: Path, logs: Path, ends: signal.Signals, env: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program in a session of its own, and end the program with all its processes.

    Args:
        words: the command.
        folder: the working directory.
        logs: the folder for the output.
        ends: the signal that ends the program.
        env: the environment; None for ours.
    """
    with (logs / "output.log").open("ab") as output:
        process = subprocess.Popen(
            words, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        stopped(process, ends)


def stopped(process: "subprocess.Popen[bytes]", ends: signal.Signals, patience: float = 15.0) -> None:
    """End a program that `started` has begun.

    Args:
        process: the program, first of its session.
        ends: the signal that ends the program.
        patience: seconds until the program is killed.
    """
    if process.poll() is None:
        process.send_signal(ends)
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            _kill_session(process)
    process.wait()
    _kill_session(process)


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    """Kill what is left of a program's session.

    Args:
        process: the first process of the session.
    """
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def demand_free(place: Place) -> None:
    """Refuse an address where another program listens, such as a second bench.

    Args:
        place: the address.

    Raises:
        BenchError: somebody listens.
    """
    with suppress(OSError):
        socket.create_connection((place.address, place.port), timeout=1).close()
        raise BenchError(f"another program listens at {place.address}:{place.port}: is a second bench running?")


def wait_for(place: Place, process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait until a program listens.

    Args:
        place: where the program listens.
        process: the program.
        seconds: the longest wait.

    Raises:
        BenchError: the program has ended, or the time is over.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=1).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"{process.args!r} does not listen at {place}: {error}") from error
            time.sleep(0.05)
        else:
            return
