"""Waiting for something to come true, with an end."""

import socket
import time
from contextlib import suppress

from provision.lab.shell import LabError


def wait_for_port(address: str, port: int, timeout: float = 20) -> None:
    """Wait until something listens there.

    Raises:
        LabError: nothing did in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        with suppress(OSError), socket.create_connection((address, port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise LabError(f"nothing listens on {address}:{port} after {timeout:g} seconds")
        time.sleep(0.02)
