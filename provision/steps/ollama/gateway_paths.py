"""The paths that the gateway opens, and the keys of their bodies that may reach an instance.

Sources: routes, server/routes.go of Ollama 0.33; keys that change a loaded model (`keep_alive`, the options of a
runner, `shift`), api/types.go and server/sched.go; the request types of `/v1`, openai/openai.go, openai/responses.go,
anthropic/anthropic.go. A path that a later release adds stays closed until the path is listed here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Shape = Literal["openai", "anthropic", "native"]


@dataclass(frozen=True)
class ApiPath:
    """An open path.

    Args:
        path: the exact path.
        shape: the shape of errors on this path.
        keys: the keys of a body that may pass; None for a body that passes without the keys of `RESIDENT`.
        limit: the key that bounds the tokens of an answer; empty where no key does.
        old_name: whether the body may name the model by `name` in place of `model`.
    """

    path: str
    shape: Shape
    keys: tuple[str, ...] | None = None
    limit: str = ""
    old_name: bool = False


OPENAI = (
    ApiPath("/v1/chat/completions", "openai", limit="max_tokens"),
    ApiPath("/v1/completions", "openai", limit="max_tokens"),
    ApiPath("/v1/embeddings", "openai"),
    ApiPath("/v1/responses", "openai", limit="max_output_tokens"),
    ApiPath("/v1/messages", "anthropic", limit="max_tokens"),
)
"""No key of these bodies unloads or reloads a model."""

_ANSWER = ("model", "format", "images", "stream", "think", "logprobs", "top_logprobs", "options")
_VECTORS = ("model", "input", "prompt", "truncate", "dimensions", "options")

NATIVE = (
    ApiPath(
        "/api/generate",
        "native",
        keys=(*_ANSWER, "prompt", "suffix", "system", "raw", "truncate"),
        limit="options.num_predict",
    ),
    ApiPath("/api/chat", "native", keys=(*_ANSWER, "messages", "tools", "truncate"), limit="options.num_predict"),
    ApiPath("/api/embed", "native", keys=_VECTORS),
    ApiPath("/api/embeddings", "native", keys=_VECTORS),
    ApiPath("/api/show", "native", keys=("model", "name", "verbose"), old_name=True),
)

OPTIONS = (
    "num_predict",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "num_keep",
)
"""Options of an answer. Every other option belongs to the runner: another value reloads the model."""

RESIDENT = ("keep_alive", "options", "shift")
"""Keys that change a loaded model in the native API. `/v1` ignores the keys today, and the gateway drops the keys, so
that a later release changes nothing."""

LISTS = {"/v1/models": "openai", "/api/tags": "native", "/api/ps": "native"}
"""Lists of models, answered by the balancer: an instance would name its own models only."""

ABOUT = "/v1/models/"
"""The path of a single model, without the name."""

PASSED = ("/", "/api/version")
"""Paths that any instance answers, without a body."""


def are_of(client_paths: Iterable[str]) -> bool:
    """Return whether the paths of this module are those that an engine opens to clients.

    Args:
        client_paths: the engine's paths for clients, beside those below `/v1/`.
    """
    return {*PASSED, *(path.path for path in NATIVE)} == set(client_paths)
