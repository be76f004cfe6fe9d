"""The way through a proxy, as Go's net/http takes it for https:// addresses: CONNECT, with the login of HTTPS_PROXY.

The texts of the errors are Go's (net/http/transport.go). Only exact names and domains of NO_PROXY are looked at.
"""

import base64
import os
import socket
from urllib.parse import SplitResult, unquote, urlsplit


def of(host: str) -> SplitResult | None:
    """The proxy for a host that is asked by https, or None.

    Args:
        host: name or address of the registry.
    """
    url = os.environ.get("HTTPS_PROXY", "")
    without = [entry.strip() for entry in os.environ.get("NO_PROXY", "").split(",") if entry.strip()]
    direct = any(host == entry or host.endswith(f".{entry.lstrip('.')}") for entry in without)
    return urlsplit(url) if url and not direct else None


def tunnel(connection: socket.socket, proxy: SplitResult, host: str, port: int) -> None:
    """Have a proxy connect to a host.

    Args:
        connection: a connection to the proxy.
        proxy: URL of the proxy.
        host: name or address of the host.
        port: its TCP port.

    Raises:
        OSError: the proxy refuses; the text is the reason in the proxy's answer.
    """
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {at} HTTP/1.1", f"Host: {at}"]
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < 65536:
        part = connection.recv(1)
        if not part:
            break
        head += part
    status = head.split(b"\r\n")[0].decode(errors="replace").split(" ", 2)
    if len(status) < 2 or status[1] != "200":
        raise OSError(status[2] if len(status) > 2 else "unknown status code")
