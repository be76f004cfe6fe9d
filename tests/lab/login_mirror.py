"""A mirror of a site with a password, for tests of the section `mirrors`. Runs on a lab host, by Python alone.

    python3 login_mirror.py PORT FOLDER SITE

FOLDER/login has `USER:PASSWORD`. FOLDER/page, if present, is sent in place of every answer. FOLDER/log gets a line for
each request: `ok` or `401`, the method and the path. Every answer comes from SITE, an address with a web server.
"""

import base64
import http.client
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


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
            there = http.client.HTTPConnection(self.site, timeout=30)
            there.request("GET", self.path)
            answer = there.getresponse()
            self._say(answer.status, answer.read(), {"Content-Type": answer.getheader("Content-Type") or "text/plain"})

    def _say(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Mirror.folder, Mirror.site = Path(sys.argv[2]), sys.argv[3]
    ThreadingHTTPServer(("", int(sys.argv[1])), Mirror).serve_forever()
