"""The state of a host's Ollama servers and their files: one read for all models of all instances.

Sources: `/api/tags` and `/api/ps`, docs/facts.md#ollama-api; the layout of a models folder, docs/facts.md#ollama-files;
Ollama never checks a blob on disk again, docs/facts.md#ollama-pull.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from provision.command import Answer
from provision.steps.base import BlockedError, Content, UnreadableError
from provision.steps.docker import inspect
from provision.steps.docker.gpu_processes import Holding, holding
from provision.steps.docker.inspect import Docker, command
from provision.steps.docker.probe import Probe
from provision.steps.instance.container_state import cards_of

__all__ = [
    "ALIAS",
    "MARKS",
    "MENDED",
    "PROBE",
    "PUBLIC",
    "Server",
    "Servers",
    "canonical",
    "command",
    "manifest_path",
    "mark",
    "names_of",
    "parts",
    "read",
    "read_live",
]

MARKS = "provision-models"
"""The folder beside an instance's `models/`, with a file for each model that we pulled."""
MENDED = ".mended"  # ends the name of a file beside a mark: start times of the servers that ran while a blob was mended
ALIAS = ".alias"  # ends the name of an alias' mark, which has the alias and the name of the model, and perhaps PUBLIC
PUBLIC = "public"  # ends the mark of a public name, whose bytes are not the bytes that a pull of the name brings
BLOB = r"sha256-[0-9a-f]{64}"  # the name of a blob file
DEFAULT_KEEP_ALIVE = "5m"
MIB = 1 << 20
DEFAULT_REGISTRY, DEFAULT_SPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
PROBE = Probe(
    port=11434,
    home="/root/.ollama",  # the image's folder for models and keys
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
        folder: the folder of its models on the host.
        keeps: whether loaded models stay loaded (OLLAMA_KEEP_ALIVE is negative).
        keep_alive: OLLAMA_KEEP_ALIVE.
        cards: UUIDs of the cards of its container.
        limit: how many models may be loaded at once (OLLAMA_MAX_LOADED_MODELS).
        parallel: requests at once (OLLAMA_NUM_PARALLEL); 0 where unset.
        context: tokens of context (OLLAMA_CONTEXT_LENGTH); 0 where unset.
        tags: model name -> entry of `/api/tags`; None without an answer.
        loaded: model name -> entry of `/api/ps`; None without an answer.
        error: the answer, if it is none.
        manifests: path below `models/manifests` -> manifest.
        blobs: blob file -> size in bytes.
        wrong: blob file -> sha256 of its wrong bytes, by the last hash.
        marked: models that we pulled.
        aliases: names that we gave models, each with the name of its model.
        public: the public names among them, in canonical form.
        stale: names of the marks of models with a blob mended while this server ran.
        holding: whether its processes hold the memory of the cards that it claims for its loaded models.
    """

    status: str
    at: str = ""
    folder: str = ""
    keeps: bool = False
    keep_alive: str = DEFAULT_KEEP_ALIVE
    cards: tuple[str, ...] = ()
    limit: int = 0
    parallel: int = 0
    context: int = 0
    tags: Mapping[str, Mapping[str, Any]] | None = None
    loaded: Mapping[str, Mapping[str, Any]] | None = None
    error: str = ""
    manifests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blobs: Mapping[str, int] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)
    marked: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    public: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()
    holding: Holding = field(default_factory=Holding)

    @property
    def claim(self) -> int:
        """The bytes of all loaded models that are on the cards, by the server's own account."""
        return claim(self.loaded or {})

    def damage(self, model: str) -> str:
        """Return the first blob of a model that is missing, or has another size or other bytes; else an empty text."""
        for name, size in self._layers(model):
            if self.blobs.get(name) != size or name in self.wrong:
                return name
        return ""

    def _layers(self, model: str) -> Iterator[tuple[str, Any]]:
        """Yield the blob files of a model with their sizes, by its manifest."""
        manifest = self.manifests.get(manifest_path(model), {})
        for layer in [manifest.get("config") or {}, *(manifest.get("layers") or ())]:
            if name := str(layer.get("digest", "")).replace(":", "-"):
                yield name, layer.get("size")

    def contents(self, model: str) -> Iterator[Content]:
        """Yield the blobs of a model that are on the host. A missing blob is damage already."""
        for name, _ in self._layers(model):
            if re.fullmatch(BLOB, name) and name in self.blobs:
                path = f"{self.folder}/models/blobs/{name}"
                yield Content(path, name.removeprefix("sha256-"), self.blobs[name], name)


@dataclass(frozen=True)
class Servers:
    """Every instance of a host.

    Args:
        by_name: instance -> its server.
        volumes: names of all volumes.
    """

    by_name: Mapping[str, Server] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()

    def answering(self, name: str) -> Server:
        """Return an instance that answers.

        Raises:
            BlockedError: its container is missing, stopped, or ill.
        """
        server = self.by_name.get(name)
        if server is None or server.status != "running":
            raise BlockedError(f"container:{name}", f"{name} is {server.status if server else 'not there'}")
        if server.tags is None or server.loaded is None:
            raise BlockedError(f"container:{name}", f"{name} does not answer on {server.at}: {server.error}")
        return server


def read(answer: Answer) -> Servers:
    """Parse the answer to the read of Docker.

    Raises:
        BlockedError: the Docker daemon does not answer, or the host has no program to ask the servers.
        UnreadableError: the answer is not whole.
    """
    return _servers(inspect.read(answer))


def read_live(live: Any) -> Servers:
    """Return the same in a verification: as the plan read it, for all steps.

    Args:
        live: testinfra's host.
    """
    return _servers(inspect.read_live(live))


def _servers(docker: Docker) -> Servers:
    """Return the instances among the containers. A container renamed by hand is no instance."""
    ours = ((name, item) for name, item in docker.containers.items() if PROBE.is_of(item["labels"]))
    items = {name: item for name, item in ours if _instance(item) == name}
    try:
        servers = {name: _server(item, docker) for name, item in items.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UnreadableError("the servers' answer is garbled") from None
    return Servers(servers, frozenset(docker.volumes))


def _instance(item: Mapping[str, Any]) -> str:
    return str((item["labels"] or {}).get("provision.instance", ""))


def _server(item: Mapping[str, Any], docker: Docker) -> Server:
    variables = dict(line.partition("=")[::2] for line in item["env"] or ())
    folder = next((str(mount["Source"]) for mount in item["mounts"] or () if mount["Destination"] == PROBE.home), "")
    inside = _below(docker.files, f"{folder}/")
    at = next((f"{binding['HostIp']}:{binding['HostPort']}" for binding in PROBE.bindings(item["ports"])), "")
    tags, loaded = map(models, _bodies(item))
    marks = {path: content.decode(errors="replace") for path, content in _below(inside, f"{MARKS}/").items()}
    mended = {path: content for path, content in marks.items() if path.endswith(MENDED)}
    words = [text.split() for path, text in marks.items() if path.endswith(ALIAS)]
    words = [parts for parts in words if len(parts) == 2 or parts[2:] == [PUBLIC]]
    aliases = dict(sorted((parts[0], parts[1]) for parts in words))
    loaded = as_served(loaded, tags or {})
    return Server(
        status=item["status"],
        at=at,
        folder=folder,
        keeps=variables.get("OLLAMA_KEEP_ALIVE", "").startswith("-"),
        keep_alive=variables.get("OLLAMA_KEEP_ALIVE") or DEFAULT_KEEP_ALIVE,
        cards=tuple(cards_of(item)),
        limit=_number(variables, "OLLAMA_MAX_LOADED_MODELS"),
        parallel=_number(variables, "OLLAMA_NUM_PARALLEL"),
        context=_number(variables, "OLLAMA_CONTEXT_LENGTH"),
        tags=tags,
        loaded=loaded,
        error=_complaint(item),
        manifests={path: _manifest(text) for path, text in _below(inside, "models/manifests/").items()},
        blobs=_below(docker.blobs, f"{folder}/models/blobs/"),
        wrong=_below(docker.damaged, f"{folder}/models/blobs/"),
        marked=tuple(sorted(text.strip() for path, text in marks.items() if not path.endswith((MENDED, ALIAS)))),
        aliases=aliases,
        public=frozenset(canonical(parts[0]) for parts in words if parts[2:]),
        stale=frozenset(
            path.removesuffix(MENDED) for path, text in mended.items() if item.get("started") in text.splitlines()
        ),
        holding=holding(docker.listing, _instance(item), cards_of(item), claim(loaded or {}) / MIB),
    )


def _number(variables: Mapping[str, str], name: str) -> int:
    """Return the number in a variable; 0 for any other text, as the server takes such a text."""
    text = variables.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


T = TypeVar("T")


def _below(files: Mapping[str, T], folder: str) -> dict[str, T]:
    """Return the files in a folder, by the rest of the path; none for no folder."""
    rest = {path.removeprefix(folder): value for path, value in files.items() if path.startswith(folder)}
    return rest if folder != "/" else {}


def _bodies(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return a server's answer to each path of the probe; empty without an answer."""
    tags, loaded = (*item["replies"], "", "")[: len(PROBE.asks)]
    return tags, loaded


def models(body: str) -> Mapping[str, Mapping[str, Any]] | None:
    """Return the models by name, or None for any other answer.

    Args:
        body: answer to `/api/tags` or `/api/ps`.
    """
    try:
        return {canonical(item["name"]): item for item in json.loads(body)["models"] or ()}
    except (ValueError, KeyError, TypeError):
        return None


def as_served(
    loaded: Mapping[str, Mapping[str, Any]] | None,
    tags: Mapping[str, Mapping[str, Any]],
) -> Mapping[str, Mapping[str, Any]] | None:
    """Return the loaded models by every name with their bytes. Names with the same bytes share a loaded model, and
    `/api/ps` shows the name that came first (docs/facts.md#ollama-api).

    Args:
        loaded: model name -> entry of `/api/ps`; None without an answer.
        tags: model name -> entry of `/api/tags`.
    """
    if loaded is None:
        return None
    names: dict[Any, list[str]] = {}
    for name, entry in tags.items():
        names.setdefault(entry.get("digest"), []).append(name)
    shown: dict[str, Mapping[str, Any]] = {}
    for name, entry in loaded.items():
        digest = entry.get("digest") or tags.get(name, {}).get("digest")
        shown |= dict.fromkeys((digest and names.get(digest)) or [name], entry)
    return shown


def claim(loaded: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bytes on the cards, by a server's own account.

    Args:
        loaded: model name -> entry of `/api/ps`.
    """
    entries = {id(entry): entry for entry in loaded.values()}  # an entry has every name of its model
    sizes = (entry.get("size_vram") for entry in entries.values())
    return sum(size for size in sizes if isinstance(size, int) and size > 0)


def _complaint(item: Mapping[str, Any]) -> str:
    """Return a server's words in place of a proper answer."""
    words = (text[:300].strip() for text in _bodies(item) if models(text) is None)
    return next(words, "") or "no answer"


def _manifest(content: bytes) -> Mapping[str, Any]:
    """Return a manifest. A file that is no manifest has no layers, so that its blobs count as missing."""
    try:
        manifest = json.loads(content)
    except ValueError:
        manifest = {"config": {"digest": "unreadable-manifest"}}
    return manifest if isinstance(manifest, dict) else {}


def parts(model: str) -> tuple[str, str, str, str]:
    """Return registry, namespace, name and tag of a model, with Ollama's defaults (types/model/name.go)."""
    path, name = model.rpartition("/")[::2]
    name, _, tag = name.partition(":")
    registry, space = path.rpartition("/")[::2]
    return registry or DEFAULT_REGISTRY, space or DEFAULT_SPACE, name, tag or DEFAULT_TAG


def canonical(model: str) -> str:
    """Return a model's name as `/api/tags` shows it: without defaults, but with its tag."""
    registry, space, name, tag = parts(model)
    if registry != DEFAULT_REGISTRY:
        return f"{registry}/{space}/{name}:{tag}"
    return f"{name}:{tag}" if space == DEFAULT_SPACE else f"{space}/{name}:{tag}"


def names_of(step_ids: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return instance and name of every model and alias, with the defaults of Ollama written as `canonical` does.

    Args:
        step_ids: ids of steps.
    """
    pairs = (step_id[6:].partition("/") for step_id in step_ids if step_id.startswith(("model:", "alias:")))
    return frozenset((instance, canonical(name)) for instance, _, name in pairs)


def mark(model: str) -> str:
    """Return the name of the mark of a model that we pulled."""
    return hashlib.sha256(canonical(model).encode()).hexdigest()[:24]


def manifest_path(model: str) -> str:
    """Return the path of a model's manifest below `models/manifests`."""
    return "/".join(parts(model))
