"""A SIMULATED instance for thousands of open streams: a single thread, a timer for each stream, tokens without a model.

    python -m tests.bench.gateway.instance 127.24.0.11 3001

A request says what the instance does: `max_tokens` is the number of tokens, `seed` the milliseconds between two
tokens. A `seed` passes every proxy unchanged. `GET /knobs?slots=4&prompt=50` bounds the answers at once, as Ollama does
(0 for no bound), and sets the milliseconds before a first token.
"""

import asyncio
import contextlib
import re
import resource
import sys
from collections import deque
from dataclasses import dataclass, field

BACKLOG = 4096
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"(?:max_tokens|max_completion_tokens|num_predict)": ?([0-9]+)')
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_PACE = re.compile(rb'"seed": ?([0-9]+)')
_KNOBS = re.compile(rb"^GET /knobs\?slots=([0-9]+)&prompt=([0-9]+) ")
_NUMBERS = 600  # bytes at each end of a body in which the numbers are looked for
_START = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
_FRAME = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1764547200,"model":"bench",'
    b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":%s,"finish_reason":%s}]%s}'
)
_WORD = _FRAME % (b'{"role":"assistant","content":" word"}', b"null", b"")
_LINE = (
    b'{"model":"bench","created_at":"2026-12-01T00:00:00Z","message":{"role":"assistant","content":" word"},'
    b'"done":false}\n'
)
_NO_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class State:
    """The state that all connections share.

    Attributes:
        slots: answers at once; 0 for no bound.
        prompt: seconds before a first token.
        busy: answers that hold a slot.
        waiting: connections whose requests wait for a slot, in the order of their arrival.
    """

    slots: int = 0
    prompt: float = 0.0
    busy: int = 0
    waiting: "deque[Connection]" = field(default_factory=deque)

    def enter(self, connection: "Connection") -> None:
        """Begin the answer of a connection, or let the connection wait."""
        if self.slots and self.busy >= self.slots:
            self.waiting.append(connection)
            return
        self.busy += 1
        connection.begin()

    def leave(self) -> None:
        """Give a slot back, and let the next requests in."""
        self.busy -= 1
        while self.waiting and not (self.slots and self.busy >= self.slots):
            self.busy += 1
            self.waiting.popleft().begin()


class Connection(asyncio.Protocol):
    """A connection; a request follows the answer of the request before.

    Args:
        state: the instance.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = bytearray()
        self._holds = False
        self._answering = False
        self._left = self._tokens = 0
        self._pace = 0.0
        self._native = self._closes = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        self._received += data
        if not self._answering:
            self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a client that left, and give the slot back."""
        if self._timer:
            self._timer.cancel()
        if self._holds:
            self._holds = False
            self._state.leave()
        elif self._answering:
            with contextlib.suppress(ValueError):
                self._state.waiting.remove(self)

    def _take(self) -> None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._received, 0, end)
        size = end + 4 + (int(found[1]) if found else 0)
        if len(self._received) < size:
            return
        head, body = bytes(self._received[:end]), bytes(self._received[end + 4 : size])
        del self._received[:size]
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if knobs := _KNOBS.match(head):
            self._state.slots, self._state.prompt = int(knobs[1]), int(knobs[2]) / 1000
        if not head.startswith(b"POST"):
            self._transport.write(_NO_BODY)
            return
        numbers = body if len(body) <= 2 * _NUMBERS else body[:_NUMBERS] + body[-_NUMBERS:]
        tokens, pace = _TOKENS.search(numbers), _PACE.search(numbers)
        self._tokens = self._left = int(tokens[1]) if tokens else 1
        self._pace = int(pace[1]) / 1000 if pace else 0.0
        self._native = head.startswith(b"POST /api/")
        self._closes = _CLOSE.search(head) is not None
        self._answering = True
        self._state.enter(self)

    def begin(self) -> None:
        """Begin the answer: the connection has a slot."""
        self._holds = True
        self._timer = self._loop.call_later(self._state.prompt, self._first)

    def _first(self) -> None:
        self._at = self._loop.time()
        kind = b"application/x-ndjson" if self._native else b"text/event-stream"
        self._transport.write(_START % kind + self._frame())
        self._left -= 1
        self._next()

    def _frame(self) -> bytes:
        return _chunk(_LINE if self._native else b"data: %s\n\n" % _WORD)

    def _next(self) -> None:
        if not self._left or not self._pace:
            self._end()
            return
        self._at += self._pace
        self._timer = self._loop.call_at(self._at, self._token)

    def _token(self) -> None:
        self._transport.write(self._frame())
        self._left -= 1
        self._next()

    def _end(self) -> None:
        count = b'"prompt_eval_count":9,"eval_count":%d' % self._tokens
        usage = b',"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}'
        last = [b'{"model":"bench","done":true,"done_reason":"stop",%s}\n' % count]
        if not self._native:
            filled = usage % (self._tokens, self._tokens + 9)
            frames = (_FRAME % (b'{"content":""}', b'"stop"', b""), _FRAME % (b"{}", b"null", filled), b"[DONE]")
            last = [b"data: %s\n\n" % frame for frame in frames]
        self._transport.write(self._frame() * self._left + b"".join(map(_chunk, last)) + b"0\r\n\r\n")
        self._holds = self._answering = False
        self._state.leave()
        if self._closes:
            self._transport.close()
        self._take()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(address: str, port: int) -> None:
    """Answer until the process ends.

    Args:
        address: address to listen on.
        port: port to listen on.
    """
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), address, port, backlog=BACKLOG)
    await server.serve_forever()


def main() -> None:
    """Run an instance at an address and a port."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()
