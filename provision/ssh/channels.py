"""One exec on a channel: its two streams, what goes in, and what sudo says before it lets anything in."""

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable
from typing import IO, Any

import paramiko

from provision.errors import FactError, HostError, RefusedError

GRACE = 30.0  # seconds for standard error to end after standard output has
MSG_CHANNEL_REQUEST = b"\x62"  # 98, RFC 4254
BECOME_TIMEOUT = 30.0  # seconds for sudo to answer; its delay after a wrong password is about two


def sudo_refusal(stderr: str) -> HostError | None:
    """What sudo's words on standard error mean, or None if it did not refuse.

    Args:
        stderr: what came on standard error where no answer came.
    """
    if re.search(r"a password is required|a terminal is required", stderr):
        return RefusedError("sudo asks for a password", "give it with -K or ansible_become_password", stderr=stderr)
    if re.search(r"Sorry, try again|incorrect password|no password was provided", stderr):
        return RefusedError("the sudo password is wrong", "give another one with -K", stderr=stderr)
    if re.search(r"not in the sudoers file|not allowed to (execute|run sudo)|may not run sudo", stderr):
        return RefusedError("the user may not use sudo", "allow it in sudoers, or connect as root", stderr=stderr)
    if re.search(r"sudo: (command )?not found", stderr):
        return RefusedError("sudo is not installed", "install it, or connect as root", stderr=stderr)
    return None


class Collector:
    """Reads one stream of a channel to its end in a thread of its own, so that neither stream can block the other.

    Args:
        recv: gives up to so many bytes; none at the end of the stream.
        limit: bytes that are kept.
    """

    def __init__(self, recv: Callable[[int], bytes], limit: int) -> None:
        self._recv = recv
        self._limit = limit
        self._data = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def so_far(self) -> bytes:
        """What has come until now."""
        return bytes(self._data)

    def join(self) -> bytes:
        """All of it, once the stream has ended."""
        self._thread.join(GRACE)
        return bytes(self._data)

    def _run(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while chunk := self._recv(65536):
                if len(self._data) < self._limit:
                    self._data += chunk


def start(channel: paramiko.Channel, line: str) -> None:
    """Have sshd run a line, and do not wait for its word that it does, as paramiko's `exec_command` would for a whole
    round trip: where it does not (RFC 4254, 6.5: the reply is optional) the channel ends without an answer of ours.

    Args:
        channel: just opened.
        line: for the user's login shell.
    """
    message = paramiko.Message()
    message.add_byte(MSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exec")
    message.add_boolean(False)
    message.add_string(line)
    transport: Any = channel.get_transport()
    transport._send_user_message(message)


def read(channel: paramiko.Channel, deadline: float, on_data: Callable[[bytes], None] | None, limit: int) -> bytes:
    """Read standard output to its end.

    Args:
        channel: the channel.
        deadline: on the monotonic clock, in seconds.
        on_data: is given what comes instead of it being kept; or None.
        limit: bytes that may come.

    Raises:
        TimeoutError: it did not end in time.
        FactError: more came.
    """
    data = bytearray()
    while True:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = channel.recv(65536)
        if not chunk:
            return bytes(data)
        if on_data is not None:
            on_data(chunk)
        elif len(data) + len(chunk) > limit:
            raise FactError(f"the host sends more than {limit >> 20} MiB", "look at the host")
        else:
            data += chunk


def exit_status(channel: paramiko.Channel, deadline: float) -> int:
    """The exit code, which follows the end of the output; a host that stops answering between them says none.

    Args:
        channel: the channel; its output has ended.
        deadline: on the monotonic clock, in seconds.

    Raises:
        TimeoutError: it did not come in time.
    """
    if not channel.status_event.wait(max(deadline - time.monotonic(), 0.001)):
        raise TimeoutError
    return channel.recv_exit_status()


def await_word(channel: paramiko.Channel, stderr: Collector, word: bytes) -> None:
    """Wait until the loader says that it is there.

    Args:
        channel: the channel.
        stderr: what reads its standard error.
        word: what the loader says.

    Raises:
        HostError: sudo refuses, or says nothing.
    """
    seen = b""
    deadline = time.monotonic() + BECOME_TIMEOUT
    while not seen.endswith(word):
        refusal = sudo_refusal(stderr.so_far().decode(errors="replace"))
        if refusal is not None:
            raise refusal
        if time.monotonic() > deadline:
            raise RefusedError("sudo does not answer", "log in and try `sudo true`", stderr=stderr.so_far().decode())
        channel.settimeout(0.2)
        try:
            chunk = channel.recv(4096)
        except TimeoutError:
            continue
        if not chunk:
            said = stderr.join().decode(errors="replace")
            raise sudo_refusal(said) or RefusedError("sudo refused", "log in and try `sudo true`", stderr=said)
        seen += chunk


def send(channel: paramiko.Channel, text: bytes, source: IO[bytes] | None, deadline: float) -> None:
    """Send everything, and that it was all. What the other side closed early has words that are still to be read.

    Args:
        channel: the channel.
        text: what goes first.
        source: what follows; or None.
        deadline: on the monotonic clock, in seconds.

    Raises:
        TimeoutError: it could not be sent in time.
    """
    chunks = itertools.chain([text], iter(lambda: source.read(65536) if source else b"", b""))
    try:
        for chunk in chunks:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            channel.sendall(chunk)
        channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        return
