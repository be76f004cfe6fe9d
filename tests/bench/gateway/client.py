"""Clients of streamed chats: one blocking client for times, and thousands of streams in a single thread."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

CHAT = "/v1/chat/completions"
_EVENT, _LINE = b"data: {", b'{"model"'
_ENDS = (b"[DONE]", b'"done":true')
_CLOSES, _LAST_CHUNK = b"\r\nconnection: close", b"0\r\n\r\n"
_TAIL = 32  # bytes of an answer that are looked at again with the next piece


@dataclass(frozen=True)
class Place:
    """A server.

    Args:
        address: the address.
        port: the port.
    """

    address: str
    port: int


@dataclass(frozen=True)
class Ask:
    """A request of a streamed chat.

    Args:
        place: the server.
        model: name of the model.
        key: the client's key.
        tokens: tokens of the answer.
        pace: milliseconds between two tokens; 0 for all at once.
        keeps: whether the client asks the server to keep the connection.
    """

    place: Place
    model: str
    key: str
    tokens: int = 4
    pace: int = 0
    keeps: bool = False

    @property
    def bytes(self) -> bytes:
        """The whole request."""
        body = {
            "model": self.model,
            "stream": True,
            "max_tokens": self.tokens,
            "seed": self.pace,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "Why is the sky blue? " * 20}],
        }
        return post(self.place, CHAT, self.key, json.dumps(body).encode(), keeps=self.keeps)


def post(place: Place, path: str, key: str, body: bytes, *, keeps: bool = False) -> bytes:
    """Return a request with a body of JSON.

    Args:
        place: the server.
        path: the path.
        key: the client's key.
        body: the body.
        keeps: whether the client asks the server to keep the connection.
    """
    connection = "keep-alive" if keeps else "close"
    lines = [f"POST {path} HTTP/1.1", f"Host: {place.address}:{place.port}", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {key}", f"Content-Length: {len(body)}", f"Connection: {connection}", "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Answer:
    """The outcome of a request.

    Args:
        begun: when the client began to connect, in seconds of the monotonic clock.
        status: the HTTP status; 0 without a status.
        first: when the first token came; None without a token.
        last: when the last piece came; None before.
        tokens: frames so far.
        gap: longest pause between two pieces after the first token, in seconds.
        failure: empty, or the way of failing: refused, closed, cut, silent, an HTTP status, error in stream.
        done: whether the last frame came.
    """

    begun: float
    status: int = 0
    first: float | None = None
    last: float | None = None
    tokens: int = 0
    gap: float = 0.0
    failure: str = ""
    done: bool = False
    _tail: bytes = b""

    @property
    def good(self) -> bool:
        """Whether the answer is whole."""
        return self.done and not self.failure

    @property
    def ttft(self) -> float:
        """Seconds until the first token; not a number without a token."""
        return float("nan") if self.first is None else self.first - self.begun

    def take(self, data: bytes, now: float) -> None:
        """Look at a piece of the answer.

        Args:
            data: the piece.
            now: seconds of the monotonic clock.
        """
        if not self.status:
            self.status = int(data[9:12]) if data[:5] == b"HTTP/" and data[9:12].isdigit() else -1
            if self.status != 200:
                self.failure = str(self.status)
        found = data.count(_EVENT) or data.count(_LINE)
        self.tokens += found
        if found and self.first is None:
            self.first = now
        elif self.last is not None and self.first is not None:
            self.gap = max(self.gap, now - self.last)
        self.last = now
        tail = self._tail + data
        self.done = self.done or any(end in tail for end in _ENDS)
        if not self.failure and b'"error"' in tail:
            self.failure = "error in stream"
        self._tail = tail[-_TAIL:]

    def end(self) -> None:
        """Name the way of failing, after the end of the connection."""
        if not self.done and not self.failure:
            self.failure = "closed" if self.first is None else "cut"


class Caller:
    """A client that waits for each whole answer and does nothing else meanwhile, so that the times are exact.

    The client keeps its connection for as long as the server does, as the SDKs do.

    Args:
        timeout: seconds of silence after which the client gives up.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._open: dict[Place, socket.socket] = {}

    def ask(self, ask: Ask) -> Answer:
        """Send a request and return the whole answer.

        Args:
            ask: the request.
        """
        request, answer = ask.bytes, Answer(time.monotonic())
        connection = self._open.pop(ask.place, None)
        try:
            connection = connection or socket.create_connection((ask.place.address, ask.place.port), self._timeout)
            connection.sendall(request)
            if _read(connection, answer):
                self._open[ask.place], connection = connection, None
        except TimeoutError:
            answer.failure = "silent"
        except ConnectionRefusedError:
            answer.failure = "refused"
        except OSError:
            pass
        finally:
            if connection:
                connection.close()
        answer.end()
        return answer

    def close(self) -> None:
        """Close all connections."""
        while self._open:
            self._open.popitem()[1].close()


def _read(connection: socket.socket, answer: Answer) -> bool:
    """Read an answer, and return whether the server keeps the connection."""
    keeps = True
    while data := connection.recv(65536):
        if not answer.status:
            keeps = _CLOSES not in data.lower()
        answer.take(data, time.monotonic())
        if keeps and answer.done and data.endswith(_LAST_CHUNK):
            return True
    return False


def asked(ask: Ask, timeout: float = 60.0) -> Answer:
    """Send a request on a connection of its own, and return the whole answer.

    Args:
        ask: the request.
        timeout: seconds of silence after which the client gives up.
    """
    with closing(Caller(timeout)) as caller:
        return caller.ask(ask)


class Stream(asyncio.Protocol):
    """A stream: `started` is set by the first token or a failure, `ended` by the end of the connection.

    Args:
        ask: the request.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.answer = Answer(time.monotonic())
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self.ask.bytes)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self.answer.take(data, time.monotonic())
        if self.answer.first is not None or self.answer.failure:
            self.started.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end."""
        self.fail("")

    def fail(self, failure: str) -> None:
        """Take the end, with a way of failing or an empty text."""
        self.answer.failure = self.answer.failure or failure
        self.answer.end()
        self.started.set()
        self.ended.set()

    def leave(self) -> None:
        """Leave abruptly: the server gets a reset."""
        if self._transport and not self._transport.is_closing():
            found: socket.socket = self._transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()


async def opened(ask: Ask, timeout: float = 60.0) -> Stream:
    """Return a stream that has begun, or failed.

    Args:
        ask: the request.
        timeout: seconds until the client gives up.
    """
    stream = Stream(ask)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().create_connection(lambda: stream, ask.place.address, ask.place.port)
            await stream.started.wait()
    except TimeoutError:
        stream.fail("silent")
        stream.leave()
    except OSError:
        stream.fail("refused")
    return stream


async def answered(ask: Ask, timeout: float = 60.0) -> Answer:
    """Send a request and return the whole answer.

    Args:
        ask: the request.
        timeout: seconds until the client gives up.
    """
    stream = await opened(ask, timeout)
    try:
        async with asyncio.timeout(timeout):
            await stream.ended.wait()
    except TimeoutError:
        stream.fail("silent")
        stream.leave()
    return stream.answer


async def many_opened(asks: Sequence[Ask], at_once: int, timeout: float = 60.0) -> list[Stream]:
    """Return many streams that have begun, or failed.

    Args:
        asks: the requests.
        at_once: greatest number of streams that have not begun.
        timeout: seconds until a client gives up.
    """
    room = asyncio.Semaphore(at_once)

    async def open_next(ask: Ask) -> Stream:
        async with room:
            return await opened(ask, timeout)

    return list(await asyncio.gather(*map(open_next, asks)))


async def keep_asking(make: Callable[[int], Ask], clients: int, seconds: float) -> list[Answer]:
    """Return the answers of clients that ask again at the end of each answer.

    Args:
        make: returns the request with a number.
        clients: number of clients.
        seconds: how long new requests begin.
    """
    until = time.monotonic() + seconds
    numbers = iter(range(1 << 40))

    async def client() -> list[Answer]:
        answers = []
        while time.monotonic() < until:
            answers.append(await answered(make(next(numbers))))
            if answers[-1].failure:
                await asyncio.sleep(0.05)
        return answers

    return [answer for some in await asyncio.gather(*(client() for _ in range(clients))) for answer in some]


async def ask_at(make: Callable[[int], Ask], rate: float, most: int, until: asyncio.Event) -> list[Answer]:
    """Return the answers of requests that come at a rate, whether or not earlier requests have been answered.

    Args:
        make: returns the request with a number.
        rate: requests in a second.
        most: open requests; beyond, requests are left out.
        until: when set, no further request begins.
    """
    loop = asyncio.get_running_loop()
    begun, number = loop.time(), 0
    running: set[asyncio.Task[Answer]] = set()
    answers: list[Answer] = []

    def take(done: asyncio.Task[Answer]) -> None:
        running.discard(done)
        answers.append(done.result())

    while not until.is_set():
        if len(running) < most:
            task = asyncio.create_task(answered(make(number)))
            running.add(task)
            task.add_done_callback(take)
        number += 1
        await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
    while running:
        await asyncio.wait(running)
    return answers
