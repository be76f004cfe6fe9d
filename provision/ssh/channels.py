"""One exec on a channel: standard output and error, the input, and sudo's words before the program reads its input."""

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable
from typing import IO, Any

import paramiko

from provision.errors import FactError, HostError, RefusedError

GRACE = 30.0  # seconds for standard error to end after standard output
MSG_CHANNEL_REQUEST = b"\x62"  # 98, RFC 4254
BECOME_TIMEOUT = 30.0  # seconds for sudo to answer; the delay after a wrong password is about two


def sudo_refusal(stderr: str) -> HostError | None:
    """Return the error that sudo's words on standard error mean, or None without a refusal.

    Args:
        stderr: standard error of a command without an answer.
    """
    if re.search(r"a password is required|a terminal is required", stderr):
        hint = "give the password with -K or ansible_become_password"
        return RefusedError("sudo asks for a password", hint, stderr=stderr)
    if re.search(r"Sorry, try again|incorrect password|no password was provided", stderr):
        return RefusedError("the sudo password is wrong", "give the right password with -K", stderr=stderr)
    if re.search(r"not in the sudoers file|not allowed to (execute|run sudo)|may not run sudo", stderr):
        return RefusedError("the user may not use sudo", "allow the user in sudoers, or connect as root", stderr=stderr)
    if re.search(r"sudo: (command )?not found", stderr):
        return RefusedError("sudo is not installed", "install sudo, or connect as root", stderr=stderr)
    return None


class Collector:
    """Reads one stream of a channel to its end in its own thread, so that neither stream can block the other.

    Args:
        recv: returns up to some number of bytes; none at the end of the stream.
        limit: bytes to keep.
        on_data: called with every piece of the stream; None for nobody.
    """

    def __init__(
        self, recv: Callable[[int], bytes], limit: int, on_data: Callable[[bytes], None] | None = None
    ) -> None:
        self._recv = recv
        self._limit = limit
        self._on_data = on_data
        self._data = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def so_far(self) -> bytes:
        """Return the bytes read so far."""
        return bytes(self._data)

    def join(self) -> bytes:
        """Wait for the end of the stream, and return all bytes."""
        self._thread.join(GRACE)
        return bytes(self._data)

    def _run(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while chunk := self._recv(65536):
                if len(self._data) < self._limit:
                    self._data += chunk
                if self._on_data is not None:
                    self._on_data(chunk)


def start(channel: paramiko.Channel, line: str) -> None:
    """Have sshd run a line, without waiting for sshd's reply as paramiko's `exec_command` would, for a whole round
    trip. The reply is optional (RFC 4254, 6.5). If sshd refuses, the channel ends without an answer of ours.

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
        on_data: gets the output, which is not kept then; or None.
        limit: the most bytes to accept.

    Raises:
        TimeoutError: the output did not end in time.
        FactError: the host sent more bytes.
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
    """Return the exit code, which follows the end of the output. A host that stops answering in between sends none.

    Args:
        channel: the channel, with ended output.
        deadline: on the monotonic clock, in seconds.

    Raises:
        TimeoutError: the exit code did not come in time.
    """
    if not channel.status_event.wait(max(deadline - time.monotonic(), 0.001)):
        raise TimeoutError
    return channel.recv_exit_status()


def await_word(channel: paramiko.Channel, stderr: Collector, word: bytes, seconds: float = BECOME_TIMEOUT) -> None:
    """Wait until the loader has started.

    Args:
        channel: the channel.
        stderr: reads standard error.
        word: the loader's first output.
        seconds: the longest wait.

    Raises:
        HostError: sudo refuses, or does not answer.
    """
    seen = b""
    deadline = time.monotonic() + seconds
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
            words = stderr.join().decode(errors="replace")
            raise sudo_refusal(words) or RefusedError("sudo refused", "log in and try `sudo true`", stderr=words)
        seen += chunk


def send(channel: paramiko.Channel, text: bytes, source: IO[bytes] | None, deadline: float) -> None:
    """Send all input, and close the input. If the host closes the channel early, its output has still to be read.

    Args:
        channel: the channel.
        text: the first part of the input.
        source: the rest of the input, or None.
        deadline: on the monotonic clock, in seconds.

    Raises:
        TimeoutError: the input could not be sent in time.
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
