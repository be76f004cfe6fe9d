"""The logins of package repositories: a file for apt and a file for curl, for root alone.

apt reads auth.conf.d as root, before its methods drop their rights, and takes a login for http:// only for a machine
with the scheme (apt_auth.conf(5)). curl's netrc has machines without scheme, port and path (curl(1), --netrc-file).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self
from urllib.parse import urlsplit

from provision.steps.base import State
from provision.steps.system.file import File

APT_LOGIN = "/etc/apt/auth.conf.d/provision-mirrors.conf"
LOGIN = "/etc/provision/mirrors.netrc"
MODE = 0o600

Logins = Iterable[tuple[str, str, str]]
"""Addresses, each with user and password; without blank, quote, backslash and `#`."""

# Arguments for curl in the function `outside`: the logins, if root has written some. `$netrc` is unquoted on purpose.
NETRC = f"""
netrc=
[ ! -O {LOGIN} ] || netrc='--netrc-optional --netrc-file {LOGIN}'
"""


@dataclass(frozen=True, kw_only=True)
class MirrorLogin(File):
    """A file with the logins of mirrors.

    Args:
        about: the mirrors, without logins, for the plan.
    """

    KIND: ClassVar[str] = "mirror_login"
    gone: ClassVar[str] = "no longer declared: no mirror has a login"

    mode: int = MODE
    kind: str = KIND
    about: tuple[str, ...] = ()

    @classmethod
    def of_apt(cls, logins: Logins) -> Self:
        """Return the file for apt."""
        lines = [f"machine {address} login {user} password {password}" for address, user, password in logins]
        return cls(path=APT_LOGIN, content=_text(lines), about=_about(logins))

    @classmethod
    def of_curl(cls, logins: Logins) -> Self:
        """Return the file for curl, whose machines are bare host names."""
        return cls(path=LOGIN, content=netrc(logins), about=_about(logins))

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The mirrors; the text of the file is not shown."""
        return [*super().diff(have, want), *(self.about if want else ())]


def netrc(logins: Logins) -> bytes:
    """Return the logins as a file for curl.

    Args:
        logins: the addresses with their logins.
    """
    hosts = {urlsplit(address).hostname: (user, password) for address, user, password in logins}
    return _text(f"machine {name} login {user} password {password}" for name, (user, password) in hosts.items())


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in dict.fromkeys(lines)).encode()


def _about(logins: Logins) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"login for {address}" for address, _, _ in logins))
