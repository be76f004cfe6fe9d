"""A server on the CPU that says its models are on the cards: what some real servers did (ollama issues 7323, 10369).

A proxy in front of a real server changes `size_vram` in `/api/ps` alone. SIMULATED: the claim, and nothing else.
"""

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


@contextmanager
def claiming(port: int) -> Iterator[int]:
    """Yield the port of a proxy in front of the server at a port of loopback."""
    handler = type("Handler", (_Handler,), {"server_at": port})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server_at: ClassVar[int]

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def do_DELETE(self) -> None:
        self._pass()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.server_at, timeout=300)
        connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if self.path == "/api/ps":
            data = re.sub(rb'("size":(\d+),.*?"size_vram":)\d+', rb"\1\2", data)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Stay silent."""
