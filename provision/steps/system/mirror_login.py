"""The logins of package repositories: a file for apt and a file for curl, for root alone.

apt reads auth.conf.d as root, before its methods drop their rights, and takes a login for http:// only for a machine
with the scheme (apt_auth.conf(5)). curl's netrc has machines without scheme, port and path (curl(1), --netrc-file).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self
from urllib.parse import urlsplit

from provision.steps.system.login_file import LoginFile

APT_LOGIN = "/etc/apt/auth.conf.d/provision-mirrors.conf"
LOGIN = "/etc/provision/mirrors.netrc"

Logins = Iterable[tuple[str, str, str]]
"""Addresses, each with user and password; without blank, quote, backslash and `#`."""

# Arguments for curl in the function `outside`: the logins, if root has written some. `$netrc` is unquoted on purpose.
NETRC = f"""
netrc=
[ ! -O {LOGIN} ] || netrc='--netrc-optional --netrc-file {LOGIN}'
"""


@dataclass(frozen=True, kw_only=True)
class MirrorLogin(LoginFile):
    """A file with the logins of mirrors."""

    KIND: ClassVar[str] = "mirror_login"
    gone: ClassVar[str] = "no longer declared: no mirror has a login"

    kind: str = KIND

    @classmethod
    def of_apt(cls, logins: Logins) -> Self:
        """Return the file for apt."""
        lines = [f"machine {address} login {user} password {password}" for address, user, password in logins]
        return cls(path=APT_LOGIN, content=_text(lines), places=tuple(address for address, _, _ in logins))

    @classmethod
    def of_curl(cls, logins: Logins) -> Self:
        """Return the file for curl, whose machines are bare host names."""
        return cls(path=LOGIN, content=netrc(logins), places=tuple(address for address, _, _ in logins))


def netrc(logins: Logins) -> bytes:
    """Return the logins as a file for curl.

    Args:
        logins: the addresses with their logins.
    """
    hosts = {urlsplit(address).hostname: (user, password) for address, user, password in logins}
    return _text(f"machine {name} login {user} password {password}" for name, (user, password) in hosts.items())


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in dict.fromkeys(lines)).encode()
