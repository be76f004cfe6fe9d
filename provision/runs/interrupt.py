"""The end of a run: by itself, by Ctrl-C or another signal; and the word for the result of a host."""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from provision.errors import HostError, LockedError, UnreachableError
from provision.runs.context import Context, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds within which signals other than Ctrl-C count as a single signal: shells, `timeout` and systemd send several.
TOGETHER = 1.0
AT_ONCE = 0.2  # seconds for the message about a signal before the run is asked to stop in any case
NAMED = 8  # hosts shown by name


@contextlib.contextmanager
def at_ctrl_c(
    interrupt: Callable[..., None],
    under_way: Callable[[], Sequence[str]] = lambda: (),
    *,
    together: float = TOGETHER,
    at_once: float = AT_ONCE,
) -> Iterator[None]:
    """Have Ctrl-C request a stop, and interrupt nothing: no step, no release of a lock, no recap.

    SIGTERM, and the SIGHUP of a closed terminal, request the same.

    Args:
        interrupt: called at every Ctrl-C, with `now` true from the second on. The first asks for a stop after the
            present steps, the second cuts the connections.
        under_way: returns the hosts with work under way, for the message to the operator.
        together: seconds within which signals that no key sends count as one signal.
        at_once: seconds for the message about a signal before the run is asked to stop in any case.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A shell has background programs ignore SIGINT, and nohup has programs ignore SIGHUP. Only the main thread gets
    # signals.
    heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    if not heard or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A wakeup descriptor, because a handler runs in the main thread, and that thread may have begun to wait for hours.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    listener = partial(_listen, reader, interrupt, under_way, together, at_once)
    threading.Thread(target=listener, name="ctrl-c", daemon=True).start()
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


def _listen(
    reader: socket.socket,
    interrupt: Callable[..., None],
    under_way: Callable[[], Sequence[str]],
    together: float,
    at_once: float,
) -> None:
    """Pass on every request to stop, until the other end of the socket is closed."""
    wishes, last = 0, -together
    with reader:
        while data := reader.recv(1):
            number, now = data[0], time.monotonic()
            if number not in SIGNALS:
                continue
            _forget_lost()
            again, last = number == signal.SIGINT or now - last >= together, now
            if not again:
                continue
            wishes += 1
            if wishes <= 2:
                _say_at_once(number, under_way, at_once, cut=wishes > 1)
            with contextlib.suppress(Exception):  # else the next request, for the cut, would not be heard
                interrupt(now=wishes > 1)


def _say_at_once(number: int, under_way: Callable[[], Sequence[str]], at_once: float, *, cut: bool) -> None:
    """Confirm a signal to the operator. A terminal that nobody reads must not delay the stop."""

    def say() -> None:
        with contextlib.suppress(Exception):
            print(_heard(number, under_way(), cut=cut), file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    thread.join(at_once)


def _heard(number: int, hosts: Sequence[str], *, cut: bool) -> str:
    """Return the message at the moment of a signal.

    Args:
        number: the signal.
        hosts: the hosts with work under way.
        cut: whether this is the second signal.
    """
    key = number == signal.SIGINT
    names = ", ".join(hosts[:NAMED]) + (f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else "")
    if cut:
        message = f"cutting off what is under way on {names}" if hosts else "cutting every connection"
    elif hosts:
        how = "press Ctrl-C again" if key else "send a second signal"
        message = f"finishing what is under way on {names}; {how} to cut it off"
    else:
        message = "stopping; nothing is under way on any host"
    return message if key else f"{signal.Signals(number).name}: {message}"


def _forget_lost() -> None:
    """Send output to /dev/null if the terminal was closed or nobody reads the pipe: a write would fail."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def for_operator(error: HostError, context: Context, *, locked: bool) -> HostError:
    """Return an error as shown to the operator: a connection that the operator cut is no unreachable host.

    Args:
        error: of a host.
        context: of the run.
        locked: whether the host may hold the run's lock. Without a lock, the first Ctrl-C cuts the connection.
    """
    cut = context.cut.is_set() or (context.stop.is_set() and not locked)
    if cut and isinstance(error, UnreachableError):
        return Stopped("stopped at once: its connection was cut", "run the command again to go on", step=error.step)
    return error


def is_cut_off(error: HostError | None, context: Context) -> bool:
    """Whether a command may still be running on a failed host, because only the connection has ended.

    Args:
        error: of the host, or None.
        context: of the run.
    """
    return isinstance(error, UnreachableError) or (isinstance(error, Stopped) and context.cut.is_set())


def result(error: HostError | None, *, changed: bool) -> str:
    """Return `ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`.

    Args:
        error: the failure of a host, or None.
        changed: whether anything was changed on the host.
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
