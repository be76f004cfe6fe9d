"""Locks of the lab on this machine, by name: of a lab, of the cache, of the images, of the machine's record."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from provision.lab import paths


@contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock; yield whether we hold it.

    Args:
        name: a lab's name, `_cache` (files that labs share), `_vm` (disk images) or `_machine` (the machine's record).
        wait: whether to wait for another holder; without, another holder makes the answer False.
    """
    paths.STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (paths.STATE / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
