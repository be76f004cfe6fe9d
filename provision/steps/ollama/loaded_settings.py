"""Settings that a server does not take for every model: requests at once, and tokens of context.

Sources: embedding models and some families get a single request at a time, against OLLAMA_NUM_PARALLEL
(`server/sched.go`, docs/facts.md#ollama-variables); `context_length` of a loaded model, docs/facts.md#ollama-api.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provision.steps.base import WARNING, Check
from provision.steps.ollama.server_state import Server, canonical

ONE_AT_A_TIME = frozenset(
    {
        *("lfm2", "lfm2moe", "mllama", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"),
        *("qwen35", "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe"),
    }
)
"""Families of the list in `server/sched.go` of Ollama 0.34.4; 0.17.4 has all but nemotron_h_omni."""


def single(server: Server, models: Iterable[str]) -> dict[str, str]:
    """Return the models with a single request at a time in an instance for several -> the reason.

    Args:
        server: of an instance.
        models: the declared models. A model that is not on the instance, or of unknown kind, is left out.
    """
    found: dict[str, str] = {}
    for model in map(canonical, models) if server.parallel > 1 else ():
        entry = (server.tags or {}).get(model, {})
        family = _family(entry)
        if family in ONE_AT_A_TIME:
            found[model] = f"its family is {family}"
        elif _only_embeds(entry):
            found[model] = "it only embeds"
    return found


def _family(entry: Mapping[str, Any]) -> str:
    details = entry.get("details")
    return str(details.get("family", "")) if isinstance(details, dict) else ""


def _only_embeds(entry: Mapping[str, Any]) -> bool:
    """Whether a server lists the abilities of a model without text; servers before 0.33 list nothing."""
    capabilities = entry.get("capabilities")
    return isinstance(capabilities, list) and bool(capabilities) and "completion" not in capabilities


def parallel_words(instance: str, parallel: int, found: Mapping[str, str], count: int) -> str:
    """Return the sentence about models with a single request at a time; empty without such models.

    Args:
        instance: name of the instance.
        parallel: requests at once by the inventory.
        found: model -> reason.
        count: how many models the instance has.
    """
    if not found:
        return ""
    models = ", ".join(f"{model} ({reason})" for model, reason in found.items())
    cure = f"; set num_parallel: 1 for {instance}, which lowers max_conns too" if len(found) >= count else ""
    return (
        f"{instance} answers 1 request at once of {models}, and not {parallel} as num_parallel and max_conns of its"
        f" balancers say: the rest waits in the server{cure}"
    )


def contexts(server: Server, models: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return loaded models -> tokens of context by the server, and by the inventory.

    A model takes no more than its own length, which servers before 0.33 do not tell: there nothing is compared.

    Args:
        server: of an instance.
        models: the declared models that are loaded.
    """
    found: dict[str, tuple[int, int]] = {}
    for model in map(canonical, models):
        got = _tokens((server.loaded or {}).get(model, {}))
        details = (server.tags or {}).get(model, {}).get("details")
        most = _tokens(details) if isinstance(details, dict) else 0
        wanted = min(server.context, most)
        if got and wanted:
            found[model] = (got, wanted)
    return found


def _tokens(entry: Mapping[str, Any]) -> int:
    value = entry.get("context_length")
    return value if isinstance(value, int) and 0 < value < 1 << 40 else 0


def context_words(instance: str, model: str, got: int, wanted: int) -> str:
    """Return the sentence about a model that is loaded with another context.

    Args:
        instance: name of the instance.
        model: the model.
        got: tokens by the server.
        wanted: tokens by the inventory.
    """
    why = "by num_ctx of a request or of the model itself" + (", or for want of memory" if got < wanted else "")
    return f"{model} is loaded on {instance} with {got} tokens of context instead of {wanted}, {why}"


def checks(server: Server, instance: str, models: Iterable[str], loaded: Iterable[str]) -> Iterator[Check]:
    """Yield the proofs of both settings. A smaller context cuts prompts without an error, and fails; the rest is a
    warning.

    Args:
        server: of the instance.
        instance: name of the instance.
        models: the declared models.
        loaded: the declared models that are loaded.
    """
    declared = list(models)
    if words := parallel_words(instance, server.parallel, single(server, declared), len(declared)):
        yield Check(f"{WARNING}{words}", True, True)
    for model, (got, wanted) in contexts(server, loaded).items():
        words = context_words(instance, model, got, wanted)
        if got > wanted:
            yield Check(f"{WARNING}{words}: it takes more memory", True, True)
        else:
            short = f"{words}. To have it loaded anew, type on the host: {_reload(server, model)}, then deploy"
            yield Check(f"{model}: tokens of context", got if got == wanted else short, wanted)


def _reload(server: Server, model: str) -> str:
    body = shlex.quote(json.dumps({"model": model, "keep_alive": 0}))
    return f"curl --noproxy '*' -d {body} http://{server.at}/api/generate"
