"""The OpenAI-compatible side of the simulated server: /v1 requests and answers in terms of Ollama's own."""

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

_KINDS = {400: "invalid_request_error", 404: "not_found_error"}


def error(status: int, text: str) -> dict[str, Any]:
    """An error in the form of /v1."""
    return {"error": {"message": text, "type": _KINDS.get(status, "api_error"), "param": None, "code": None}}


def request(body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """A /v1 request as one of Ollama's own."""
    options = {}
    limit = body.get("max_tokens", body.get("max_completion_tokens"))
    if limit is not None:
        options["num_predict"] = limit
    own: dict[str, Any] = {"model": body.get("model"), "options": options}
    if chat:
        own["messages"] = body.get("messages") or [{"role": "user", "content": ""}]
        if body.get("reasoning_effort") == "none":
            own["think"] = False
    else:
        own["prompt"] = body.get("prompt") or " "
    return own


def stream(frames: Iterable[dict[str, Any]], body: dict[str, Any], *, chat: bool) -> Iterator[bytes]:
    """Server-sent events of a streamed answer: one for each frame, usage where asked for, then [DONE]."""
    identity = _identity(body, "chat.completion.chunk" if chat else "text_completion")
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    for frame in frames:
        reason = frame.get("done_reason")
        choice = {"index": 0, "finish_reason": reason, **_delta(frame, chat)}
        yield _event({**identity, "choices": [choice]})
        if frame["done"] and usage:
            yield _event({**identity, "choices": [], "usage": _usage(frame)})
    yield b"data: [DONE]\n\n"


def whole(frames: Iterable[dict[str, Any]], body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """The answer to a request without a stream."""
    collected = list(frames)
    text = "".join((frame.get("message") or {}).get("content") or frame.get("response") or "" for frame in collected)
    reasoning = "".join((frame.get("message") or {}).get("thinking") or "" for frame in collected)
    content: dict[str, Any] = {"text": text}
    if chat:
        thoughts = {"reasoning": reasoning} if reasoning else {}
        content = {"message": {"role": "assistant", "content": text, **thoughts}}
    last = collected[-1]
    choice = {"index": 0, **content, "finish_reason": last.get("done_reason")}
    identity = _identity(body, "chat.completion" if chat else "text_completion")
    return {**identity, "choices": [choice], "usage": _usage(last)}


def _identity(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"simulated-{time.monotonic_ns() % 1000000}",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model"),
        "system_fingerprint": "fp_simulated",
    }


def _delta(frame: dict[str, Any], chat: bool) -> dict[str, Any]:
    if not chat:
        return {"text": frame.get("response", "")}
    message = frame["message"]
    thoughts = {"reasoning": message["thinking"]} if message.get("thinking") else {}
    return {"delta": {"role": "assistant", "content": message["content"], **thoughts}}


def _usage(frame: dict[str, Any]) -> dict[str, int]:
    read, written = frame.get("prompt_eval_count", 0), frame.get("eval_count", 0)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
