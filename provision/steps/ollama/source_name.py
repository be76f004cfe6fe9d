"""The name under which a model is pulled: its own, or a mirror's. Pure."""

from collections.abc import Mapping

from provision.steps.ollama.server_state import DEFAULT_REGISTRY, canonical, parts


def source_name(model: str, names: Mapping[str, str], registry: str) -> str:
    """Return the name under which an instance pulls a model; the model's own name where no mirror is declared.

    Args:
        model: the name for clients.
        names: model -> name under which the model is pulled (`mirrors.models`).
        registry: registry for models without a registry in their name (`mirrors.model_registry`); empty for Ollama's.
    """
    wanted = canonical(model)
    for name, source in names.items():
        if canonical(name) == wanted:
            return source
    own, space, name, tag = parts(model)
    return f"{registry}/{space}/{name}:{tag}" if registry and own == DEFAULT_REGISTRY else model
