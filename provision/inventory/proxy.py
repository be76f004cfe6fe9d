"""The proxy to the world outside: its URL, which may hold a password, and the places to reach without the proxy.

Every consumer reads the same URL: apt, curl, Docker's daemon (Go), and the server in an instance. Their defaults for a
missing port differ (curl 1080, apt and Go 80 or 443), so a URL without a port is refused.
Sources: apt-transport-http(1), curl(1), golang.org/x/net/http/httpproxy.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from provision.inventory.secret import SHOWN, Secret
from provision.inventory.types import is_address, is_host, is_hostname

LONGEST = 1000
WANTED = (
    "must be http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ before the host if the proxy asks for them "
    "(`%40` for `@`, and so on), without blank or quote"
)
_URL = re.compile(r"(https?)://(?:([A-Za-z0-9._~!&*+,=%:-]+)@)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})/?")
_WRONG_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class ProxyUrl(Secret):
    """URL of a proxy. Prints without user and password.

    Args:
        value: the URL.
    """

    __slots__ = ()

    @property
    def endpoint(self) -> str:
        """`HOST:PORT`."""
        return self._value.rpartition("@")[2].rpartition("://")[2].rstrip("/")

    @property
    def has_login(self) -> bool:
        """Whether the URL has a user, with or without a password."""
        return bool(self._login())

    @property
    def shown(self) -> str:
        """The URL with `[secret]` for user and password."""
        scheme, user = self._value.partition("://")[0], f"{SHOWN}@" if self._login() else ""
        return f"{scheme}://{user}{self.endpoint}"

    def hidden(self) -> Iterator[str]:
        """Yield the URL, the login and the password; nothing of a URL without a login."""
        login = self._login()
        if login:
            password = login.partition(":")[2]
            yield from dict.fromkeys(filter(None, (self._value, login, unquote(login), password, unquote(password))))

    def _login(self) -> str:
        return self._value.partition("://")[2].rpartition("@")[0]

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return self.shown

    def __format__(self, spec: str) -> str:
        return format(self.shown, spec)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_plain_validator_function(_proxy_url, serialization=shown)


def _proxy_url(value: object) -> ProxyUrl:
    text = value.reveal() if isinstance(value, Secret) else value
    if not isinstance(text, str) or not _is_proxy(text):
        raise PydanticCustomError("secret_type", WANTED)
    return ProxyUrl(text.rstrip("/"))


def _is_proxy(text: str) -> bool:
    match = _URL.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        return False
    login, host, port = match[2] or "", match[3].strip("[]"), int(match[4])
    whole = not _WRONG_ESCAPE.search(login) and unquote(login).isprintable()
    return whole and is_host(host) and 0 < port <= 65535


def _bypass(value: str) -> str:
    if not is_bypass(value):
        message = "must be a host name, a domain such as .example.com, an address, or a network such as 10.0.0.0/8"
        raise ValueError(message)
    return value


def is_bypass(value: str) -> bool:
    """Return whether a text is an entry of `proxy.no_proxy`."""
    if len(value) > 253:
        return False
    name = value.removeprefix(".")
    if value.startswith("."):
        return is_hostname(name) and not name.endswith(".")
    return is_host(value) or _network(value) is not None


Bypass = Annotated[str, AfterValidator(_bypass)]
"""An entry of `proxy.no_proxy`."""


def _network(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError:
        return None


def goes_direct(name: str, entries: Iterable[str]) -> bool:
    """Return whether a list of places without a proxy has a host: itself, a domain above, or a network around.

    Args:
        name: a DNS name or an IP address.
        entries: the places.
    """
    return any(_covers(entry.lower(), name.lower().rstrip(".")) for entry in entries)


def _covers(entry: str, name: str) -> bool:
    if is_address(name):
        network = _network(entry)
        return network is not None and ipaddress.ip_address(name) in network
    return name == entry or name.endswith(f".{entry.removeprefix('.')}")
