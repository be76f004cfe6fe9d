"""What the Ollama servers of a host say and have on disk: one read for all models of all instances.

Sources: `/api/tags` and `/api/ps`, docs/facts.md#ollama-api; the layout of a models folder, docs/facts.md#ollama-files;
a blob that is on disk is never looked at again by Ollama, docs/facts.md#ollama-pull.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from provision.command import Answer
from provision.steps.base import BlockedError, UnreadableError
from provision.steps.docker import inspect
from provision.steps.docker.inspect import Docker, command
from provision.steps.docker.probe import Probe

__all__ = [
    "MARKS",
    "MENDED",
    "PROBE",
    "Server",
    "Servers",
    "canonical",
    "command",
    "manifest_path",
    "mark",
    "parts",
    "read",
    "read_live",
]

MARKS = "provision-models"
"""The folder beside an instance's `models/`, with a file for each model that we pulled."""
MENDED = ".mended"  # of a mark beside that of a model: when the servers started that ran while a blob was mended
DEFAULT_REGISTRY, DEFAULT_SPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
PROBE = Probe(
    port=11434,
    home="/root/.ollama",  # where the image keeps models and keys
    health="/api/version",
    asks=("/api/tags", "/api/ps"),
    files=("models/manifests", MARKS),
    blobs=("models/blobs",),
)


@dataclass(frozen=True)
class Server:
    """One instance.

    Args:
        status: of its container.
        at: address and port.
        folder: where its models are on the host.
        keeps: whether what is loaded stays so (OLLAMA_KEEP_ALIVE is negative).
        limit: how many models it may have loaded (OLLAMA_MAX_LOADED_MODELS).
        tags: model name -> entry of `/api/tags`; None where the server did not answer.
        loaded: model name -> entry of `/api/ps`; None where the server did not answer.
        error: what it said instead.
        manifests: path below `models/manifests` -> manifest.
        blobs: blob file -> size.
        marked: models that we pulled.
        stale: names of the marks of models of which a blob was mended while this server ran.
    """

    status: str
    at: str = ""
    folder: str = ""
    keeps: bool = False
    limit: int = 0
    tags: Mapping[str, Mapping[str, Any]] | None = None
    loaded: Mapping[str, Mapping[str, Any]] | None = None
    error: str = ""
    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blobs: Mapping[str, int] = field(default_factory=dict)
    marked: tuple[str, ...] = ()
    stale: frozenset[str] = frozenset()

    def damage(self, model: str) -> str:
        """The first blob of a model that is missing or has another size, or an empty string."""
        manifest = self.manifests.get(manifest_path(model), {})
        for layer in [manifest.get("config") or {}, *(manifest.get("layers") or ())]:
            name = str(layer.get("digest", "")).replace(":", "-")
            if name and self.blobs.get(name) != layer.get("size"):
                return name
        return ""


@dataclass(frozen=True)
class Servers:
    """Every instance of a host.

    Args:
        by_name: instance -> what it says and has.
        volumes: names of all volumes.
    """

    by_name: Mapping[str, Server] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()

    def answering(self, name: str) -> Server:
        """An instance that answers.

        Raises:
            BlockedError: its container is not there, does not run, or is ill.
        """
        server = self.by_name.get(name)
        if server is None or server.status != "running":
            raise BlockedError(f"container:{name}", f"{name} is {server.status if server else 'not there'}")
        if server.tags is None or server.loaded is None:
            raise BlockedError(f"container:{name}", f"{name} does not answer on {server.at}: {server.error}")
        return server


def read(answer: Answer) -> Servers:
    """What the command found, which is `engine`'s.

    Raises:
        BlockedError: the Docker daemon does not answer, or there is nothing to ask the servers with.
        UnreadableError: the answer is not whole.
    """
    return _servers(inspect.read(answer))


def read_live(live: Any) -> Servers:
    """The same in a verification: as its plan read it, for all steps.

    Args:
        live: testinfra's host.
    """
    return _servers(inspect.read_live(live))


def _servers(found: Docker) -> Servers:
    """The instances among the containers. One that was renamed by hand is none any more."""
    ours = ((name, item) for name, item in found.containers.items() if PROBE.is_of(item["labels"]))
    items = {name: item for name, item in ours if _instance(item) == name}
    try:
        servers = {name: _server(item, found) for name, item in items.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UnreadableError("the servers' answer is garbled") from None
    return Servers(servers, frozenset(found.volumes))


def _instance(item: Mapping[str, Any]) -> str:
    return str((item["labels"] or {}).get("provision.instance", ""))


def _server(item: Mapping[str, Any], found: Docker) -> Server:
    variables = dict(line.partition("=")[::2] for line in item["env"] or ())
    limit = variables.get("OLLAMA_MAX_LOADED_MODELS", "")
    folder = next((str(mount["Source"]) for mount in item["mounts"] or () if mount["Destination"] == PROBE.home), "")
    inside = _below(found.files, f"{folder}/")
    at = next((f"{one['HostIp']}:{one['HostPort']}" for one in PROBE.bindings(item["ports"])), "")
    tags, loaded = _bodies(item)
    marks = {path: content.decode(errors="replace") for path, content in _below(inside, f"{MARKS}/").items()}
    mended = {path: content for path, content in marks.items() if path.endswith(MENDED)}
    return Server(
        status=item["status"],
        at=at,
        folder=folder,
        keeps=variables.get("OLLAMA_KEEP_ALIVE", "").startswith("-"),
        limit=int(limit) if re.fullmatch("[0-9]{1,9}", limit) else 0,  # as the server takes what is no number
        tags=_models(tags),
        loaded=_models(loaded),
        error=_complaint(item),
        manifests={path: _manifest(text) for path, text in _below(inside, "models/manifests/").items()},
        blobs=_below(found.blobs, f"{folder}/models/blobs/"),
        marked=tuple(sorted(text.strip() for path, text in marks.items() if path not in mended)),
        stale=frozenset(
            path.removesuffix(MENDED) for path, text in mended.items() if item.get("started") in text.splitlines()
        ),
    )


T = TypeVar("T")


def _below(found: Mapping[str, T], folder: str) -> dict[str, T]:
    """What is in a folder, by the rest of its path; nothing for no folder."""
    rest = {path.removeprefix(folder): value for path, value in found.items() if path.startswith(folder)}
    return rest if folder != "/" else {}


def _bodies(item: Mapping[str, Any]) -> tuple[str, str]:
    """What a server answered to each path of the probe; empty where it answered nothing."""
    tags, loaded = (*item["said"], "", "")[: len(PROBE.asks)]
    return tags, loaded


def _models(body: str) -> Mapping[str, Mapping[str, Any]] | None:
    """The models by name, or None where the server said something else."""
    try:
        return {canonical(item["name"]): item for item in json.loads(body)["models"] or ()}
    except (ValueError, KeyError, TypeError):
        return None


def _complaint(item: Mapping[str, Any]) -> str:
    """What a server said that does not answer as it should."""
    said = (text[:300].strip() for text in _bodies(item) if _models(text) is None)
    return next(said, "") or "no answer"


def _manifest(content: bytes) -> Mapping[str, Any]:
    """A file that is no manifest is one without layers, so that its blobs are found missing."""
    try:
        found = json.loads(content)
    except ValueError:
        found = {"config": {"digest": "unreadable-manifest"}}
    return found if isinstance(found, dict) else {}


def parts(model: str) -> tuple[str, str, str, str]:
    """Registry, namespace, name and tag of a model, with Ollama's defaults (types/model/name.go)."""
    path, name = model.rpartition("/")[::2]
    name, _, tag = name.partition(":")
    registry, space = path.rpartition("/")[::2]
    return registry or DEFAULT_REGISTRY, space or DEFAULT_SPACE, name, tag or DEFAULT_TAG


def canonical(model: str) -> str:
    """A model's name as `/api/tags` shows it: without defaults, but with its tag."""
    registry, space, name, tag = parts(model)
    if registry != DEFAULT_REGISTRY:
        return f"{registry}/{space}/{name}:{tag}"
    return f"{name}:{tag}" if space == DEFAULT_SPACE else f"{space}/{name}:{tag}"


def mark(model: str) -> str:
    """The name of the mark of a model that we pulled."""
    return hashlib.sha256(canonical(model).encode()).hexdigest()[:24]


def manifest_path(model: str) -> str:
    """Where a model's manifest is below `models/manifests`."""
    return "/".join(parts(model))
