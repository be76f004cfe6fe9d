"""A small forward proxy with a password, for tests of the section `proxy`. Runs on a lab host, by Python alone.

    python3 forward_proxy.py PORT FOLDER

FOLDER/login has `USER:PASSWORD`. FOLDER/page, if present, is sent in place of every answer. FOLDER/log gets a line for
each request: `ok` or `407`, the method and the address. The log has no login.
"""

import base64
import http.client
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HOP = {"connection", "proxy-connection", "proxy-authorization", "keep-alive", "transfer-encoding"}


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()

    def _admitted(self) -> bool:
        login = base64.b64encode((self.folder / "login").read_bytes().strip()).decode()
        admitted = self.headers.get("Proxy-Authorization") == f"Basic {login}"
        with (self.folder / "log").open("a") as log:
            log.write(f"{'ok' if admitted else '407'} {self.command} {self.path}\n")
        if not admitted:
            self._say(407, b"a login is missing\n", "text/plain")
        return admitted

    def _say(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        if code == 407:
            self.send_header("Proxy-Authenticate", 'Basic realm="lab"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":  # else the next answer of the connection would begin with these bytes
            self.wfile.write(body)

    def _forward(self) -> None:
        if not self._admitted():
            return
        if (self.folder / "page").exists():
            self._say(200, (self.folder / "page").read_bytes(), "text/html")
            return
        url = urlsplit(self.path)
        there = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=30)
        path = url.path + (f"?{url.query}" if url.query else "")
        there.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # Docker sends a header Accept for each type of manifest
            if name.lower() not in HOP:
                there.putheader(name, value)
        there.endheaders()
        answer = there.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while part := answer.read(1 << 16):
            self.wfile.write(part)
        self.close_connection = True

    def do_GET(self) -> None:
        """Pass a request on."""
        self._forward()

    def do_HEAD(self) -> None:
        """Pass a request on."""
        self._forward()

    def do_CONNECT(self) -> None:
        """Open a tunnel."""
        if not self._admitted():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=30) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
            back.start()
            _copy(self.connection, there)
            back.join()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Log nothing: `_admitted` has the log."""


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while part := source.recv(1 << 16):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


if __name__ == "__main__":
    Proxy.folder = Path(sys.argv[2])
    ThreadingHTTPServer(("", int(sys.argv[1])), Proxy).serve_forever()
