"""One SSH connection per host, and everything that goes over it. The only module that imports fabric and paramiko.

Knows commands, not steps. Every batch of commands is one exec: a script on the standard input of a root shell.
No SFTP: what is sent rides in the script or on the standard input of a command, so hosts with SFTP switched off
are hosts like any other.
"""

import contextlib
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import fabric
import paramiko

from provision import jobs, script
from provision.command import Answer, Put, Run
from provision.errors import FactError, HostError, HostKeyError, RefusedError, UnreachableError
from provision.inventory import Connection

OUTPUT_LIMIT = 32 * 1024 * 1024  # bytes of one exec's output that are kept; a host that sends more is not believed
GRACE = 30.0  # seconds beyond the commands' own timeouts before the host counts as gone
DEAD_PEER_MS = 30_000  # unacknowledged bytes are given up after this long (TCP_USER_TIMEOUT)
BECOME_TIMEOUT = 30.0  # seconds for sudo to answer; its delay after a wrong password is about two

# Prints that it is there, drops every line up to the word it waits for (a password that sudo did not ask for among
# them) and becomes the program that reads the rest. `read` takes one byte at a time, so nothing of the rest is lost.
LOADER = 'echo ready-{word}; while IFS= read -r line; do case $line in {word}) exec "$@";; esac; done'
# $1 path, $2 mode. In one line, because it goes through the user's login shell, whatever that is.
RECEIVE = (
    'umask 077; new=$(mktemp "$1.XXXXXXXXXX") && cat >"$new" && chmod "$2" "$new" && sync -- "$new" && '
    'mv -fT -- "$new" "$1" || { rm -f -- "$new"; exit 1; }'
)


class _KnownHostsOnly(paramiko.MissingHostKeyPolicy):
    """Refuses every key that is not in known_hosts, as ssh does with StrictHostKeyChecking=yes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        alias = self.connection.host_key_alias
        known = client.get_host_keys().lookup(alias) or client._system_host_keys.lookup(alias) if alias else None  # type: ignore[attr-defined]
        if known and known.get(key.get_name()) == key:
            return
        files = ", ".join(self.connection.known_hosts)
        raise HostKeyError(
            f"the host key of {hostname} is not known ({key.get_name()} {key.fingerprint})",
            f"compare it on the host's console, then: provision trust (it writes to {files})",
        )


class Session:
    """An open connection to one host, as root. Opened when it is first used.

    Args:
        connection: how to reach the host.
        become_password: overrides the inventory's sudo password (`-K`).

    Raises (all methods):
        UnreachableError: no connection, or it was lost. HostKeyError for a key that is not the known one.
        HostError: sudo refused.
    """

    def __init__(self, connection: Connection, become_password: str | None = None) -> None:
        self.connection = connection
        self.execs = 0
        self.connects = 0
        self._client: fabric.Connection | None = None
        self._hops: list[fabric.Connection] = []
        self._lock = threading.Lock()
        own = connection.become_password
        self._password = become_password if become_password is not None else own.reveal() if own else None

    def batch(self, commands: Sequence[Run | Put], *, stop: bool) -> list[Answer]:
        """Run commands one after the other, in one exec.

        Args:
            commands: what to run; `job` is not honoured here.
            stop: whether a failing command ends it.

        Returns:
            the answers of the commands that ran: all of them, or up to the first that failed.
        """
        mark = script.make_mark()
        limit = sum(c.timeout if isinstance(c, Run) else 60.0 for c in commands) + GRACE
        text = script.assemble(commands, mark, stop=stop)
        out, err, _ = self._exec(text, limit)
        answers = script.parse(out, err, mark, len(commands))
        complete = len(answers) == len(commands) or (stop and answers and failed(commands, answers))
        if not complete:
            said = err.decode(errors="replace").strip()[-800:]
            refusal = None if answers else sudo_refusal(said)
            raise refusal or UnreachableError("the answer broke off", "look at the host and run it again", stderr=said)
        return answers

    def job(self, run: Run, on_line: Callable[[str], None]) -> Answer:
        """Run a long command as a job of the host, and follow it; attach if it already runs.

        The job goes on when this connection does not: it is followed again over a new one, a few times.

        Args:
            run: the command.
            on_line: is given every line of output as it comes.

        Returns:
            the exit code, with the end of the log as output.
        """
        follower = jobs.Follower(run, on_line)
        for attempt in range(jobs.RECONNECTS + 1):
            try:
                text = follower.script()
                self._exec(text, run.timeout + GRACE, follower.feed)
            except UnreachableError:
                if attempt == jobs.RECONNECTS:
                    raise
                self.close()
                time.sleep(min(2.0**attempt, 15.0))
                continue
            answer = follower.answer()
            if answer is not None:
                return answer
        raise UnreachableError("the job's log broke off", "run it again: it attaches to the job if it still runs")

    def upload(self, source: IO[bytes], path: str, mode: int = 0o600) -> None:
        """Send a large file: to a temporary name, then renamed.

        Args:
            source: the bytes.
            path: where they go.
            mode: permission bits.
        """
        words = ("sh", "-c", RECEIVE, "receive", path, f"{mode:04o}")
        _, err, code = self._exec(b"", 3600.0, extra=source, program=words)
        if code:
            raise HostError(f"could not write {path}", stderr=err.decode(errors="replace"))

    def download(self, path: str, target: IO[bytes]) -> None:
        """Fetch a large file.

        Args:
            path: the file on the host.
            target: where its bytes are written.
        """
        word = script.make_mark()
        text = f"printf '%s\\n' {word}; cat -- {shlex.quote(path)} && printf '\\n%s' {word}\n"
        out, err, code = self._exec(text.encode(), 3600.0, limit=1 << 30)
        body = out.partition(f"{word}\n".encode())[2]
        if code or not body.endswith(f"\n{word}".encode()):
            raise FactError(f"could not read {path}", stderr=err.decode(errors="replace"))
        target.write(body[: -len(word) - 1])

    def close(self) -> None:
        """Close the connection and its jumps. Safe to call at any time, also from another thread."""
        with self._lock:
            hops, self._hops, self._client = self._hops, [], None
        for hop in reversed(hops):
            with contextlib.suppress(Exception):
                hop.client.close()

    def _exec(
        self,
        text: bytes,
        limit_s: float,
        on_data: Callable[[bytes], None] | None = None,
        *,
        extra: IO[bytes] | None = None,
        limit: int = OUTPUT_LIMIT,
        program: Sequence[str] = ("sh", "-s"),
    ) -> tuple[bytes, bytes, int]:
        client = self._connected()
        deadline = time.monotonic() + limit_s
        try:
            channel = client.transport.open_session(timeout=BECOME_TIMEOUT)
            with contextlib.closing(channel):
                self.execs += 1
                stderr = _Collector(channel.recv_stderr, limit)
                rest = self._become(channel, stderr, program)
                with contextlib.suppress(OSError):  # closed by the other side: its words are still to be read
                    channel.sendall(rest + text)
                    _send_file(channel, extra)
                    channel.shutdown_write()
                stdout = _read(channel, deadline, on_data, limit)
                err = stderr.join()
                return stdout, err, channel.recv_exit_status()
        except TimeoutError as error:
            self.close()
            raise UnreachableError(
                f"no answer within {limit_s:.0f} s", "look at the host, then run it again"
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            self.close()
            raise UnreachableError(f"the connection was lost: {error}", "run it again") from error

    def _become(self, channel: paramiko.Channel, stderr: "_Collector", program: Sequence[str]) -> bytes:
        """Start a program as root; what is returned must be sent before its standard input."""
        if not self.connection.become:
            channel.exec_command(shlex.join(program))
            stderr.start()
            return b""
        if self._password is None:
            channel.exec_command("sudo -n " + shlex.join(program))
            stderr.start()
            return b""
        word = secrets.token_hex(16)
        loader = LOADER.format(word=word)
        loaded = shlex.join(("sh", "-c", loader, "loader", *program))
        line = f"LC_ALL=C; export LC_ALL; if sudo -n true 2>/dev/null; then exec sudo -n {loaded}; "
        line += f"else exec sudo -S -p '' {loaded}; fi"
        channel.exec_command(shlex.join(("sh", "-c", line)))
        stderr.start()
        channel.sendall(self._password.encode() + b"\n")
        _await(channel, stderr, f"ready-{word}\n".encode())
        return word.encode() + b"\n"

    def _connected(self) -> fabric.Connection:
        with self._lock:
            if self._client is not None and self._client.is_connected:
                return self._client
        hops: list[fabric.Connection] = []
        try:
            for target in (*self.connection.jumps, self.connection):
                hops.append(_open(target, hops[-1] if hops else None))
        except BaseException:
            for hop in reversed(hops):
                hop.client.close()
            raise
        with self._lock:
            self._hops, self._client = hops, hops[-1]
            self.connects += 1
        return hops[-1]


def failed(commands: Sequence[Run | Put], answers: Sequence[Answer]) -> int | None:
    """The number of the first command that failed, or None.

    Args:
        commands: what was to be run.
        answers: what came back, possibly fewer.
    """
    for number, (command, answer) in enumerate(zip(commands, answers, strict=False)):
        if not command.good(answer.exit):
            return number
    return None


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


class _Collector:
    """Reads one stream of a channel to its end in a thread of its own, so that neither stream can block the other."""

    def __init__(self, recv: Callable[[int], bytes], limit: int) -> None:
        self._recv = recv
        self._limit = limit
        self._data = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def so_far(self) -> bytes:
        return bytes(self._data)

    def join(self) -> bytes:
        self._thread.join(GRACE)
        return bytes(self._data)

    def _run(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while chunk := self._recv(65536):
                if len(self._data) < self._limit:
                    self._data += chunk


def _read(channel: paramiko.Channel, deadline: float, on_data: Callable[[bytes], None] | None, limit: int) -> bytes:
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


def _await(channel: paramiko.Channel, stderr: _Collector, word: bytes) -> None:
    """Wait until the loader says that it is there, or sudo that it refuses."""
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


def _send_file(channel: paramiko.Channel, source: IO[bytes] | None) -> None:
    while source is not None and (chunk := source.read(65536)):
        channel.sendall(chunk)


def open_transport(target: Connection) -> paramiko.Transport:
    """The encrypted connection to a host before any login, for its host key. The caller closes it.

    Raises:
        UnreachableError: it does not answer, or one of its jump hosts is not trusted.
    """
    hops: list[fabric.Connection] = []
    for jump in target.jumps:
        hops.append(_open(jump, hops[-1] if hops else None))
    with _explained(f"{target.address}:{target.port}", target):
        if hops:
            sock = hops[-1].transport.open_channel("direct-tcpip", (target.address, target.port), ("", 0))
        else:
            sock = _socket(target)
        transport = paramiko.Transport(sock)
        transport.start_client(timeout=target.connect_timeout + 20)
    return transport


def _open(target: Connection, gateway: fabric.Connection | None) -> fabric.Connection:
    where = f"{target.address}:{target.port}"
    connection = fabric.Connection(
        host=target.address,
        user=target.user,
        port=target.port,
        gateway=gateway,
        config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
        connect_kwargs=_connect_kwargs(target, gateway is None),
    )
    connection.client.set_missing_host_key_policy(_KnownHostsOnly(target))
    for path in target.known_hosts:
        with contextlib.suppress(FileNotFoundError):
            connection.client.load_system_host_keys(path)
    with _explained(where, target):
        connection.open()
        connection.transport.set_keepalive(15)
    return connection


def _connect_kwargs(target: Connection, direct: bool) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "key_filename": list(target.key_files) or None,
        "look_for_keys": not target.key_files,
        "timeout": target.connect_timeout,
        "banner_timeout": target.connect_timeout + 20,
        "auth_timeout": target.connect_timeout + 20,
    }
    if target.password is not None:
        kwargs["password"] = target.password.reveal()
    if direct:
        kwargs["sock"] = _socket(target)
    return kwargs


def _socket(target: Connection) -> socket.socket:
    """A connected socket that sends small packets at once: without it an exec takes 45 ms on loopback, with it 2."""
    with _explained(f"{target.address}:{target.port}", target):
        sock = socket.create_connection((target.address, target.port), timeout=target.connect_timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
    return sock


@contextlib.contextmanager
def _explained(where: str, target: Connection) -> Iterator[None]:
    """Turn what libraries raise while connecting into one sentence and what to do."""
    try:
        yield
    except HostError:
        raise
    except paramiko.BadHostKeyException as error:
        raise HostKeyError(
            f"the host key of {where} has CHANGED: known is {error.expected_key.fingerprint}, "
            f"it shows {error.key.fingerprint}",
            "another machine answers, or the host was reinstalled: find out which; then provision trust --replace",
        ) from error
    except paramiko.AuthenticationException as error:
        hint = "check ansible_user, the key (ansible_ssh_private_key_file) and the host's authorized_keys"
        raise UnreachableError(f"{target.user}@{where} refused to log us in: {error}", hint) from error
    except socket.gaierror as error:
        raise UnreachableError(
            f"the name {target.address} does not resolve: {error.strerror}", "check ansible_host"
        ) from error
    except TimeoutError as error:
        hint = "check the address, the route and the firewall"
        raise UnreachableError(f"tcp {where} does not answer within {target.connect_timeout:g} s", hint) from error
    except ConnectionRefusedError as error:
        raise UnreachableError(f"tcp {where} connection refused", "is sshd running there?") from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise UnreachableError(f"no SSH connection to {where}: {error}", "try the same with ssh -v") from error
