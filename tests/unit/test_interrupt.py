"""The wish to stop: the signals, the message at that moment, and a terminal that has closed."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from provision.runs import interrupt

HOSTS = ["gpu-01", "lb-01"]


class Wishes:
    """The calls of the handler of a run, in order."""

    def __init__(self) -> None:
        self.seen: list[bool] = []
        self._more = threading.Condition()

    def __call__(self, *, now: bool) -> None:
        with self._more:
            self.seen.append(now)
            self._more.notify_all()

    def wait(self, count: int) -> None:
        """Wait for a number of calls."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.seen) >= count, 60), self.seen


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_each_signal_asks_for_an_end_and_a_second_signal_cuts(number: signal.Signals) -> None:
    before, wishes = signal.getsignal(number), Wishes()
    with interrupt.at_ctrl_c(wishes, together=0.0):
        for count in (1, 2):
            signal.raise_signal(number)
            wishes.wait(count)
    assert wishes.seen == [False, True]
    assert signal.getsignal(number) == before


def test_signals_sent_together_are_one_wish_and_ctrl_c_is_always_a_wish() -> None:
    wishes = Wishes()
    with interrupt.at_ctrl_c(wishes, together=60.0):
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.raise_signal(number)
        wishes.wait(2)
    assert wishes.seen == [False, True]


def test_an_ignored_signal_stays_ignored_and_other_signals_count() -> None:
    before, wishes = signal.signal(signal.SIGHUP, signal.SIG_IGN), Wishes()
    try:
        with interrupt.at_ctrl_c(wishes):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            wishes.wait(1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert wishes.seen == [False]


@pytest.mark.parametrize(
    ("number", "hosts", "said"),
    [
        (signal.SIGINT, HOSTS, "finishing what is under way on gpu-01, lb-01; press Ctrl-C again to cut it off"),
        (
            signal.SIGTERM,
            HOSTS,
            "SIGTERM: finishing what is under way on gpu-01, lb-01; send a second signal to cut it off",
        ),
        (signal.SIGHUP, [], "SIGHUP: stopping; nothing is under way on any host"),
        (signal.SIGINT, list("abcdefghij"), "on a, b, c, d, e, f, g, h and 2 more; press"),
    ],
)
def test_a_signal_is_answered_before_any_other_work(
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    hosts: list[str],
    said: str,
) -> None:
    heard: list[str] = []
    wishes = Wishes()

    def stop(*, now: bool) -> None:
        heard.append(capsys.readouterr().err)
        wishes(now=now)

    with interrupt.at_ctrl_c(stop, lambda: hosts, at_once=30.0):
        signal.raise_signal(number)
        wishes.wait(1)
    assert said in heard[0]
    assert heard[0].count("\n") == 1


def test_the_second_signal_says_what_is_cut_and_the_third_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    wishes = Wishes()
    with interrupt.at_ctrl_c(wishes, lambda: HOSTS, at_once=30.0):
        for count in (1, 2, 3):
            signal.raise_signal(signal.SIGINT)
            wishes.wait(count)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1] == "cutting off what is under way on gpu-01, lb-01"


def test_a_bug_in_the_list_of_hosts_under_way_does_not_stop_the_wish() -> None:
    wishes = Wishes()
    with interrupt.at_ctrl_c(wishes, lambda: HOSTS[9:][0]):
        signal.raise_signal(signal.SIGTERM)
        wishes.wait(1)
    assert wishes.seen == [False]


# A command that waits for a signal, prints, and writes a file at the end.
COMMAND = """
import sys, threading
from pathlib import Path
from provision.report import console
from provision.cli import output
from provision.runs.interrupt import at_ctrl_c

def main():
    end = threading.Event()
    with at_ctrl_c(lambda *, now: end.set(), lambda: ["gpu-01"]):
        print("ready", flush=True)
        assert end.wait(60)
        for _ in range(1000):
            console.warn("x" * 80)
            console.say("x" * 80)
        Path(sys.argv[1]).write_text("given back")
    return 130

with output.guarded():
    code = main()
sys.exit(code)
"""


def started(end: int, path: Path, *, terminal: bool) -> subprocess.Popen[bytes]:
    """Start the command with both streams on the end of a pipe or of a controlling terminal."""

    def claim() -> None:
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(path)],
        stdin=end if terminal else subprocess.DEVNULL,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=claim,
    )


def closed_terminal(process: subprocess.Popen[bytes]) -> None:
    """Do nothing: the kernel sends SIGHUP to the process on a closed terminal."""


def terminated(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("opened", "then"), [(os.openpty, closed_terminal), (os.pipe, terminated)], ids=["terminal", "pipe"]
)
def test_a_run_ends_in_order_after_its_terminal_or_pipe_closed(
    tmp_path: Path, opened: Callable[[], tuple[int, int]], then: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    reader, end = opened()
    process = started(end, tmp_path / "done", terminal=opened is os.openpty)
    os.close(end)
    said = b""
    while b"\n" not in said:  # the line may come in parts
        said += os.read(reader, 1024)
    os.close(reader)
    then(process)
    assert process.wait(60) == 130
    assert (tmp_path / "done").read_text() == "given back"


def test_a_blocked_message_does_not_delay_the_wish() -> None:
    release, wishes = threading.Event(), Wishes()

    def under_way() -> list[str]:
        release.wait(30)
        raise InterruptedError  # no message after the test

    with interrupt.at_ctrl_c(wishes, under_way):
        signal.raise_signal(signal.SIGTERM)
        wishes.wait(1)
        assert not release.is_set()
    release.set()
