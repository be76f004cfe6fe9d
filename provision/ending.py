"""How the work on hosts ends: by itself or by Ctrl-C, and the word for what became of a host."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any

from provision.context import Context, Stopped
from provision.errors import HostError, LockedError, UnreachableError


def await_all(futures: Sequence[Future[Any]], interrupt: Callable[..., None]) -> None:
    """Wait for all of them, also after Ctrl-C: a thread that works on a host is never left alone.

    Args:
        futures: what is done in threads; the first error of one is raised.
        interrupt: called at every Ctrl-C, with `now` true from the second on. The first asks them to stop after what
            they are at, the second cuts their connections.
    """
    pressed = 0
    pending = set(futures)
    while pending:
        try:
            done, pending = wait(pending, timeout=0.5)
        except KeyboardInterrupt:
            pressed += 1
            interrupt(now=pressed > 1)
            continue
        for future in done:
            future.result()


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
