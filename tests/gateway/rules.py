"""The rules that no request at an instance may break.

A request is read as Ollama's decoder reads a body (Go's encoding/json): the case of keys does not matter, the long s
and the sign of Kelvin are letters, and of equal keys the last wins. The lists of open keys stand here once more, apart
from the lists of the product, so that a mistake there is seen here.
"""

import json
from typing import Any

from provision.steps.engines import canonical
from tests.gateway.stub_instance import Arrived

NATIVE = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show")
OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
ASKED = ("/", "/api/version", "/v1/models", "/api/tags", "/api/ps", "/v1/models/tiny")
SAFE_KEYS = frozenset(
    {
        *("model", "prompt", "suffix", "system", "messages", "tools", "format", "images", "stream", "think", "raw"),
        *("input", "dimensions", "truncate", "logprobs", "top_logprobs", "options", "name", "verbose"),
    }
)
SAFE_OPTIONS = frozenset(
    {
        *("num_predict", "seed", "stop", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n"),
        *("repeat_penalty", "presence_penalty", "frequency_penalty", "num_keep"),
    }
)
_V1_RESIDENT = frozenset(("keep_alive", "options", "shift"))


def broken_rules(arrived: Arrived, models: frozenset[str], secrets: tuple[str, ...]) -> list[str]:
    """Return the rules that a request at an instance breaks, in words.

    Args:
        arrived: the request.
        models: the models of the instance, canonical.
        secrets: keys that no instance may see.
    """
    broken = []
    path = arrived.target
    if arrived.method == "POST" and path in (*NATIVE, *OPENAI):
        broken += _broken_by_body(path, arrived.body, models)
    elif arrived.body or (arrived.method, path) not in {("GET", "/"), ("GET", "/api/version"), *_PREFLIGHT, *_HEADS}:
        broken.append(f"{arrived.method} {path[:80]} is closed")
    sent = json.dumps([arrived.target, *arrived.headers.items()])
    broken += [f"the key {secret[:12]} is in the request" for secret in secrets if secret in sent]
    broken += [name for name in ("authorization", "x-api-key", "content-encoding") if name in arrived.headers]
    return broken


_PREFLIGHT = {("OPTIONS", path) for path in (*NATIVE, *OPENAI, *ASKED)}
_HEADS = {("HEAD", "/"), ("HEAD", "/api/version")}


def _broken_by_body(path: str, body: bytes, models: frozenset[str]) -> list[str]:
    try:
        seen = as_go(json.loads(body, object_pairs_hook=list))
    except (ValueError, RecursionError):
        return ["the body is no JSON"]
    if not isinstance(seen, dict):
        return ["the body is no object"]
    broken = []
    model = seen.get("model")
    if not isinstance(model, str) or canonical(model.lower()) not in models:
        broken.append(f"the model {model!r:.60} is not on this instance")
    if path in OPENAI:
        return [*broken, *(f"{key} on {path}" for key in _V1_RESIDENT & seen.keys())]
    options = seen.get("options")
    inner = options.keys() - SAFE_OPTIONS if isinstance(options, dict) else set()
    return [*broken, *(f"{key} on {path}" for key in sorted((seen.keys() - SAFE_KEYS) | inner))]


def as_go(value: Any) -> Any:
    """Return a value with the keys of its objects as Go compares keys; of equal keys the last wins.

    Args:
        value: lists of pairs in place of objects, as `object_pairs_hook=list` gives them.
    """
    if isinstance(value, list) and all(isinstance(pair, tuple) for pair in value) and value:
        return {key.upper().lower().replace("\u212a", "k"): as_go(item) for key, item in value}
    return value if value != [] else {}
