"""One SSH connection per host, and all commands and files over the connection.

Knows commands, not steps. Every batch of commands is one exec: a script on the standard input of a root shell.
No SFTP: files ride in the script or on the standard input of a command, so a host without SFTP works like any other.
"""

import contextlib
import logging
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import IO

import fabric
import paramiko

from provision.command import SLOW, Run
from provision.errors import UnreachableError
from provision.inventory import Connection
from provision.ssh import channels, host_paths
from provision.ssh.connect import open_connection, text_of
from provision.ssh.host_paths import HostPaths
from provision.ssh.transport import OUTPUT_LIMIT, ShellTransport, Transport

Dial = Callable[[Connection, fabric.Connection | None, Callable[[fabric.Connection], None]], fabric.Connection]
"""Logs in to a machine; see `connect.open_connection`."""

LOG = logging.getLogger(__name__)
STDERR_LIMIT = 65536  # bytes of standard error of a followed program to keep
FREED = 5.0  # seconds for sshd to notice a closed channel

# Prints a ready line, drops every line up to a word (among them a password that sudo did not ask for), and becomes the
# program that reads the rest. `read` takes one byte at a time, so no byte of the rest is lost.
LOADER = 'echo ready-{word}; while IFS= read -r line; do case $line in {word}) exec "$@";; esac; done'
# The parser of sudo's words expects English.
SUDO = 'LC_ALL=C; export LC_ALL; exec sudo -n "$@"'


class Session(ShellTransport):
    """An open connection to one host, as root. Opened at the first use.

    Args:
        connection: address, login and jump hosts.
        become_password: overrides the inventory's sudo password (`-K`).
        paths: the folders of runs on the host.
        dial: logs in to a machine.

    Raises (all methods):
        UnreachableError: no connection, or a lost connection. HostKeyError for a key that is not the known key.
        HostError: sudo refused.
    """

    def __init__(
        self,
        connection: Connection,
        become_password: str | None = None,
        paths: HostPaths = host_paths.DEFAULT,
        dial: Dial = open_connection,
    ) -> None:
        super().__init__(paths, connection.timeout_factor)
        self.connection = connection
        self.execs = 0
        self._dial = dial
        self.connects = 0
        self._client: fabric.Connection | None = None
        self._opening: Future[fabric.Connection] | None = None
        self._hops: list[fabric.Connection] = []
        self._begun: list[fabric.Connection] = []  # connections in the opening
        self._closes = 0  # number of calls of `close`
        self._channels = 0  # open channels
        self._dialling = threading.Lock()  # held while a connection is opened: at most one is open
        self._lock = threading.Lock()
        own = connection.become_password
        self._password = become_password if become_password is not None else own.reveal() if own else None

    def begin(self) -> None:
        """Begin to connect in the background. The first method that needs the connection raises the error."""
        opening: Future[fabric.Connection] = Future()
        self._opening = opening
        closes = self._closes

        def work() -> None:
            try:
                opening.set_result(self._open(closes))
            except BaseException as error:  # noqa: BLE001 - raised again where the connection is waited for
                opening.set_exception(error)

        threading.Thread(target=work, daemon=True).start()

    def open(self) -> None:
        """Connect, unless connected."""
        self._connected()

    @property
    def client(self) -> fabric.Connection | None:
        """The open connection; None where there is none."""
        return self._client

    def close(self) -> None:
        """Close the connection and its jumps. Safe at any time, also from another thread."""
        with self._lock:
            hops = [*self._hops, *self._begun]
            self._hops, self._begun, self._client = [], [], None
            self._closes += 1
        for hop in reversed(hops):
            with contextlib.suppress(Exception):
                hop.client.close()

    def exec(
        self,
        text: bytes,
        limit_s: float,
        on_data: Callable[[bytes], None] | None = None,
        *,
        extra: IO[bytes] | None = None,
        limit: int = OUTPUT_LIMIT,
        program: Sequence[str] = ("sh", "-s"),
        beside: bool = False,
    ) -> tuple[bytes, bytes, int]:
        """Run one program as root over a channel of its own; see `ShellTransport`."""
        client = self._connected(reopen=not beside)
        deadline = time.monotonic() + limit_s
        try:
            with self._channel(client.transport) as channel:
                stderr = channels.Collector(channel.recv_stderr, limit)
                rest = self._become(channel, stderr, program)
                channels.send(channel, rest + text, extra, deadline)
                stdout = channels.read(channel, deadline, on_data, limit)
                err = stderr.join()
                code = channels.exit_status(channel, deadline)
                LOG.debug(
                    "%s: exec of %d bytes, exit %d, %d bytes back, %.2f s",
                    *(self.connection.address, len(text), code, len(stdout), time.monotonic() - deadline + limit_s),
                )
                return stdout, err, code
        except TimeoutError as error:
            if not beside:
                self.close()
            raise UnreachableError(
                f"no answer within {limit_s:.0f} s", f"look at the host, then run the command again; {SLOW}"
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not beside:
                self.close()
            raise UnreachableError(f"the connection was lost: {text_of(error)}", "run the command again") from error

    def follow(self, run: Run, on_out: Callable[[bytes], None], on_error: Callable[[bytes], None] | None = None) -> int:
        """Run one program over a channel of its own, until the program or the connection ends; see `Transport`."""
        client = self._connected()
        try:
            with self._channel(client.transport) as channel:
                stderr = channels.Collector(channel.recv_stderr, STDERR_LIMIT, on_error)
                rest = self._become(channel, stderr, run.words)
                channel.settimeout(channels.BECOME_TIMEOUT * self.timeout_factor)
                channel.sendall(rest + run.stdin)
                channel.settimeout(None)
                silent = True
                while chunk := channel.recv(65536):
                    silent = False
                    on_out(chunk)
                err = stderr.join().decode(errors="replace")
                if silent and self.connection.become and (refusal := channels.sudo_refusal(err)):
                    raise refusal
                return channels.exit_status(channel, time.monotonic() + channels.GRACE)
        except TimeoutError as error:
            raise UnreachableError("the program ended without an exit code", "run the command again") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise UnreachableError(f"the connection was lost: {text_of(error)}", "run the command again") from error

    @contextlib.contextmanager
    def _channel(self, transport: paramiko.Transport) -> Iterator[paramiko.Channel]:
        """Open a channel. If sshd allows no more channels (MaxSessions), wait until another channel of ours has ended.

        sshd opens a channel before it notices channels that were closed just before: even two execs in sequence need
        two.
        """
        deadline = time.monotonic() + FREED
        while True:
            try:
                channel = transport.open_session(timeout=channels.BECOME_TIMEOUT * self.timeout_factor)
                break
            except paramiko.SSHException:  # ChannelException comes only for the first of several refusals
                if not transport.is_active() or (not self._channels and time.monotonic() > deadline):
                    raise
                time.sleep(0.05)
        self._count(1)
        try:
            yield channel
        finally:
            channel.close()
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._channels += more
            self.execs += max(more, 0)

    def _become(self, channel: paramiko.Channel, stderr: channels.Collector, program: Sequence[str]) -> bytes:
        """Start a program as root; the returned bytes must be sent before the program's standard input."""
        if not self.connection.become:
            channels.start(channel, shlex.join(program))
            stderr.start()
            return b""
        if self._password is None:
            channels.start(channel, shlex.join(("sh", "-c", SUDO, "sudo", *program)))
            stderr.start()
            return b""
        word = secrets.token_hex(16)
        loader = LOADER.format(word=word)
        loaded = shlex.join(("sh", "-c", loader, "loader", *program))
        line = f"LC_ALL=C; export LC_ALL; if sudo -n true 2>/dev/null; then exec sudo -n {loaded}; "
        line += f"else exec sudo -S -p '' {loaded}; fi"
        channels.start(channel, shlex.join(("sh", "-c", line)))
        stderr.start()
        channel.sendall(self._password.encode() + b"\n")
        channels.await_word(channel, stderr, f"ready-{word}\n".encode(), channels.BECOME_TIMEOUT * self.timeout_factor)
        return word.encode() + b"\n"

    def _connected(self, *, reopen: bool = True) -> fabric.Connection:
        """Return the open connection; open a connection if there is none.

        Args:
            reopen: whether to open a closed connection too, not only a lost connection.

        Raises:
            UnreachableError: the connection is closed and not to be opened, or cannot be opened.
        """
        with self._dialling:
            with self._lock:
                if self._client is None and not reopen:
                    raise UnreachableError("the connection is closed", "run the command again")
                closes = self._closes
                opening, self._opening = self._opening, None  # taken once: the connection may be closed later
                if self._client is not None and self._client.is_connected:
                    return self._client
            return opening.result() if opening else self._open(closes)

    def _open(self, closes: int) -> fabric.Connection:
        """Open the connection.

        Args:
            closes: the number of calls of `close` when the connection was requested.
        """
        hops: list[fabric.Connection] = []
        with self._lock:
            self._begun = hops
        try:
            for target in (*self.connection.jumps, self.connection):
                self._dial(target, hops[-1] if hops else None, hops.append)
            with self._lock:
                if closes != self._closes:  # closed while it was opened: not to be used
                    raise UnreachableError("the connection was closed while it was opened", "run the command again")
                self._hops, self._begun, self._client = hops, [], hops[-1]
                self.connects += 1
        except BaseException:
            for hop in reversed(hops):
                hop.client.close()
            raise
        return hops[-1]


def straight(transport: Transport) -> tuple[str, str] | None:
    """Return the addresses of this machine and of the host, if a connection is open and goes straight to the host.

    Args:
        transport: the way to the host; None for a way over a jump host or a proxy, and for a way without SSH.
    """
    client = transport.client if isinstance(transport, Session) else None
    channel = client.transport if client else None
    sock = channel.sock if channel else None
    if not isinstance(sock, socket.socket):
        return None
    try:
        return str(sock.getsockname()[0]), str(sock.getpeername()[0])
    except OSError:
        return None
