"""Ctrl-C, as the terminal sends it: a signal to this process."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provision.runs.interrupt import at_ctrl_c


@contextmanager
def pressed(interrupt: Callable[..., None], *when: threading.Event) -> Iterator[None]:
    """Press it as soon as these have come, one after the other, while what is inside is done.

    Args:
        interrupt: what a run does then.
        when: what is waited for before each time.
    """

    def press() -> None:
        for event in when:
            if event.wait(5):
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    with at_ctrl_c(interrupt):
        thread.start()
        yield
        thread.join()
