"""The words of OpenSSH's client for a login with the settings of an inventory. Pure.

The words keep the promises of our own connections: a host key that is not known is refused, no file of the operator
changes a setting (`-F none`), and no secret is among the words. Sources: ssh(1), ssh_config(5): `%` begins a token in
paths and in ProxyCommand, and `${` a variable in paths.
"""

import shlex
from collections.abc import Sequence

from provision.errors import UsageError
from provision.inventory import Connection

PROGRAM = "ssh"


def words(target: Connection, command: Sequence[str] = ()) -> list[str]:
    """Return the words of a login.

    Args:
        target: address, user, keys, known hosts and jump hosts.
        command: the words of a command on the host, each quoted once; empty for a shell.

    Raises:
        UsageError: a path of the inventory means something else to ssh.
    """
    quoted = [shlex.join(command)] if command else []
    return [PROGRAM, *_options(target, target.jumps), "--", target.address, *quoted]


def _options(target: Connection, jumps: Sequence[Connection]) -> list[str]:
    """Return the options of one login, with the way through its jump hosts."""
    files = " ".join(f'"{_path(path)}"' for path in target.known_hosts)
    options = {
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": files or "/dev/null",
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": f"{max(1, round(target.connect_timeout))}",
        **({"HostKeyAlias": target.host_key_alias} if target.host_key_alias else {}),
        **({"ProxyCommand": _way(jumps)} if jumps else {}),
    }
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    keys = [word for path in target.key_files for word in ("-i", _path(path))]
    return ["-F", "none", *given, *keys, "-l", target.user, "-p", str(target.port)]


def _way(jumps: Sequence[Connection]) -> str:
    """Return the command that connects to the target through the last jump host. ssh takes `%%` for `%`."""
    *before, last = jumps
    options = shlex.join([PROGRAM, *_options(last, before)]).replace("%", "%%")
    return f"exec {options} -W '[%h]:%p' -- {shlex.quote(last.address)}"


def _path(path: str) -> str:
    """Return a path for ssh.

    Raises:
        UsageError: ssh cannot be told the path.
    """
    if '"' in path or "${" in path or not path.isprintable():
        raise UsageError(f"ssh cannot be told the path {path[:200]!r}", "give the file another name")
    return path.replace("%", "%%")
