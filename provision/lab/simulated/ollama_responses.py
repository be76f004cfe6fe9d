"""/v1/responses of the simulated server, in terms of /api/chat."""

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from .ollama_errors import RefusedError
from .ollama_json import encode
from .ollama_openai import joined, text_of
from .ollama_requests import Body

_numbers = itertools.count(1)
Document = dict[str, Any]


def request(body: Body) -> Body:
    """A request of /v1/responses as one of /api/chat.

    Raises:
        RefusedError: the input is neither a text nor a list of messages (400).
    """
    given = body.get("input")
    if not isinstance(given, (str, list)):
        raise RefusedError(400, "input must be a string or array", early=True)
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not all(isinstance(item, dict) for item in items):
        raise RefusedError(400, "input must be a string or array", early=True)
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    messages = [{"role": item.get("role", "user"), "content": text_of(item.get("content"))} for item in items]
    own = {"model": body.get("model"), "messages": [*system, *messages], "tools": body.get("tools")}
    return {**own, "options": {"num_predict": body.get("max_output_tokens")}}


def whole(frames: Iterable[Document], body: Body) -> Document:
    """The answer to a request without a stream."""
    collected = list(frames)
    said = joined(collected)
    output = [_thoughts(_name("rs"), said["reasoning"])] if "reasoning" in said else []
    output += [_message(_name("msg"), said["content"])]
    return _response(body, _name("resp"), output, collected[-1])


def stream(frames: Iterable[Document], body: Body) -> Iterator[bytes]:
    """Events of a streamed answer, a piece each, numbered from 0. Their keys are sorted, as Go sorts those of a map."""
    for number, (kind, fields) in enumerate(_events(frames, body)):
        event = {**fields, "type": kind, "sequence_number": number}
        yield f"event: {kind}\ndata: ".encode() + encode(_sorted(event)) + b"\n\n"


def _events(frames: Iterable[Document], body: Body) -> Iterator[tuple[str, Document]]:
    name, collected, items = _name("resp"), [], _Items()
    for number, frame in enumerate(frames):
        collected.append(frame)
        if not number:
            for kind in ("created", "in_progress"):
                yield f"response.{kind}", {"response": _response(body, name, [], None)}
        if frame["message"].get("thinking"):
            yield from items.think(frame["message"]["thinking"])
        if frame["message"]["content"]:
            yield from items.say(frame["message"]["content"])
        if frame["done"]:
            yield from items.end()
            yield "response.completed", {"response": _response(body, name, items.output, frame)}


class _Items:
    """The parts of a streamed answer: the thoughts, if any, then the message."""

    def __init__(self) -> None:
        self.output: list[Document] = []
        self._thoughts, self._text = "", ""
        self._ids = {"rs": _name("rs"), "msg": _name("msg")}

    def think(self, text: str) -> Iterator[tuple[str, Document]]:
        """The events of a piece of a thought."""
        where = {"item_id": self._ids["rs"], "output_index": 0, "summary_index": 0}
        if not self._thoughts:
            item = {"id": self._ids["rs"], "type": "reasoning", "summary": []}
            yield "response.output_item.added", {"output_index": 0, "item": item}
        self._thoughts += text
        yield "response.reasoning_summary_text.delta", {**where, "delta": text}

    def say(self, text: str) -> Iterator[tuple[str, Document]]:
        """The events of a piece of the message."""
        yield from self._end_thoughts()
        where = self._where()
        if not self._text:
            item = {**_message(self._ids["msg"], ""), "status": "in_progress", "content": []}
            yield "response.output_item.added", {"output_index": len(self.output), "item": item}
            yield "response.content_part.added", {**where, "part": _part("")}
        self._text += text
        yield "response.output_text.delta", {**where, "delta": text, "logprobs": []}

    def end(self) -> Iterator[tuple[str, Document]]:
        """The events after the last token."""
        yield from self._end_thoughts()
        if not self._text:
            return
        where, item = self._where(), _message(self._ids["msg"], self._text)
        yield "response.output_text.done", {**where, "text": self._text, "logprobs": []}
        yield "response.content_part.done", {**where, "part": _part(self._text)}
        yield "response.output_item.done", {"output_index": len(self.output), "item": item}
        self.output.append(item)

    def _end_thoughts(self) -> Iterator[tuple[str, Document]]:
        if not self._thoughts or self.output:
            return
        where = {"item_id": self._ids["rs"], "output_index": 0, "summary_index": 0}
        item = _thoughts(self._ids["rs"], self._thoughts)
        yield "response.reasoning_summary_text.done", {**where, "text": self._thoughts}
        yield "response.output_item.done", {"output_index": 0, "item": item}
        self.output.append(item)

    def _where(self) -> Document:
        return {"item_id": self._ids["msg"], "output_index": len(self.output), "content_index": 0}


def _response(body: Body, name: str, output: list[Document], last: Document | None) -> Document:
    """A completed response of the last frame; a response in progress without a last frame."""
    made = int(time.time())
    return {
        "id": name,
        "object": "response",
        "created_at": made,
        "completed_at": made if last else None,
        "status": "completed" if last else "in_progress",
        "incomplete_details": None,
        "model": body.get("model"),
        "previous_response_id": None,
        "instructions": body.get("instructions") or None,
        "output": output,
        "error": None,
        "tools": body.get("tools") or [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": 1,
        "reasoning": None,
        "usage": _usage(last) if last else None,
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "store": False,
        "background": False,
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


def _usage(frame: Document) -> Document:
    read, written = frame.get("prompt_eval_count", 0), frame.get("eval_count", 0)
    counts = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {
        **counts,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _message(name: str, text: str) -> Document:
    return {"id": name, "type": "message", "status": "completed", "role": "assistant", "content": [_part(text)]}


def _part(text: str) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _thoughts(name: str, text: str) -> Document:
    return {
        "id": name,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}],
        "encrypted_content": text,
    }


def _name(kind: str) -> str:
    return f"{kind}_{next(_numbers)}"


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value
