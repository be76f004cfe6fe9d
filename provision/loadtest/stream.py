"""A streamed answer, frame by frame: its progress, its speed, and its end.

Native streams are NDJSON and end with a frame with `done`; `/v1/` streams are server-sent events and end with
`[DONE]`. An error in the middle comes after status 200, as a line of its own (docs/facts.md#ollama-api): so the status
proves nothing, and only the last frame makes an answer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LONGEST_LINE = 1024 * 1024  # bytes; a frame holds one token, or a few
LONGEST_DETAIL = 8192  # characters; cut further where a key has been masked, which may be half as long
CUT, ERROR, EMPTY, GARBLED = "cut stream", "error in stream", "empty answer", "not a stream"


@dataclass
class Stream:
    """Takes an answer's bytes as they come.

    Args:
        openai: whether the answer is from `/v1/`.
    """

    openai: bool = False
    first: float | None = None
    """When the first token came, response or thinking, by the clock of `feed`."""
    last: float | None = None
    """When the last token came."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between one token and the next."""
    frames: int = 0
    """Frames with a token."""
    arrivals: int = 0
    """How often tokens came: fewer than frames where a proxy buffers."""
    tokens: int = 0
    """Tokens, as counted by the server; frames where the server did not count."""
    load: float = 0.0
    """Seconds in which the model was loaded for this request (native only)."""
    prefill: float | None = None
    """Seconds in which the prompt was read; None where the server gives no figure (`/v1/`)."""
    decode: float | None = None
    """Seconds in which the answer was made; None where the server gives no figure."""
    size: int = 0
    """Bytes that came."""
    problem: str = ""
    """Why the stream is no answer; empty so far."""
    detail: str = ""
    """The server's words about the problem."""
    done: bool = False
    _rest: bytes = b""

    def feed(self, data: bytes, now: float) -> None:
        """Take the next bytes.

        Args:
            data: any number of lines, and parts of them.
            now: seconds of a clock that never goes back.
        """
        before = self.frames
        self.size += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.strip(), now)
        self.arrivals += self.frames > before
        if len(self._rest) > LONGEST_LINE:
            self._fail(GARBLED, "a line without end")
            self._rest = b""

    def end(self, now: float) -> str:
        """End the stream, and return why it is no answer; empty for a good answer."""
        rest, self._rest = self._rest.strip(), b""
        if rest:
            self._line(rest, now)
        if not self.problem and not self.done:
            self._fail(CUT, f"ended after {self.frames} frames without the last frame")
        if not self.problem and not self.frames:
            self._fail(EMPTY, "no token came")
        fits = 0 < self.tokens <= 10 * self.frames + 1000  # a server may report any number
        self.tokens = self.tokens if fits else self.frames
        return self.problem

    def _line(self, line: bytes, now: float) -> None:
        if self.openai:
            if line.startswith(b"data:"):
                line = line[5:].strip()
            elif not line.startswith(b"{"):
                return  # comments and other fields of server-sent events
        if not line or self.problem:
            return
        if self.openai and line == b"[DONE]":
            self.done = True
            return
        frame = _parsed(line)
        if frame is None:
            self._fail(GARBLED, line[:LONGEST_DETAIL].decode(errors="replace"))
        elif frame.get("error"):
            self._fail(ERROR, _error_text(frame["error"]))
        elif self.done:
            self._fail(GARBLED, "the stream goes on after its last frame")
        else:
            self._frame(frame, now)

    def _frame(self, frame: dict[str, Any], now: float) -> None:
        if any(_openai_tokens(frame) if self.openai else _native_tokens(frame)):
            self._token(now)
        if self.openai:
            self.tokens = _number(_mapping(frame.get("usage")).get("completion_tokens")) or self.tokens
        elif frame.get("done") is True:
            self.done = True
            self.tokens = _number(frame.get("eval_count"))
            self.load = _number(frame.get("load_duration")) / 1e9
            self.prefill = _number(frame.get("prompt_eval_duration")) / 1e9
            self.decode = _number(frame.get("eval_duration")) / 1e9 or None

    def _token(self, now: float) -> None:
        self.frames += 1
        if self.last is not None:
            self.gaps.append(now - self.last)
        self.first = now if self.first is None else self.first
        self.last = now

    def _fail(self, problem: str, detail: str) -> None:
        self.problem = self.problem or problem
        self.detail = self.detail or detail


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


def _native_tokens(frame: dict[str, Any]) -> Iterator[Any]:
    """The values that may hold a token: a model that thinks leaves `response` empty for a long time."""
    message = _mapping(frame.get("message"))
    yield from (frame.get("response"), frame.get("thinking"))
    yield from (message.get("content"), message.get("thinking"), message.get("tool_calls"))


def _openai_tokens(frame: dict[str, Any]) -> Iterator[Any]:
    choices = frame.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        delta = _mapping(_mapping(choice).get("delta"))
        yield from (delta.get("content"), delta.get("reasoning"), delta.get("tool_calls"))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int:
    """A count from a server; 0 for any other value, and for a number that no answer can reach."""
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62
    return value if fine else 0


def _error_text(error: Any) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return str(text)[:LONGEST_DETAIL]
