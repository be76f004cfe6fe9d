"""The Anthropic-compatible side of the simulated server: /v1/messages in terms of /api/chat."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from .ollama_errors import RefusedError
from .ollama_json import encode
from .ollama_openai import joined, text_of
from .ollama_requests import Body

_KINDS = {400: "invalid_request_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}
_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_numbers = itertools.count(1)


def error(status: int, text: str) -> dict[str, Any]:
    """An error in the form of /v1/messages."""
    own = {"type": _KINDS.get(status, "api_error"), "message": text}
    return {"type": "error", "error": own, "request_id": _name("req")}


def request(body: Body) -> Body:
    """A request of /v1/messages as one of /api/chat.

    Raises:
        RefusedError: the request lacks what Anthropic's API requires (400).
    """
    if not body.get("model"):
        raise RefusedError(400, "model is required", early=True)
    if (body.get("max_tokens") or 0) <= 0:
        raise RefusedError(400, "max_tokens is required and must be positive", early=True)
    if not body.get("messages"):
        raise RefusedError(400, "messages is required", early=True)
    system = [{"role": "system", "content": text_of(body["system"])}] if body.get("system") else []
    messages = [{**message, "content": text_of(message.get("content"))} for message in body["messages"] if message]
    own = {"model": body["model"], "messages": [*system, *messages], "tools": body.get("tools")}
    return {**own, "options": {"num_predict": body["max_tokens"]}, **_thinks(body.get("thinking"))}


def _thinks(given: Any) -> dict[str, bool]:
    kind = given.get("type") if isinstance(given, dict) else None
    return {"think": kind == "enabled"} if kind in {"enabled", "disabled"} else {}


def whole(frames: Iterable[dict[str, Any]], body: Body) -> dict[str, Any]:
    """The answer to a request without a stream."""
    collected = list(frames)
    said, last = joined(collected), collected[-1]
    thoughts = [{"type": "thinking", "thinking": said["reasoning"]}] if "reasoning" in said else []
    texts = [{"type": "text", "text": said["content"]}] if said["content"] else []
    content = [*thoughts, *texts]
    return {**_message(body, content), "stop_reason": _reason(last), "usage": _usage(last)}


def stream(frames: Iterable[dict[str, Any]], body: Body, asked: Body) -> Iterator[bytes]:
    """Events of a streamed answer, a piece each.

    Args:
        frames: frames of /api/chat.
        body: the request.
        asked: the request as one of /api/chat. The first event only guesses its tokens, a quarter of its letters.
    """
    letters = sum(len(str(one.get("role", ""))) + len(one["content"]) for one in asked["messages"])
    guess = {"input_tokens": max(1, letters // 4), "output_tokens": 0}
    open_block, index = "", 0
    for number, frame in enumerate(frames):
        if not number:
            yield _event("message_start", message={**_message(body, []), "usage": guess})
        for kind, key in (("thinking", "thinking"), ("text", "content")):
            text = frame["message"].get(key)
            if not text:
                continue
            if open_block != kind:
                if open_block:
                    yield _event("content_block_stop", index=index)
                    index += 1
                open_block = kind
                yield _event("content_block_start", index=index, content_block={"type": kind, kind: ""})
            yield _event("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: text})
        if frame["done"]:
            if open_block:
                yield _event("content_block_stop", index=index)
            yield _event("message_delta", delta={"stop_reason": _reason(frame)}, usage=_usage(frame))
            yield _event("message_stop")


def _message(body: Body, content: list[dict[str, Any]]) -> dict[str, Any]:
    identity = {"id": _name("msg"), "type": "message", "role": "assistant"}
    return {**identity, "model": body["model"], "content": content}


def _reason(frame: dict[str, Any]) -> str:
    return _REASONS.get(frame["done_reason"], "stop_sequence")


def _usage(frame: dict[str, Any]) -> dict[str, int]:
    return {"input_tokens": frame.get("prompt_eval_count", 0), "output_tokens": frame.get("eval_count", 0)}


def _name(kind: str) -> str:
    """A name such as the real server's, the same in every run: the first, the second, ..."""
    return f"{kind}_{hashlib.sha256(str(next(_numbers)).encode()).hexdigest()[:24]}"


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **fields}) + b"\n\n"


def error_event(status: int, text: str) -> bytes:
    """The end of a stream that failed."""
    return b"event: error\ndata: " + encode(error(status, text)) + b"\n\n"
