"""The site's web server, and a proxy from the hosts to the package mirror. Runs on the standard library alone.

    python serve.py ADDRESS WEB_ROOT CACHE

serves WEB_ROOT on port 80, and on port 3142 an HTTP proxy with a cache: files whose name tells their content stay for
ever, any other file as long as its server calls it unchanged (or does not answer).
"""

import hashlib
import http.client
import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

_FOREVER = (".deb", ".udeb", ".dsc", ".tar.gz", ".tar.xz", ".tar.bz2", ".diff.gz")


class _Web(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cache: Path
    locks: ClassVar[defaultdict[str, threading.Lock]] = defaultdict(threading.Lock)

    def do_GET(self) -> None:
        """Answer from the cache, after asking the server where the copy may be stale."""
        if not self.path.startswith("http://"):
            self.send_error(400, "this is a proxy for http:// only")
            return
        name = hashlib.sha256(self.path.encode()).hexdigest()
        copy = self.cache / name
        with self.locks[name]:
            status = self._refresh(copy)
        if status == 200:
            self._send(copy)
        else:
            self.send_error(status)

    def _refresh(self, copy: Path) -> int:
        """Bring the cached copy up to date, and return 200 or the status for the client."""
        if copy.exists() and (self.path.endswith(_FOREVER) or "/by-hash/" in self.path):
            return 200
        headers = {"User-Agent": "provision-lab"}
        stamp = copy.with_suffix(".modified")
        if copy.exists() and stamp.exists():
            headers["If-Modified-Since"] = stamp.read_text()
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(urllib.request.Request(self.path, headers=headers), timeout=60) as answer:  # noqa: S310
                self._keep(copy, stamp, answer)
        except urllib.error.HTTPError as error:
            return 200 if error.code == 304 else error.code
        except (OSError, http.client.HTTPException):
            return 200 if copy.exists() else 502
        return 200

    def _keep(self, copy: Path, stamp: Path, answer: http.client.HTTPResponse) -> None:
        # a name of its own: the proxies of several labs share the folder
        host, port = self.connection.getsockname()
        part = copy.with_suffix(f".{host}-{port}.part")
        with part.open("wb") as sink:
            shutil.copyfileobj(answer, sink, 1 << 18)
        length = answer.headers.get("Content-Length")
        if length is not None and part.stat().st_size != int(length):
            raise http.client.IncompleteRead(b"")
        if modified := answer.headers.get("Last-Modified"):
            stamp.write_text(modified)
        part.rename(copy)

    def _send(self, copy: Path) -> None:
        stamp = copy.with_suffix(".modified")
        modified = stamp.read_text() if stamp.exists() else ""
        if modified and self.headers.get("If-Modified-Since") == modified:
            self.send_response(304)
            self.end_headers()
            return
        with copy.open("rb") as source:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(source.fileno()).st_size))
            if modified:
                self.send_header("Last-Modified", modified)
            self.end_headers()
            shutil.copyfileobj(source, self.wfile, 1 << 18)


def main(address: str, root: str, cache: str) -> None:
    """Serve until killed."""
    _Proxy.cache = Path(cache)
    _Proxy.cache.mkdir(parents=True, exist_ok=True)
    ThreadingHTTPServer.daemon_threads = True
    proxy = ThreadingHTTPServer((address, 3142), _Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    ThreadingHTTPServer((address, 80), partial(_Web, directory=root)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
