"""How the work on hosts ends: by itself, by Ctrl-C or another signal; and the word for what became of a host."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from provision.errors import HostError, LockedError, UnreachableError
from provision.runs.context import Context, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER = 1.0  # seconds within which signals that no key sends are one: shells, `timeout` and systemd send several
AT_ONCE = 0.2  # seconds that the answer to a signal may take before the run is asked to end all the same
NAMED = 8  # hosts that are named


@contextlib.contextmanager
def at_ctrl_c(interrupt: Callable[..., None], under_way: Callable[[], Sequence[str]] = lambda: ()) -> Iterator[None]:
    """Have Ctrl-C ask for an end, and break off nothing: not a step, nor that locks are given back, nor the recap.

    SIGTERM and the SIGHUP of a closed terminal ask for the same.

    Args:
        interrupt: called at every Ctrl-C, with `now` true from the second on. The first asks to stop after what is
            being done, the second cuts the connections.
        under_way: the hosts on which something is being done, which the operator is told at once.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A shell has programs that it puts into the background ignore SIGINT, nohup has them ignore SIGHUP. Only the main
    # thread is told of signals.
    heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    if not heard or threading.current_thread() is not threading.main_thread():
        yield
        return
    # By the wakeup descriptor: a handler runs in the main thread, which may just have begun to wait for hours.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    threading.Thread(target=_listen, args=(reader, interrupt, under_way), name="ctrl-c", daemon=True).start()
    for number in heard:
        signal.signal(number, lambda *_: None)
    woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number in heard:
            signal.signal(number, before[number])
        writer.close()


def _listen(reader: socket.socket, interrupt: Callable[..., None], under_way: Callable[[], Sequence[str]]) -> None:
    """Pass on every wish to stop, until the other end of the socket is closed."""
    wishes, last = 0, -TOGETHER
    with reader:
        while data := reader.recv(1):
            number, now = data[0], time.monotonic()
            if number not in SIGNALS:
                continue
            _forget_lost()
            again, last = number == signal.SIGINT or now - last >= TOGETHER, now
            if not again:
                continue
            wishes += 1
            if wishes <= 2:
                _say_at_once(number, under_way, cut=wishes > 1)
            with contextlib.suppress(Exception):  # else the next wish, which cuts, would not be heard
                interrupt(now=wishes > 1)


def _say_at_once(number: int, under_way: Callable[[], Sequence[str]], *, cut: bool) -> None:
    """Tell the operator that he was heard. Whoever does not read it holds up nothing."""

    def say() -> None:
        with contextlib.suppress(Exception):
            print(_heard(number, under_way(), cut=cut), file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    thread.join(AT_ONCE)


def _heard(number: int, hosts: Sequence[str], *, cut: bool) -> str:
    """What is said at the moment of a signal.

    Args:
        number: the signal.
        hosts: the hosts on which something is being done.
        cut: whether it is the second one.
    """
    key = number == signal.SIGINT
    names = ", ".join(hosts[:NAMED]) + (f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else "")
    if cut:
        said = f"cutting off what is under way on {names}" if hosts else "cutting every connection"
    elif hosts:
        how = "press Ctrl-C again" if key else "send a second signal"
        said = f"finishing what is under way on {names}; {how} to cut it off"
    else:
        said = "stopping; nothing is under way on any host"
    return said if key else f"{signal.Signals(number).name}: {said}"


def _forget_lost() -> None:
    """Write nothing any more to a terminal that was closed, or to a pipe that nobody reads: that would fail."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def told(error: HostError, context: Context, *, locked: bool) -> HostError:
    """An error as the operator is told it: a connection that he cut himself is no host that is out of reach.

    Args:
        error: of a host.
        context: of the run.
        locked: whether the host may hold the run's lock: else the first Ctrl-C has cut its connection.
    """
    cut = context.cut.is_set() or (context.stop.is_set() and not locked)
    if cut and isinstance(error, UnreachableError):
        return Stopped("stopped at once: its connection was cut", "run it again to go on", step=error.step)
    return error


def is_cut_off(error: HostError | None, context: Context) -> bool:
    """Whether what was being done when a host failed may still be done there, because only the connection has ended.

    Args:
        error: of the host, or None.
        context: of the run.
    """
    return isinstance(error, UnreachableError) or (isinstance(error, Stopped) and context.cut.is_set())


def result(error: HostError | None, *, changed: bool) -> str:
    """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`.

    Args:
        error: what failed on a host, or None.
        changed: whether anything was changed there.
    """
    match error:
        case None:
            return "changed" if changed else "ok"
        case UnreachableError():
            return "unreachable"
        case LockedError():
            return "locked"
        case Stopped():
            return "stopped"
    return "failed"
