"""The wish to stop: Ctrl-C, or the end of the terminal, noted and asked for at places where nothing is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def noted() -> Iterator[threading.Event]:
    """An event that the first of these signals sets; the second one raises KeyboardInterrupt, as ever."""
    wish = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if wish.is_set():
            raise KeyboardInterrupt
        wish.set()

    # What is ignored stays so: a shell does that to SIGINT of what it puts into the background.
    before = {one: signal.getsignal(one) for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN}
    for one in before:
        signal.signal(one, note)
    try:
        yield wish
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
