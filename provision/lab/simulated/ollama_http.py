"""HTTP as Go's server and gin write it: bodies, headers, chunks, streams, the log line, and a client that leaves."""

import select
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from .ollama_answers import Answers
from .ollama_json import encode
from .ollama_origins import Headers
from .ollama_runner import Scheduler

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
EVENTS = "text/event-stream"
TEXT = "text/plain"
_BUFFER = 2048
"""Go's server sends a longer answer in chunks, and a shorter one with its length."""


class MalformedError(Exception):
    """The request is no HTTP."""


class Client(BaseHTTPRequestHandler, ABC):
    """One connection of a client.

    `scheduler`, `answers`, `version` and the address `bound_to` are those of the server; `data` is the body of the
    request, and `extra` are further headers of the answer.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as Go's net package does: else a token can wait 40 ms for an acknowledgement
    scheduler: Scheduler
    answers: Answers
    version: str
    bound_to: str
    data: bytes = b""
    started: bool = False
    extra: Headers = []  # noqa: RUF012 - replaced for each request, never changed
    status: int = 0

    def __getattr__(self, name: str) -> Any:
        """Answer every method in the same place, also those that nobody has heard of."""
        if name.startswith("do_"):
            return self._timed
        raise AttributeError(name)

    @abstractmethod
    def handle_request(self) -> None:
        """Answer the request; the server's own class says how."""

    def _timed(self) -> None:
        self.started, self.extra, self.status, begun = False, [], 499, time.monotonic()
        try:
            self.handle_request()
        except MalformedError:
            self.close_connection = True
            self.send_bytes(400, b"400 Bad Request", "text/plain; charset=utf-8")
        finally:
            self._log_line(time.monotonic() - begun)

    def _log_line(self, took: float) -> None:
        stamp = datetime.now(UTC).strftime("%Y/%m/%d - %H:%M:%S")
        lasted = f"{took:.9f}s" if took >= 1 else f"{took * 1e3:.6f}ms" if took >= 1e-3 else f"{took * 1e6:.3f}µs"
        client = str(self.client_address[0])
        path = self.path.encode("unicode_escape").decode().replace('"', '\\"')
        line = f'[GIN] {stamp} | {self.status} | {lasted:>13} | {client:>15} | {self.command:<7}  "{path}"'
        print(line, file=sys.stderr, flush=True)

    # -- reading

    def body(self) -> bytes:
        """The body of the request, in chunks or with its length.

        Raises:
            MalformedError: the length or a chunk is none.
        """
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(iter(self._chunk, b""))
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdecimal():
            raise MalformedError
        return self.rfile.read(int(length))

    def _chunk(self) -> bytes:
        """One chunk of the body; nothing at the end, after the trailers."""
        try:
            size = int(self.rfile.readline(4096).partition(b";")[0], 16)
        except ValueError as error:
            raise MalformedError from error
        if size < 0:
            raise MalformedError
        data = self.rfile.read(size)
        while self.rfile.readline(4096).strip():  # the end of the chunk, or the trailers
            if size:
                raise MalformedError
        return data

    def alive(self) -> bool:
        """Whether the client is still connected."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    # -- answering

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the library cannot read as Go does: without HTML."""
        self.close_connection, self.extra = True, []
        self.command = getattr(self, "command", None) or ""
        self.send_bytes(code, f"{code} {message or HTTPStatus(code).phrase}".encode(), "text/plain; charset=utf-8")

    def send_bytes(self, status: int, data: bytes, kind: str = "") -> None:
        """Send a whole answer.

        Args:
            status: HTTP status.
            data: body.
            kind: content type; empty for none.
        """
        old = self.request_version == "HTTP/1.0"
        whole = len(data) <= _BUFFER or self.command == "HEAD"
        self._head(status, kind, len(data) if whole else None)
        if self.command == "HEAD" or status == HTTPStatus.NO_CONTENT:
            return
        self.wfile.write(data if whole or old else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

    def send_json(self, document: Any, status: int = 200, kind: str = JSON) -> None:
        """Send a document. Those of the type PLAIN_JSON end with a new line, as Go's encoder writes them."""
        self.send_bytes(status, encode(document) + (b"\n" if kind == PLAIN_JSON else b""), kind)

    def send_stream(self, pieces: Iterable[bytes], kind: str, headers: Headers | None = None) -> None:
        """Send pieces as they come, a chunk each; the header goes out with the first."""
        for piece in pieces:
            if not self.started:
                self.extra = [*self.extra, *(headers or [])]
                self._head(200, kind, None)
            self.send_piece(piece)
        self.send_piece(b"")

    def send_lines(self, frames: Iterable[dict[str, Any]]) -> None:
        """Send documents as they come, a line each."""
        self.send_stream((encode(frame) + b"\n" for frame in frames), NDJSON)

    def send_piece(self, data: bytes) -> None:
        """Send one piece of a stream; an empty piece ends the stream."""
        old = self.request_version == "HTTP/1.0"
        self.wfile.write(data if old else b"%x\r\n%b\r\n" % (len(data), data))

    def _head(self, status: int, kind: str, length: int | None) -> None:
        self.status = status
        self.send_response_only(status)
        own = [("Content-Type", kind)] if kind else []
        for name, value in [*self.extra, *own, ("X-Simulated", "provision-lab"), ("Date", self.date_time_string())]:
            self.send_header(name, value)
        if length is not None and status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(length))
        elif length is None and self.request_version == "HTTP/1.0":  # the answer ends with the connection
            self.close_connection = True
        elif length is None:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection and self.request_version != "HTTP/1.0":
            self.send_header("Connection", "close")
        self.end_headers()
        self.started = True
