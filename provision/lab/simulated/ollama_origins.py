"""Which web pages may ask the server (gin-contrib/cors with Ollama's settings), and which host names it answers to."""

import os
import re
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

Headers = list[tuple[str, str]]
_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
_APPS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_STAINLESS = (
    "Arch,Async,Custom-Poll-Interval,Helper-Method,Lang,Os,Package-Version,Poll-Helper,Retry-Count,Runtime,"
    "Runtime-Version,Timeout"
)
_HEADERS = ["Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "Openai-Beta"]
_HEADERS += [f"X-Stainless-{name}" for name in _STAINLESS.split(",")]


def answer(origin: str | None, host: str, method: str) -> Headers | None:
    """The headers of the answer to a web page; none for a client that is no foreign web page.

    Args:
        origin: the request's `Origin`; None without one.
        host: the request's `Host`.
        method: the request's method.

    Returns:
        the headers; None where the page may not ask.
    """
    if not origin or origin in {f"http://{host}", f"https://{host}"}:
        return []
    allowed = _allowed()
    anyone = "*" in allowed
    if not anyone and not any(_matches(origin, pattern) for pattern in allowed):
        return None
    headers = [("Access-Control-Allow-Origin", "*" if anyone else origin)]
    headers += [] if anyone else [("Vary", "Origin")]
    if method != "OPTIONS":
        return headers
    headers += [("Access-Control-Allow-Methods", _METHODS), ("Access-Control-Allow-Headers", ",".join(_HEADERS))]
    headers += [("Access-Control-Max-Age", "43200")]
    if not anyone:
        headers += [("Vary", "Access-Control-Request-Method"), ("Vary", "Access-Control-Request-Headers")]
    return headers


def answers_to(host: str, address: str) -> bool:
    """Whether the server answers to a host name. Only a server bound to loopback is strict.

    Args:
        host: the request's `Host`.
        address: the address that the server is bound to.
    """
    if not ip_address(address).is_loopback:
        return True
    name = urlsplit(f"//{host}").hostname or ""
    try:
        found = ip_address(name)
    except ValueError:
        own = {"", "localhost", socket.gethostname().lower()}
        return name in own or name.endswith((".localhost", ".local", ".internal"))
    return found.is_loopback or found.is_private or found.is_unspecified


def _allowed() -> list[str]:
    own = [word.strip() for word in os.environ.get("OLLAMA_ORIGINS", "").split(",") if word.strip()]
    local = [f"{scheme}://{name}{port}" for name in _LOCAL for scheme in ("http", "https") for port in ("", ":*")]
    return [*own, *local, *_APPS]


def _matches(origin: str, pattern: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), origin) is not None
