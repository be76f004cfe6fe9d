"""A mirror with a password, for tests of `mirrors` and `docker.registries`. Runs on a lab host, by Python alone.

    python3 login_mirror.py PORT FOLDER SITE [CERTIFICATE]

FOLDER/login has `USER:PASSWORD`. FOLDER/page, if present, is sent in place of every answer. FOLDER/log gets a line for
each request: `ok` or `401`, the method and the path. Every answer comes from SITE, `ADDRESS` or `ADDRESS:PORT` of a web
server. With CERTIFICATE, a file that has the key too, the mirror speaks TLS.
"""

import base64
import http.client
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEPT = ("Content-Type", "Content-Range", "Docker-Content-Digest", "Docker-Distribution-API-Version", "Location")


class Mirror(BaseHTTPRequestHandler):
    folder = Path()
    site = ""

    def do_GET(self) -> None:
        login = base64.b64encode((self.folder / "login").read_bytes().strip()).decode()
        admitted = self.headers.get("Authorization") == f"Basic {login}"
        with (self.folder / "log").open("a") as log:
            log.write(f"{'ok' if admitted else '401'} {self.command} {self.path}\n")
        if not admitted:
            self._say(401, b"a login is missing\n", {"WWW-Authenticate": 'Basic realm="lab"'})
        elif (self.folder / "page").exists():
            self._say(200, (self.folder / "page").read_bytes(), {"Content-Type": "text/html"})
        else:
            self._forward()

    def do_HEAD(self) -> None:
        """Answer as GET does, without the body."""
        self.do_GET()

    def _forward(self) -> None:
        there = http.client.HTTPConnection(self.site, timeout=30)
        there.putrequest(self.command, self.path)
        for name, value in self.headers.items():  # Docker sends a header Accept for each type of manifest
            if name.lower() in ("accept", "range"):
                there.putheader(name, value)
        there.endheaders()
        answer = there.getresponse()
        kept = {name: answer.getheader(name) for name in KEPT}
        size = answer.getheader("Content-Length")
        body = answer.read()
        self._say(answer.status, body, {name: value for name, value in kept.items() if value}, size)

    def _say(self, code: int, body: bytes, headers: dict[str, str], size: str | None = None) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": size or str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Mirror.folder, Mirror.site = Path(sys.argv[2]), sys.argv[3]
    server = ThreadingHTTPServer(("", int(sys.argv[1])), Mirror)
    if len(sys.argv) > 4:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[4])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
