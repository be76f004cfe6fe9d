"""The loaded models of a host's Ollama servers, for a screen.

Sources: `/api/ps` shows one of several names with the same bytes, docs/facts.md#ollama-api; `size_vram == size` may be
said of a model on the CPU, docs/facts.md#model-memory, so nvidia-smi's list of processes is asked too.
"""

from collections.abc import Mapping
from typing import Any

from provision.command import Answer
from provision.steps.instance.served import LoadedModel, Served
from provision.steps.ollama import server_state
from provision.steps.ollama.server_state import Server


def read(answer: Answer) -> Mapping[str, Served]:
    """Return container -> its loaded models.

    Args:
        answer: to a look at Docker.

    Raises:
        BlockedError: the Docker daemon does not answer.
        UnreadableError: the answer is not whole.
    """
    return {name: _served(server) for name, server in server_state.read(answer).by_name.items()}


def _served(server: Server) -> Served:
    if server.loaded is None:
        return Served(None, server.keeps, server.limit, server.holding, server.error)
    models = tuple(_model(name, entry, server.context) for name, entry in server.loaded.items())
    return Served(models, server.keeps, server.limit, server.holding)


def _model(name: str, entry: Mapping[str, Any], context: int) -> LoadedModel:
    size, on_cards = _count(entry.get("size")), _count(entry.get("size_vram"))
    share = min(1.0, on_cards / size) if size and on_cards is not None else None
    return LoadedModel(name[:200], share, _count(entry.get("context_length")) or context)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
