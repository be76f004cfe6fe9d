"""A small HTTP client over a raw socket: headers as sent, chunks as framed, and the end of a body in words."""

import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from tests.contract.ollama.cases import Request
from tests.contract.ollama.judge import Answer

Place = tuple[str, int]


def ask(place: Place, request: Request, timeout: float) -> Answer:
    """Send one request on a connection of its own, and return the answer.

    Args:
        place: host and port.
        request: the request.
        timeout: the seconds without a byte after which the answer counts as cut.
    """
    try:
        with socket.create_connection(place, timeout=timeout) as connection:
            connection.sendall(_bytes(place, request))
            return _Reader(connection).answer(request)
    except OSError as error:
        return Answer(0, (), f"{type(error).__name__}: {error}", "")
    except (ValueError, IndexError) as error:
        return Answer(0, (), f"no HTTP: {error}", "")


def on_one_connection(place: Place, requests: list[Request], timeout: float, *, pipelined: bool) -> list[int]:
    """Send several requests on one connection, and return the statuses up to the end of the connection.

    Args:
        place: host and port.
        requests: the requests.
        timeout: the seconds without a byte after which the answer counts as cut.
        pipelined: whether all requests go out before the first answer is read.
    """
    statuses: list[int] = []
    with suppress(OSError), socket.create_connection(place, timeout=timeout) as connection:
        reader = _Reader(connection)
        if pipelined:
            connection.sendall(b"".join(_bytes(place, request) for request in requests))
        for request in requests:
            if not pipelined:
                connection.sendall(_bytes(place, request))
            statuses.append(reader.answer(request).status)
    return statuses


def _bytes(place: Place, request: Request) -> bytes:
    headers: dict[str, str | None] = {"Host": f"{place[0]}:{place[1]}"}
    body = request.body
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    if request.chunked and body is not None:
        headers |= {"Transfer-Encoding": "chunked", "Content-Length": None}
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    lines = [f"{name}: {value}\r\n" for name, value in {**headers, **request.headers}.items() if value is not None]
    return f"{request.method} {request.path} HTTP/{request.http}\r\n{''.join(lines)}\r\n".encode() + (body or b"")


@dataclass
class _Reader:
    """Reads answers from a connection."""

    connection: socket.socket
    rest: bytes = b""

    def answer(self: Self, request: Request) -> Answer:
        status, headers = self._head()
        while 100 <= status < 200:
            status, headers = self._head()
        fields = {name.lower(): value for name, value in headers}
        body, chunks = b"", 0
        try:
            if request.method == "HEAD" or status in {204, 304}:
                ends = "head"
            elif fields.get("transfer-encoding") == "chunked":
                while chunk := self._chunk():
                    body, chunks = body + chunk, chunks + 1
                ends = "chunked"
            elif "content-length" in fields:
                while len(body) < int(fields["content-length"]):
                    body += self._some(int(fields["content-length"]) - len(body))
                ends = "length"
            else:
                body, ends = self._to_the_end(), "eof"
        except OSError:  # no byte within the time limit, or the connection is lost
            ends = "cut"
        return Answer(status, tuple(headers), ends, body.decode(errors="replace"), chunks=chunks)

    def _head(self) -> tuple[int, list[tuple[str, str]]]:
        lines = self._until(b"\r\n\r\n").decode("latin1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:])]
        return int(lines[0].split()[1]), headers

    def _chunk(self) -> bytes:
        size, data = int(self._until(b"\r\n"), 16), b""
        while len(data) < size:
            data += self._some(size - len(data))
        self._until(b"\r\n")
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.rest:
            self.rest += self._read()
        found, _, self.rest = self.rest.partition(mark)
        return found

    def _some(self, most: int) -> bytes:
        if not self.rest:
            self.rest = self._read()
        found, self.rest = self.rest[:most], self.rest[most:]
        return found

    def _read(self) -> bytes:
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionError("the connection was closed")
        return data

    def _to_the_end(self) -> bytes:
        found, self.rest = self.rest, b""
        while data := self.connection.recv(65536):
            found += data
        return found
