"""A proxy in front of a real server that keeps the last frame of each answer: the server's own figures."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


@dataclass
class Kept:
    """The streamed answers that passed.

    Attributes:
        port: port of the proxy on loopback.
        frames: time of a request's arrival in seconds -> the last frame of the answer.
    """

    port: int = 0
    frames: dict[float, dict[str, Any]] = field(default_factory=dict)

    def own_rates(self) -> list[float]:
        """Tokens per second by the server's own figures, in the order of the requests."""
        rows = [frame for _, frame in sorted(self.frames.items()) if frame.get("eval_duration")]
        return [frame["eval_count"] / frame["eval_duration"] * 1e9 for frame in rows]


@contextmanager
def keeping(port: int) -> Iterator[Kept]:
    """Yield a running proxy in front of the server at a port of loopback."""
    kept = Kept()
    handler = type("Handler", (_Handler,), {"server_at": port, "kept": kept})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        kept.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield kept
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_at: ClassVar[int]
    kept: ClassVar[Kept]

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def _pass(self) -> None:
        arrival = time.time()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.server_at, timeout=300)
        connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        line = last = b""
        with suppress(OSError):
            while line := answer.readline():
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                last = line
            self.wfile.write(b"0\r\n\r\n")
        connection.close()
        if self.command == "POST" and not line:
            self.kept.frames[arrival] = json.loads(last or b"{}")

    def log_message(self, *words: object) -> None:
        """Stay silent."""
