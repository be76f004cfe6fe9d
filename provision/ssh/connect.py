"""Opens an SSH connection: first the host's key, then the login, and every failure in one sentence.

Fabric accepts any host key by default; this module does not.
"""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fabric
import paramiko

from provision.errors import HostError, UnreachableError
from provision.inventory import Connection
from provision.ssh import host_keys
from provision.ssh.host_keys import KnownHostsOnly

LOGIN_SECONDS = 20  # for sshd's part of a login, beyond the connection's own
DEAD_PEER_MS = 30_000  # milliseconds until unacknowledged bytes are given up (TCP_USER_TIMEOUT)


class _Transport(paramiko.Transport):
    """Checks once a second whether a keepalive is due. paramiko checks ten times a second: 0.3 ms of CPU a second for
    an idle connection, and 200 connections may be idle for a minute."""

    _active_check_timeout = 1.0


def open_transport(target: Connection) -> paramiko.Transport:
    """Open the encrypted connection to a host before any login, to read its host key. The caller closes the transport.

    Raises:
        UnreachableError: the host does not answer, or a jump host is not trusted.
    """
    hops: list[fabric.Connection] = []
    for jump in target.jumps:
        hops.append(open_connection(jump, hops[-1] if hops else None))
    with _explained(f"{target.address}:{target.port}", target):
        if hops:
            sock = hops[-1].transport.open_channel("direct-tcpip", (target.address, target.port), ("", 0))
        else:
            sock = _socket(target)
        transport = paramiko.Transport(sock)
        transport.start_client(timeout=target.connect_timeout + LOGIN_SECONDS * target.timeout_factor)
    return transport


def open_connection(
    target: Connection,
    gateway: fabric.Connection | None,
    begun: Callable[[fabric.Connection], None] = lambda connection: None,
) -> fabric.Connection:
    """Log in to a host.

    Args:
        target: address, user and keys of the host.
        gateway: the open connection to the jump host, or None.
        begun: gets the connection before the login, so that another thread can close it meanwhile.

    Raises:
        UnreachableError: the host is unreachable, or refuses the login. HostKeyError for a key that is not the known
            key.
    """
    where = f"{target.address}:{target.port}"
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # errors come as exceptions too
    connection = fabric.Connection(
        host=target.address,
        user=target.user,
        port=target.port,
        gateway=gateway,
        config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
        connect_kwargs=_connect_kwargs(target, gateway is None),
    )
    begun(connection)
    connection.client.set_missing_host_key_policy(KnownHostsOnly(target))
    for path in target.known_hosts:
        _know(connection.client.get_host_keys(), path, target)
    with _explained(where, target):
        connection.open()
        connection.transport.set_keepalive(15)
    return connection


def _know(keys: paramiko.HostKeys, path: str, target: Connection) -> None:
    """Add a host's keys from a known_hosts file. paramiko's own loading compares every line with all lines before,
    which for each of 200 hosts takes longer than the host does."""
    names = {target.address, f"[{target.address}]:{target.port}", target.host_key_alias} - {""}
    try:
        lines = [line.strip() for line in Path(path).read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        if any(_is_named(token, names) for token in line.partition(" ")[0].split(",")):
            with contextlib.suppress(paramiko.SSHException):
                entry = paramiko.hostkeys.HostKeyEntry.from_line(line, number)
                if entry is not None:
                    keys._entries.append(entry)  # type: ignore[attr-defined]


def _is_named(token: str, names: set[str]) -> bool:
    """Whether a word of known_hosts is one of some names, or the hash of a name."""
    if not token.startswith("|1|"):
        return token in names
    with contextlib.suppress(ValueError):
        return any(paramiko.HostKeys.hash_host(name, token) == token for name in names)
    return False


def _connect_kwargs(target: Connection, direct: bool) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "compress": True,  # scripts and answers are text: a third of the bytes; sshd may decline
        "look_for_keys": not target.key_files,
        "timeout": target.connect_timeout,
        "banner_timeout": target.connect_timeout + LOGIN_SECONDS * target.timeout_factor,
        "auth_timeout": target.connect_timeout + LOGIN_SECONDS * target.timeout_factor,
        "transport_factory": _Transport,
    }
    if target.key_files:  # fabric takes an empty list as not given, and fails on None
        kwargs["key_filename"] = list(target.key_files)
    if target.password is not None:
        kwargs["password"] = target.password.reveal()
    if direct:
        kwargs["sock"] = _socket(target)
    return kwargs


def _socket(target: Connection) -> socket.socket:
    """Return a connected socket that sends small packets at once: an exec takes 2 ms on loopback, otherwise 45 ms."""
    with _explained(f"{target.address}:{target.port}", target):
        sock = socket.create_connection((target.address, target.port), timeout=target.connect_timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
    return sock


@contextlib.contextmanager
def _explained(where: str, target: Connection) -> Iterator[None]:
    """Turn library errors while connecting into one sentence and the next action."""
    try:
        yield
    except HostError:
        raise
    except paramiko.BadHostKeyException as error:
        raise host_keys.changed(where, error) from error
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
        raise UnreachableError(f"no SSH connection to {where}: {text_of(error)}", "try the same with ssh -v") from error


def text_of(error: Exception) -> str:
    """Return the text of a connection's error. EOFError has no text."""
    return str(error) or "it was closed"
