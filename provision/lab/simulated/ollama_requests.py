"""The requests of the API: the fields and types of each, checked with the texts of Go's errors."""

from typing import Any

from . import ollama_durations as durations
from .ollama_errors import RefusedError
from .ollama_json import NoBodyError, decode

Body = dict[str, Any]
_OPTIONS = "map[string]interface {}"
_NAMED = {"model": "string", "name": "string"}
_RUN = {"model": "string", "options": _OPTIONS}
_ASK = {**_RUN, "stream": "bool", "truncate": "bool", "shift": "bool"}
_FIELDS: dict[str, dict[str, str]] = {
    "GenerateRequest": {
        **_ASK,
        **dict.fromkeys(("prompt", "suffix", "system", "template"), "string"),
        "raw": "bool",
        "context": "[]int",
        "images": "[]api.ImageData",
    },
    "ChatRequest": {**_ASK, "messages": "[]api.Message", "tools": "api.Tools"},
    "EmbedRequest": {**_RUN, "truncate": "bool", "dimensions": "int"},
    "EmbeddingRequest": {**_RUN, "prompt": "string"},
    "ShowRequest": {**_NAMED, "system": "string", "verbose": "bool", "options": _OPTIONS},
    "PullRequest": {**_NAMED, "insecure": "bool", "stream": "bool"},
    "DeleteRequest": _NAMED,
    "CopyRequest": {"source": "string", "destination": "string"},
    "CreateRequest": {
        **_NAMED,
        **dict.fromkeys(("from", "template", "system"), "string"),
        "stream": "bool",
        "files": "map[string]string",
        "parameters": "map[string]interface {}",
    },
    "ChatCompletionRequest": {
        "model": "string",
        "messages": "[]openai.Message",
        "stream": "bool",
        "tools": "[]api.Tool",
        "stream_options": "openai.StreamOptions",
        "max_tokens": "int",
        "seed": "int",
        "reasoning_effort": "string",
    },
    "CompletionRequest": {
        "model": "string",
        "prompt": "string",
        "stream": "bool",
        "suffix": "string",
        "stream_options": "openai.StreamOptions",
        "max_tokens": "int",
        "seed": "int",
    },
    "EmbeddingsRequest": {"model": "string", "dimensions": "int", "encoding_format": "string"},
    "MessagesRequest": {
        "model": "string",
        "max_tokens": "int",
        "messages": "[]anthropic.MessageParam",
        "stream": "bool",
    },
    "ResponsesRequest": {"model": "string", "max_output_tokens": "int", "stream": "bool", "instructions": "string"},
}
_FOREIGN = {
    **dict.fromkeys(("ChatCompletionRequest", "CompletionRequest", "EmbeddingsRequest", "ResponsesRequest"), "openai"),
    "MessagesRequest": "anthropic",
}
"""Packages of the requests of /v1, which Ollama translates into its own."""
_WORDS = {bool: "bool", str: "string", int: "number", float: "number", list: "array", dict: "object"}
_LEVELS = ("high", "medium", "low", "max")
_INTEGERS = ("num_ctx", "num_predict", "num_keep", "num_batch", "num_gpu", "num_thread", "seed", "top_k")
_DECIMALS = ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty")


def parse(kind: str, data: bytes) -> Body:
    """Return the body of a request, with `keep_alive` in seconds.

    Args:
        kind: name of the request's type in Ollama's source.
        data: the body.

    Raises:
        RefusedError: the body is missing, is no JSON, or holds a value of a wrong type (400).
    """
    early = kind in _FOREIGN
    try:
        body = decode(data)
        _check_types(kind, body)
        if body.get("keep_alive") is not None:
            body["keep_alive"] = durations.of_request(body["keep_alive"])
        if not early:
            _check_think(body.get("think"))
    except NoBodyError as error:
        raise RefusedError(400, "EOF" if early else "missing request body", early=early) from error
    except ValueError as error:
        raise RefusedError(400, str(error), early=early) from error
    return body  # type: ignore[no-any-return]


def options(body: Body) -> Body:
    """Return the options of a request that are not null.

    Raises:
        RefusedError: an option has a wrong type (500, as in the real server).
    """
    found = {name: value for name, value in (body.get("options") or {}).items() if value is not None}
    for name, value in found.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in _INTEGERS and not number:
            raise RefusedError(500, f'option "{name}" must be of type integer')
        if name in _DECIMALS and not number:
            raise RefusedError(500, f'option "{name}" must be of type float32')
        if name == "stop" and not isinstance(value, list):
            raise RefusedError(500, 'option "stop" must be of type array')
    return found


def _check_types(kind: str, body: Any) -> None:
    if not isinstance(body, dict):
        whole = f"{_FOREIGN.get(kind, 'api')}.{kind}"
        raise ValueError(f"json: cannot unmarshal {_WORDS[type(body)]} into Go value of type {whole}")
    for field, wanted in _FIELDS[kind].items():
        _check(f"{kind}.{field}", body.get(field), wanted)
    for message in (body.get("messages") or ()) if "messages" in _FIELDS[kind] else ():
        _check(f"{kind}.messages", message, "api.Message")
        if kind == "ChatRequest":
            _check(f"{kind}.messages.content", (message or {}).get("content"), "string")


def _check(field: str, value: Any, wanted: str) -> None:
    """Check one value: a null fits every type.

    Raises:
        ValueError: the value has another type.
    """
    if value is None:
        return
    fits = {"string": str, "bool": bool, "int": int}.get(wanted) or (list if _is_list(wanted) else dict)
    word = _WORDS[type(value)]
    if isinstance(value, fits) and not (fits is int and isinstance(value, bool)):
        return
    number = f" {value}" if isinstance(value, float) else ""
    raise ValueError(f"json: cannot unmarshal {word}{number} into Go struct field {field} of type {wanted}")


def _is_list(wanted: str) -> bool:
    return wanted.startswith("[]") or wanted == "api.Tools"


def _check_think(value: Any) -> None:
    levels = ", ".join(f'"{level}"' for level in _LEVELS)
    if isinstance(value, str) and value not in _LEVELS:
        raise ValueError(f'invalid think value: "{value}" (must be {levels}, true, or false)')
    if value is not None and not isinstance(value, (bool, str)):
        raise ValueError(f"think must be a boolean or string ({levels}, true, or false)")
