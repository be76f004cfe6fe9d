"""Lists of models as Ollama answers them, for a balancer that answers for all of its instances. Pure.

A balancer knows the names alone. Sizes are 0 and digests are zeros: `ollama list` and `ollama ps` cut twelve characters
of a digest, and end with an error where it is shorter (cmd/cmd.go, ListHandler and ListRunningHandler, 0.34.4).
"""

import json
from collections.abc import Sequence
from typing import Any

from provision.steps.ollama.server_state import DEFAULT_TAG, parts

DIGEST = "0" * 64
DETAILS = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": None,
    "parameter_size": "",
    "quantization_level": "",
}
"""As Ollama writes a model without details (api/types.go, ModelDetails)."""
NEVER = "0001-01-01T00:00:00Z"  # `ollama list` shows `Never`
FAR = "9999-12-31T23:59:59Z"  # `ollama ps` shows `Forever`; a time in the past is `Stopping...`


def tags(models: Sequence[str]) -> str:
    """Return the answer of `/api/tags`.

    Args:
        models: names of the models.
    """
    return _text({"models": [{**_entry(name), "modified_at": NEVER} for name in models]})


def running(models: Sequence[str]) -> str:
    """Return the answer of `/api/ps`: the declared models, which instances keep loaded.

    `ollama ps` shows the processor `Unknown` for a model without a size that has a byte on cards, and `100% CPU`
    without such a byte.

    Args:
        models: names of the models.
    """
    return _text({"models": [{**_entry(name), "size_vram": 1, "expires_at": FAR} for name in models]})


def openai(models: Sequence[str]) -> str:
    """Return the answer of `/v1/models`; the owner is the name's space, as Ollama has it.

    Args:
        models: names of the models.
    """
    data = [{"id": name, "object": "model", "created": 0, "owned_by": parts(name)[1]} for name in models]
    return _text({"object": "list", "data": data})


def spellings(model: str) -> tuple[str, ...]:
    """Return the forms of a name that clients write: the canonical form, and the form without the default tag.

    Args:
        model: a canonical name.
    """
    short = model.removesuffix(f":{DEFAULT_TAG}")
    return (model,) if short == model else (model, short)


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "model": name, "size": 0, "digest": DIGEST, "details": DETAILS}


def _text(answer: dict[str, Any]) -> str:
    return json.dumps(answer, separators=(",", ":"))
