"""Waiting for a condition, with a deadline."""

import socket
import time
from contextlib import suppress

from provision.lab.emulation import machine_factor
from provision.lab.shell import LabError


def wait_for_port(address: str, port: int, timeout: float = 180) -> None:
    """Wait until a server listens on a port.

    Args:
        address: an IPv4 address.
        port: a TCP port.
        timeout: seconds, on a machine that is not emulated.

    Raises:
        LabError: no server listened in time.
    """
    seconds = timeout * machine_factor()
    deadline = time.monotonic() + seconds
    while True:
        # a handshake over a delay line on a busy machine may take longer than a second
        with suppress(OSError), socket.create_connection((address, port), timeout=10 * machine_factor()):
            return
        if time.monotonic() > deadline:
            raise LabError(f"nothing listens on {address}:{port} after {seconds:g} seconds")
        time.sleep(0.02)
