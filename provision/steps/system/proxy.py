"""The proxy of the inventory on a host: for our own downloads, for apt, and for further programs by their own steps.

The URL may hold a password. Such a file is for root alone, and its text comes neither to the controller nor into a
plan. A program gets the URL from the file as a variable, never as a word.
"""

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from provision.command import Run
from provision.inventory.proxy import ProxyUrl, goes_direct
from provision.steps.base import State
from provision.steps.system.file import File

ENVIRONMENT = "/etc/provision/proxy.env"
# apt reads the folder by name, and a later file wins. `-` sorts before digits and letters, so an operator's file, such
# as 00aptproxy, comes after this file.
APT = "/etc/apt/apt.conf.d/0-provision-proxy"
HEAD = "Managed by provision; changes made here are undone by the next deploy. May hold a password."
MODE = 0o600  # with a password

# Runs a program that asks the world outside. The variables end with the subshell. A file of another user is not read: a
# shell of root would run its text, and the folder may be open to others until the step `folders` has closed the folder.
OUTSIDE = f"""
outside() {{ ( [ ! -O {ENVIRONMENT} ] || {{ set -a; . {ENVIRONMENT}; set +a; }}; "$@" ) }}
"""


@dataclass(frozen=True, kw_only=True)
class ProxyFile(File):
    """A file with the proxy for some programs.

    Args:
        about: the proxies and their exceptions, without passwords, for the plan.
    """

    mode: int = MODE
    kind: str = "proxy"
    about: tuple[str, ...] = ()

    gone: ClassVar[str] = "no longer declared: what used the proxy asks directly"

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The lines of an open file; of a closed file the proxies of the inventory."""
        return [*super().diff(have, want), *(self.about if want and not self.mode & 0o004 else ())]


def apt_mode(http: ProxyUrl | None, https: ProxyUrl | None) -> int:
    """Return the mode of apt's file. apt warns users about a closed file, so the file is closed for a login alone.

    Args:
        http: the proxy for http:// addresses, or None.
        https: the proxy for https:// addresses, or None.
    """
    return MODE if any(url and url.has_login for url in (http, https)) else 0o644


def about(http: ProxyUrl | None, https: ProxyUrl | None, direct: Iterable[str]) -> tuple[str, ...]:
    """Return lines for a plan: the proxies without passwords, and the exceptions.

    Args:
        http: the proxy for http:// addresses, or None.
        https: the proxy for https:// addresses, or None.
        direct: the places to reach without a proxy.
    """
    ways = [f"{scheme}:// through {url.shown}" for scheme, url in (("http", http), ("https", https)) if url]
    return (*ways, f"without the proxy: {', '.join(direct)}")


def environment(http: ProxyUrl | None, https: ProxyUrl | None, direct: Iterable[str], *, upper: bool) -> bytes:
    """Return a file of variables, for a shell and for `EnvironmentFile=` alike.

    curl reads `http_proxy` in small letters only, and Go reads both (curl(1), golang.org/x/net/http/httpproxy).

    Args:
        http: the proxy for http:// addresses, or None.
        https: the proxy for https:// addresses, or None.
        direct: the places to reach without a proxy.
        upper: whether the names are in capitals.
    """
    values = {
        "http_proxy": http.reveal() if http else "",
        "https_proxy": https.reveal() if https else "",
        "no_proxy": ",".join(direct),
    }
    lines = [f"{name.upper() if upper else name}={shlex.quote(value)}" for name, value in values.items() if value]
    return "".join(f"{line}\n" for line in (f"# {HEAD}", *lines)).encode()


def through(run: Run, variables: bytes) -> Run:
    """Return a command that asks the world outside through a proxy, on a host without the file of the proxy.

    Args:
        run: a script on standard input, which no user of the host can see.
        variables: the text of `environment`; empty for no proxy.
    """
    return dataclasses.replace(run, stdin=b"set -a\n%sset +a\n%s" % (variables, run.stdin)) if variables else run


def apt_text(
    http: ProxyUrl | None, https: ProxyUrl | None, direct: Sequence[str], ours: Iterable[str], further: Iterable[str]
) -> bytes:
    """Return a file for apt: a default for every source, and lines of their own for some hosts.

    apt takes the line of a host before the default. Without a proxy for https://, apt would use the proxy for http://
    (apt-transport-https(1)), so that case says DIRECT.

    Args:
        http: the proxy for http:// addresses, or None.
        https: the proxy for https:// addresses, or None.
        direct: the places to reach without a proxy.
        ours: hosts of the repositories in the inventory.
        further: hosts of repositories beside the inventory, as far as apt reads these on the host.
    """
    ways = {"http": http.reveal() if http else "", "https": https.reveal() if https else "DIRECT"}
    lines = [f"// {HEAD}", *(f'Acquire::{scheme}::Proxy "{way}";' for scheme, way in ways.items() if way)]
    mine = sorted(set(ours))
    for name in sorted({*mine, *further}):
        straight = goes_direct(name, direct)
        if straight or name in mine:
            lines += [
                f'Acquire::{s}::Proxy::{name} "{"DIRECT" if straight else way or "DIRECT"}";' for s, way in ways.items()
            ]
    return "".join(f"{line}\n" for line in lines).encode()
