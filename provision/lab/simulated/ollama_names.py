"""Names of models: [host/][namespace/]model[:tag] (types/model/name.go)."""

import re

REGISTRY = "registry.ollama.ai"
_FIRST = "[A-Za-z0-9_]"
_PART = re.compile(rf"{_FIRST}[A-Za-z0-9_.-]{{0,79}}")
_NAMESPACE = re.compile(rf"{_FIRST}[A-Za-z0-9_-]{{0,79}}")
_HOST = re.compile(rf"{_FIRST}[A-Za-z0-9_.:-]{{0,349}}")


def full_name(name: str) -> str:
    """The name with its tag, without scheme and without the default registry and namespace."""
    short = name.rpartition("://")[2].removeprefix(f"{REGISTRY}/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def whole_name(name: str) -> str:
    """The name with its tag, namespace and registry, as errors on a model's abilities have it."""
    short = full_name(name)
    return {0: f"{REGISTRY}/library/{short}", 1: f"{REGISTRY}/{short}"}.get(short.count("/"), short)


def is_valid(name: str) -> bool:
    """Whether a model can have this name."""
    path, _, tag = full_name(name).rpartition(":")
    *above, model = path.split("/")
    if len(above) > 2 or not _PART.fullmatch(model) or not _PART.fullmatch(tag):
        return False
    hosts, namespaces = above[:-1], above[-1:]
    return all(map(_HOST.fullmatch, hosts)) and all(map(_NAMESPACE.fullmatch, namespaces))
