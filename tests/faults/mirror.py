"""The lab's site as one host sees it, tampered with: missing files, files cut short, other bytes, no answer at all."""

import contextlib
import http.client
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from provision.lab.lab import Lab

WEB, REGISTRY = 80, 5000
How = Callable[[BaseHTTPRequestHandler, http.client.HTTPResponse, bytes], None]


def missing(handler: BaseHTTPRequestHandler, _: http.client.HTTPResponse, __: bytes) -> None:
    """Answer 404."""
    handler.send_error(404)


def half(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, body: bytes) -> None:
    """Send the first half, then close the connection."""
    _head(handler, answer, len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def corrupt(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, body: bytes) -> None:
    """Send as many bytes, with a wrong byte in the middle."""
    _head(handler, answer, len(body))
    at = len(body) // 2
    handler.wfile.write(body[:at] + bytes([body[at] ^ 255]) + body[at + 1 :])


def silent(handler: BaseHTTPRequestHandler, _: http.client.HTTPResponse, __: bytes) -> None:
    """Never answer."""
    time.sleep(600)


def replaced(pattern: str, by: bytes) -> How:
    """Send other bytes: replace a regular expression."""

    def how(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, body: bytes) -> None:
        changed = re.sub(pattern.encode(), by, body)
        _head(handler, answer, len(changed))
        handler.wfile.write(changed)

    return how


def _head(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, length: int) -> None:
    handler.send_response(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


class Mirror:
    """A server on the machine to which a host is led instead of the site.

    Args:
        lab: the lab.
        host: name of the host.
        port: port of the site.
        pattern: pattern of the paths to tamper with.
        how: how to tamper.
    """

    def __init__(self, lab: Lab, host: str, port: int, pattern: str, how: How) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            site = (lab.network.site, port)

            def do_GET(self) -> None:
                """Answer as the site does, or tampered with."""
                connection = http.client.HTTPConnection(*self.site, timeout=60)
                with contextlib.suppress(OSError), contextlib.closing(connection):
                    names = ("accept", "if-modified-since", "range")
                    # every value: Docker accepts types in several lines, and a registry goes by every line
                    sent = {name: ", ".join(self.headers.get_all(name)) for name in names if self.headers[name]}
                    connection.request(self.command, self.path, headers=sent)
                    answer = connection.getresponse()
                    body = answer.read()
                    if self.command == "GET" and answer.status == 200 and re.search(pattern, self.path):
                        how(self, answer, body)
                        return
                    _head(self, answer, int(answer.headers.get("Content-Length") or len(body)))
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 - http.server asks for this name

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((lab.network.gateway, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self._host = lab.host(host)
        to = f"{lab.network.gateway}:{self._server.server_address[1]}"
        self._rule = [
            "OUTPUT",
            "-p",
            "tcp",
            "-d",
            lab.network.site,
            "--dport",
            str(port),
            "-j",
            "DNAT",
            "--to-destination",
            to,
        ]
        self._host.run(["iptables", "-w", "-t", "nat", "-I", *self._rule])

    def close(self) -> None:
        """Lead the host to the site again."""
        self._host.run(["iptables", "-w", "-t", "nat", "-D", *self._rule])
        self._server.shutdown()
        self._server.server_close()
