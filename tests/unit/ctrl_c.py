"""Ctrl-C in the form of a terminal: a signal to this process."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provision.runs.interrupt import at_ctrl_c


@contextmanager
def pressed(interrupt: Callable[..., None], *when: threading.Event) -> Iterator[None]:
    """Press Ctrl-C in a thread after each of some events, while the caller runs the block.

    Args:
        interrupt: the handler of a run.
        when: the events, in order; Ctrl-C follows each.
    """

    def press() -> None:
        for event in when:
            if event.wait(60):
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    with at_ctrl_c(interrupt):
        thread.start()
        yield
        thread.join()
