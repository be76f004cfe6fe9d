"""How the work on hosts ends: by itself or by Ctrl-C, and the word for what became of a host."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from provision.context import Context, Stopped
from provision.errors import HostError, LockedError, UnreachableError


@contextlib.contextmanager
def at_ctrl_c(interrupt: Callable[..., None]) -> Iterator[None]:
    """Have Ctrl-C ask for an end, and break off nothing: not a step, nor that locks are given back, nor the recap.

    Args:
        interrupt: called at every Ctrl-C, with `now` true from the second on. The first asks to stop after what is
            being done, the second cuts the connections.
    """
    before = signal.getsignal(signal.SIGINT)
    # A shell has programs that it puts into the background ignore it, and only the main thread is told of signals.
    if before == signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    # By the wakeup descriptor: a handler runs in the main thread, which may just have begun to wait for hours.
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def work() -> None:
        presses = 0
        with reader:
            while number := reader.recv(1):
                if number[0] == signal.SIGINT:
                    presses += 1
                    with contextlib.suppress(Exception):  # else the next press, which cuts, would not be heard
                        interrupt(now=presses > 1)

    threading.Thread(target=work, name="ctrl-c", daemon=True).start()
    signal.signal(signal.SIGINT, lambda *_: None)
    woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGINT, before)
        writer.close()


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
