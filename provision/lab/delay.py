"""A delay line in user space, for kernels without netem. A program of its own, on the standard library alone.

    python delay.py NETNS DEVICE HERE SECONDS

makes a TAP device HERE in its own network namespace and DEVICE in the other, and hands every frame from one device to
the other SECONDS after the frame came.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_CLONE_NEWNET = 0x40000000


def tap(name: str) -> int:
    """Make a TAP device in the present namespace and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _TAP_WITHOUT_HEADER))
    return descriptor


def enter(netns: str) -> None:
    """Move this process into a network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(netns, os.O_RDONLY)
    if library.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")


def carry(near: int, far: int, seconds: float) -> None:
    """Hand frames over until killed; each direction keeps the order of its frames."""
    waiting: dict[int, deque[tuple[float, bytes]]] = {near: deque(), far: deque()}
    target = {near: far, far: near}
    while True:
        due = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        pause = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([near, far], [], [], pause)
        for source in readable:
            take(source, waiting[source], seconds)
        now = time.monotonic()
        for source, queue in waiting.items():
            while queue and queue[0][0] <= now:
                give(target[source], queue.popleft()[1])


def take(source: int, queue: deque[tuple[float, bytes]], seconds: float) -> None:
    """Read every frame that has come.

    Raises:
        EOFError: no more frames can come.
    """
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            frame = os.read(source, 65536)
            if not frame:
                raise EOFError
            queue.append((time.monotonic() + seconds, frame))


def give(target: int, frame: bytes) -> None:
    """Write a frame. A frame that the device refuses is lost, as on a wire."""
    try:
        os.write(target, frame)
    except OSError:
        return


def main(netns: str, device: str, here: str, seconds: str) -> None:
    """Make both devices and carry frames between them."""
    near = tap(here)
    enter(netns)
    carry(near, tap(device), float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
