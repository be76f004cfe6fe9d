"""The requests: one of three kinds with prompts of ours, or a file of the operator's own."""

import copy
import itertools
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import UsageError

PATHS = {"chat": "/api/chat", "generate": "/api/generate", "openai": "/v1/chat/completions"}
LARGEST_FILE = 64 * 1024 * 1024  # bytes
MOST_REQUESTS = 100_000

# A request with another value of such an option loads the model anew (docs/facts.md#ollama-api).
RELOADING = frozenset({"main_gpu", "num_batch", "num_ctx", "num_gpu", "num_thread", "use_mmap"})

_TOPICS = (
    "Explain to a new colleague how a load balancer chooses where a request goes",
    "Write a short story about a lighthouse keeper who finds a message in the fog",
    "List what can go wrong when a database is moved to another machine",
    "Compare rye bread with wheat bread for somebody who bakes at home",
    "Describe how a bicycle gear works, from the pedal to the road",
    "Give a plan for learning to read music within three months",
    "Summarise the reasons why old bridges need inspection",
    "Write a polite letter that asks a neighbour to turn the music down",
)


@dataclass(frozen=True)
class Profile:
    """The requests to an endpoint.

    Args:
        name: `chat`, `generate`, `openai`, or the file's name.
        model: the model to ask.
        max_tokens: the longest answer, in tokens.
        requests: bodies of the operator's own, without model and stream; empty for prompts of ours.
    """

    name: str
    model: str
    max_tokens: int
    requests: Sequence[dict[str, Any]] = ()

    def bodies(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield path and body of one request after another, without end, in random order.

        Every prompt begins with a word of its own, or the server's prompt cache would answer for the model.
        """
        chance = secrets.SystemRandom()
        for number in itertools.count():
            unique = f"[{number}-{secrets.token_hex(4)}] "
            if self.requests:
                yield self._own(copy.deepcopy(chance.choice(self.requests)), unique)
            else:
                yield PATHS[self.name], self._ours(self.name, unique + chance.choice(_TOPICS) + ".")

    def _ours(self, kind: str, prompt: str) -> dict[str, Any]:
        body: dict[str, Any] = {"prompt": prompt} if kind == "generate" else {"messages": [_user(prompt)]}
        return self._bounded(kind, body)

    def _own(self, body: dict[str, Any], unique: str) -> tuple[str, dict[str, Any]]:
        kind = _kind(body)
        if kind == "generate":
            body["prompt"] = unique + body["prompt"]
        else:
            first = next((message for message in body["messages"] if isinstance(message.get("content"), str)), None)
            if first is None:
                body["messages"].insert(0, _user(unique.strip()))
            else:
                first["content"] = unique + first["content"]
        return PATHS[kind], self._bounded(kind, body)

    def _bounded(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """The body with our model, streamed, and with a longest answer. num_ctx stays out: another value reloads the
        model."""
        body |= {"model": self.model, "stream": True}
        if kind == "openai":
            longest = min(self.max_tokens, body.get("max_tokens") or self.max_tokens)
            return body | {"max_tokens": longest, "stream_options": {"include_usage": True}}
        options = body.get("options") or {}
        longest = options.get("num_predict") or self.max_tokens
        return body | {"options": options | {"num_predict": min(self.max_tokens, longest)}}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _kind(body: dict[str, Any]) -> str:
    return "generate" if "prompt" in body else "chat"


def load(name: str, model: str, max_tokens: int) -> Profile:
    """The profile of a name, or of a file.

    Args:
        name: `chat`, `generate`, `openai`, or a file with a JSON object per line: `{"prompt": ...}` for /api/generate,
            `{"messages": [...]}` for /api/chat, each with `options` if need be.
        model: the model to ask.
        max_tokens: the longest answer, in tokens.

    Raises:
        UsageError: no such profile, or the file has another form.
    """
    if name in PATHS:
        return Profile(name, model, max_tokens)
    path = Path(name)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{name} is larger than {LARGEST_FILE} bytes", "a sample of it is enough")
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        hint = f"a profile is {', '.join(PATHS)}, or a file with a JSON object per line"
        raise UsageError(f"the profile {name} cannot be read: {error}", hint) from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or len(lines) > MOST_REQUESTS:
        raise UsageError(f"{name} holds {len(lines)} requests", f"one to {MOST_REQUESTS} are taken, one a line")
    return Profile(path.name, model, max_tokens, [_request(name, number, line) for number, line in lines])


def _request(file: str, number: int, line: str) -> dict[str, Any]:
    """One line of a file.

    Raises:
        UsageError: the line is no request.
    """
    where = f"{file}:{number}"
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON: {error}", 'write a line like {"prompt": "..."}') from error
    document: dict[str, Any] = body if isinstance(body, dict) else {}
    problem = next((text for test, text in _RULES if not test(document)), "")
    if problem:
        raise UsageError(
            f"{where}: {problem}", 'write {"prompt": "..."} or {"messages": [...]}, and options if need be'
        )
    return document


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)


def _is_options(body: dict[str, Any]) -> bool:
    options = body.get("options") or {}
    return isinstance(options, dict) and _is_count(options.get("num_predict"))


def _has_messages(body: dict[str, Any]) -> bool:
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages) and all(isinstance(message, dict) for message in messages)


_RULES: tuple[tuple[Callable[[dict[str, Any]], bool], str], ...] = (
    (lambda body: ("prompt" in body) != ("messages" in body), "must be an object with either prompt or messages"),
    (lambda body: "prompt" not in body or isinstance(body["prompt"], str), "prompt must be text"),
    (lambda body: "messages" not in body or _has_messages(body), "messages must be a list of objects"),
    (_is_options, "options must be an object, and num_predict a number above zero"),
    (
        lambda body: not RELOADING & set(body.get("options") or {}),
        f"options that load the model anew: {', '.join(sorted(RELOADING))}",
    ),
    (lambda body: "keep_alive" not in body, "keep_alive would unload the model"),
)
