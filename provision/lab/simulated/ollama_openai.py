"""The OpenAI-compatible side of the simulated server: /v1 requests and answers in terms of Ollama's own."""

import base64
import itertools
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

from .ollama_errors import RefusedError
from .ollama_json import encode
from .ollama_requests import Body

_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
_LEVELS = ("high", "medium", "low", "max", "none")
_numbers = itertools.count(1)


def error(status: int, text: str) -> dict[str, Any]:
    """An error in the form of /v1."""
    return {"error": {"message": text, "type": _KINDS.get(status, "api_error"), "param": None, "code": None}}


def chat_request(body: Body) -> Body:
    """A request of /v1/chat/completions as one of /api/chat. `max_completion_tokens` is ignored, as in the real server.

    Raises:
        RefusedError: the request has no messages, or a value that the API does not know (400).
    """
    if not body.get("messages"):
        raise RefusedError(400, "[] is too short - 'messages'", early=True)
    effort = body.get("reasoning_effort")
    if effort and effort not in _LEVELS:
        raise RefusedError(400, f"invalid reasoning value: '{effort}'", early=True)
    thinks = {"think": effort != "none" and effort} if effort else {}
    messages = [{**message, "content": text_of(message.get("content"))} for message in body["messages"] if message]
    return {**_run(body), "messages": messages, **thinks, "format": _format(body.get("response_format"))}


def completion_request(body: Body) -> Body:
    """A request of /v1/completions as one of /api/generate."""
    return {**_run(body), "prompt": body.get("prompt") or "", "suffix": body.get("suffix")}


def embedding_request(body: Body) -> Body:
    """A request of /v1/embeddings as one of /api/embed.

    Raises:
        RefusedError: the request has no input, or an unknown format (400).
    """
    if not body.get("input"):
        raise RefusedError(400, "invalid input", early=True)
    form = body.get("encoding_format") or "float"
    if form not in {"float", "base64"}:
        text = f"Invalid value for 'encoding_format' = {form}. Supported values: ['float', 'base64']."
        raise RefusedError(400, text, early=True)
    return {"model": body.get("model"), "input": body["input"], "dimensions": body.get("dimensions")}


def text_of(content: Any) -> str:
    """The text of a message: a text, or a list of parts.

    Raises:
        RefusedError: the content is neither (400).
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise RefusedError(400, "invalid message format", early=True)
    return "".join(str(part.get("text") or "") for part in content)


def stream(frames: Iterable[dict[str, Any]], body: Body, *, chat: bool) -> Iterator[bytes]:
    """Server-sent events of a streamed answer: a piece for each frame, and usage and [DONE] in the last piece.

    Only the first delta of a chat names the role. With usage, every event of /v1/completions has one, of zeros.
    """
    identity = _identity(body, "chat.completion.chunk" if chat else "text_completion", chat)
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    zeros = {"usage": _usage({})} if usage and not chat else {}
    role = {"role": "assistant"}
    for frame in frames:
        content = {"delta": {**role, **_said(frame)}} if chat else {"text": frame.get("response", "")}
        role = {}
        choice = _choice(content, frame.get("done_reason"), chat)
        piece = _event(_ordered({**identity, "choices": [choice], **zeros}, chat))
        if frame["done"]:
            last = {**identity, "choices": [], "usage": _usage(frame)}
            piece += (_event(_ordered(last, chat)) if usage else b"") + b"data: [DONE]\n\n"
        yield piece


def whole(frames: Iterable[dict[str, Any]], body: Body, *, chat: bool) -> dict[str, Any]:
    """The answer to a request without a stream."""
    collected = list(frames)
    last = collected[-1]
    identity = _identity(body, "chat.completion" if chat else "text_completion", chat)
    content: dict[str, Any] = {"text": "".join(frame.get("response", "") for frame in collected)}
    if chat:
        content = {"message": {"role": "assistant", **joined(collected)}}
    choice = _choice(content, last.get("done_reason"), chat)
    return {**identity, "choices": [choice], "usage": _usage(last)}


def joined(frames: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Content and reasoning of the frames of a chat; no reasoning without thoughts."""
    said = [frame["message"] for frame in frames]
    reasoning = "".join(message.get("thinking") or "" for message in said)
    return {
        "content": "".join(message["content"] for message in said),
        **({"reasoning": reasoning} if reasoning else {}),
    }


def embeddings(own: dict[str, Any], body: Body) -> dict[str, Any]:
    """An answer of /api/embed in the form of /v1/embeddings."""
    packed = body.get("encoding_format") == "base64"
    vectors = [_packed(vector) if packed else vector for vector in own["embeddings"]]
    data = [{"object": "embedding", "embedding": vector, "index": n} for n, vector in enumerate(vectors)]
    count = own.get("prompt_eval_count", 0)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


def _format(given: Any) -> Any:
    """The format of /api/chat that a `response_format` asks for; None for plain text."""
    kind = given.get("type") if isinstance(given, dict) else ""
    return "json" if kind in {"json_object", "json_schema"} else None


def _run(body: Body) -> Body:
    limit = body.get("max_tokens")
    return {"model": body.get("model"), "tools": body.get("tools"), "options": {"num_predict": limit}}


def _identity(body: Body, kind: str, chat: bool) -> dict[str, Any]:
    return {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{next(_numbers)}",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model"),
        "system_fingerprint": "fp_simulated",
    }


def _ordered(event: dict[str, Any], chat: bool) -> dict[str, Any]:
    """An event with its keys in Ollama's order: that of /v1/completions has the choices before the model."""
    if chat:
        return event
    first = {key: event[key] for key in ("id", "object", "created", "choices")}
    return {**first, **{key: value for key, value in event.items() if key not in first}}


def _choice(content: dict[str, Any], reason: str | None, chat: bool) -> dict[str, Any]:
    index = {"index": 0}
    return {**(index if chat else {}), **content, **({} if chat else index), "finish_reason": reason}


def _said(frame: dict[str, Any]) -> dict[str, str]:
    return joined([frame])


def _usage(frame: dict[str, Any]) -> dict[str, int]:
    read, written = frame.get("prompt_eval_count", 0), frame.get("eval_count", 0)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def error_event(status: int, text: str) -> bytes:
    """The end of a stream that failed."""
    return _event(error(status, text))


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + encode(document) + b"\n\n"
