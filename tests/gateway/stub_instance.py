"""A stand-in for an instance: records every request that arrives, and answers as Ollama does. SIMULATED."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = 5
PROMPT_TOKENS = 11
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}


@dataclass(frozen=True)
class Arrived:
    """A request that reached an instance.

    Attributes:
        instance: name of the instance.
        method: the method.
        target: path and query, as sent.
        headers: names in lower case -> values.
        body: the bytes of the body.
    """

    instance: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as Python reads it."""
        return json.loads(self.body)


@dataclass
class StubInstance:
    """A running stand-in.

    Attributes:
        name: name of the instance.
        port: port on loopback.
        arrived: the requests so far.
        hold: set while answers may be finished; a streamed answer stops after its first frame while cleared.
        status: the status of every answer.
        recorded: type and frames of every answer; None for the answers of this module.
    """

    name: str
    port: int
    arrived: list[Arrived] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    status: int = 200
    recorded: tuple[str, list[str]] | None = None

    def take(self) -> list[Arrived]:
        """Return the requests so far, and forget them."""
        taken, self.arrived[:] = list(self.arrived), []
        return taken


@contextmanager
def serving(name: str) -> Iterator[StubInstance]:
    """Run a stand-in on a free port of loopback.

    Args:
        name: name of the instance.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    instance = StubInstance(name, server.server_address[1])
    instance.hold.set()
    server.instance = instance  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield instance
    finally:
        instance.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _answer(self) -> None:
        instance: StubInstance = self.server.instance  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        instance.arrived.append(Arrived(instance.name, self.command, self.path, headers, body))
        try:
            asked = json.loads(body) if body else {}
        except ValueError:
            asked = {}
        frames, kind = _frames(self.path, asked if isinstance(asked, dict) else {})
        if instance.recorded:
            kind, frames = instance.recorded
        if instance.status != 200:
            frames, kind = ['{"error":"as told"}'], "application/json"
        self.send_response(instance.status)
        self.send_header("Content-Type", kind)
        if len(frames) == 1:
            self.send_header("Content-Length", str(len(frames[0].encode())))
            self.end_headers()
            self.wfile.write(frames[0].encode() if self.command != "HEAD" else b"")
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for frame in frames:
            self.wfile.write(f"{len(frame.encode()):x}\r\n{frame}\r\n".encode())
            self.wfile.flush()
            instance.hold.wait(timeout=30)
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _answer  # noqa: N815 - names of the library

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the library
        """Print nothing."""


def _frames(path: str, asked: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the frames of an answer and its type. Words of a text look like keys of a last frame."""
    if path.startswith("/v1/"):
        return _v1_frames(path, asked)
    model = asked.get("model", "")
    done = {"done": True, "done_reason": "stop", "prompt_eval_count": PROMPT_TOKENS, "eval_count": TOKENS}
    if path in ("/api/embed", "/api/embeddings"):
        return [_text({"embeddings": [[0.1]], "total_duration": 9, "prompt_eval_count": PROMPT_TOKENS})], _JSON
    if path not in ("/api/generate", "/api/chat"):
        return [_text({"version": "0.33.0"})], _JSON
    word = {"message": {"content": '"eval_count":77'}} if path == "/api/chat" else {"response": '"eval_count":77'}
    if asked.get("stream") is False:
        return [_text({"model": model, **word, **done})], _JSON
    frames = [_text({"model": model, **word, "done": False}) for _ in range(TOKENS)]
    return [f"{frame}\n" for frame in [*frames, _text({"model": model, **done})]], "application/x-ndjson"


_JSON = "application/json"


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _v1_frames(path: str, asked: Mapping[str, Any]) -> tuple[list[str], str]:
    stream = asked.get("stream") is True
    new = {"input_tokens": PROMPT_TOKENS, "output_tokens": TOKENS}
    if path == "/v1/embeddings":
        return [_text({"data": [], "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}})], _JSON
    if path == "/v1/messages":
        events = [{"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 0}}}]
        events += [{"type": "content_block_delta", "delta": {"text": "a"}} for _ in range(TOKENS)]
        events += [{"type": "message_delta", "usage": new}, {"type": "message_stop"}]
        return _streamed([_text(event) for event in events]) if stream else ([_text({"usage": new})], _JSON)
    if path == "/v1/responses":
        events = [{"type": "response.output_text.delta", "delta": "a"} for _ in range(TOKENS)]
        events += [{"type": "response.completed", "response": {"usage": new}}]
        return _streamed([_text(event) for event in events]) if stream else ([_text({"usage": new})], _JSON)
    if not stream:
        return [_text({"choices": [{"message": {"content": "a"}}], "usage": USAGE})], _JSON
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": '"prompt_tokens":99'}}]} for _ in range(TOKENS)]
    asked_for = asked.get("stream_options")
    if isinstance(asked_for, dict) and asked_for.get("include_usage"):
        chunks.append({"choices": [], "usage": USAGE})
    return _streamed([*map(_text, chunks), "[DONE]"])


def _streamed(frames: list[str]) -> tuple[list[str], str]:
    return [f"data: {frame}\n\n" for frame in frames], "text/event-stream"
