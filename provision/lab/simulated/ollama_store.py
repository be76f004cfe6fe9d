"""Models on disk, in Ollama's layout, and the library's models: small blobs, but real, named by their sha256."""

import hashlib
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import ollama_gguf
from .ollama_lab import log
from .ollama_names import REGISTRY, full_name

VERSION = Path("/usr/lib/ollama-simulated/version")
_KIND = "application/vnd.ollama.image."
_BLOB = 2 << 20
_HEAD = b"GGUF"
_NAMED = re.compile(f"{ollama_gguf.NOTE}: not the weights of (\\S+)\n".encode())


@dataclass(frozen=True)
class Catalogued:
    """A model of the catalogue, with the measures of the real model."""

    size: int
    parameters: str
    family: str
    layers: int
    kv_heads: int
    head_dim: int
    embedding: int
    trained_context: int = 131072
    capabilities: tuple[str, ...] = ("completion",)


_R1 = ("completion", "thinking")
_TOOLS = ("completion", "tools")
CATALOGUE = {
    "deepseek-r1:1.5b": Catalogued(1117322599, "1.8B", "qwen2", 28, 2, 128, 1536, capabilities=_R1),
    "deepseek-r1:7b": Catalogued(4683075271, "7.6B", "qwen2", 28, 4, 128, 3584, capabilities=_R1),
    "deepseek-r1:8b": Catalogued(5225376000, "8.2B", "qwen3", 36, 8, 128, 4096, capabilities=(*_R1, "tools")),
    "deepseek-r1:14b": Catalogued(8988112040, "14.8B", "qwen2", 48, 8, 128, 5120, capabilities=_R1),
    "deepseek-r1:32b": Catalogued(19851337640, "32.8B", "qwen2", 64, 8, 128, 5120, capabilities=_R1),
    "deepseek-r1:70b": Catalogued(42520400000, "70.6B", "llama", 80, 8, 128, 8192, capabilities=_R1),
    "deepseek-r1:671b": Catalogued(404430188519, "671.0B", "deepseek2", 61, 1, 288, 7168, 163840, _R1),
    "llama3.1:8b": Catalogued(4920753328, "8.0B", "llama", 32, 8, 128, 4096, capabilities=_TOOLS),
    "qwen3:8b": Catalogued(5225388164, "8.2B", "qwen3", 36, 8, 128, 4096, 40960, (*_TOOLS, "thinking")),
    "nomic-embed-text:latest": Catalogued(274302450, "137M", "nomic-bert", 12, 12, 64, 768, 2048, ("embedding",)),
}
_ALIASES = {"deepseek-r1:latest": "deepseek-r1:8b", "llama3.1:latest": "llama3.1:8b", "qwen3:latest": "qwen3:8b"}
_ALIASES["nomic-embed-text:v1.5"] = "nomic-embed-text:latest"


class NotFoundError(Exception):
    """The model is not on disk."""


def models_folder() -> Path:
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama/models")


def manifest_path(name: str) -> Path:
    """Path of a model's manifest.

    Raises:
        NotFoundError: no model can have this name.
    """
    path, _, tag = full_name(name).rpartition(":")
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in [*parts, tag]) or "/" in tag:
        raise NotFoundError(name)
    where = {1: [REGISTRY, "library"], 2: [REGISTRY]}.get(len(parts), [])
    return models_folder().joinpath("manifests", *where, *parts, tag)


def blob_path(digest: str) -> Path:
    """Path of a blob."""
    return models_folder() / "blobs" / digest.replace(":", "-")


def start() -> None:
    """Make the folders, and prune partial files older than an hour as the real server does at its start."""
    (models_folder() / "blobs").mkdir(parents=True, exist_ok=True)
    if os.environ.get("OLLAMA_NOPRUNE", "0") in {"", "0", "false"}:
        for part in (models_folder() / "blobs").glob("*-partial*"):
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()


@dataclass(frozen=True)
class Model:
    """A model on disk.

    Args:
        name: name with its tag.
        digest: sha256 of its manifest, without prefix.
        modified: time of its arrival.
        facts: its configuration blob, with the measures of the real model.
        manifest: the manifest.
    """

    name: str
    digest: str
    modified: str
    facts: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def weights(self) -> dict[str, Any]:
        """The layer with the weights."""
        weights: dict[str, Any] = next(
            layer for layer in self.manifest["layers"] if layer["mediaType"] == f"{_KIND}model"
        )
        return weights

    def text(self, kind: str) -> str:
        """The content of a layer such as `template` or `params`; empty without such a layer."""
        for layer in self.manifest["layers"]:
            if layer["mediaType"] == f"{_KIND}{kind}":
                with suppress(OSError):
                    return blob_path(layer["digest"]).read_text()
        return ""

    def has_head(self) -> bool | None:
        """Whether the weights begin like a file of weights, which tells the abilities; None without a file."""
        with suppress(OSError), blob_path(self.weights["digest"]).open("rb") as file:
            return file.read(len(_HEAD)) == _HEAD
        return None

    def complaint(self) -> str:
        """Why the weights cannot be loaded; empty where they can. Damage in the middle stays unnoticed."""
        path = blob_path(self.weights["digest"])
        if not path.exists():
            return f"open {path}: no such file or directory"
        if not self.has_head():
            return "invalid file magic"
        short = path.stat().st_size < self.weights["size"]
        return 'tensor "output_norm.weight" offset+size exceeds file size' if short else ""


def existing_name(name: str) -> str:
    """The name of the model on disk that differs at most in the case of letters; the name itself without one."""
    wanted = full_name(name)
    try:
        if manifest_path(wanted).exists():
            return wanted
    except NotFoundError:
        return wanted
    return next((here for here, _ in _manifests() if here.casefold() == wanted.casefold()), wanted)


def find(name: str) -> Model:
    """The model of a name, whatever the case of its letters.

    Raises:
        NotFoundError: the model is not on disk, or not whole.
    """
    here = existing_name(name)
    path = manifest_path(here)
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        facts = json.loads(blob_path(manifest["config"]["digest"]).read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise NotFoundError(name) from error
    facts.setdefault("simulated", _unknown(manifest))
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat().replace("+00:00", "Z")
    return Model(here, hashlib.sha256(data).hexdigest(), modified, facts, manifest)


def _unknown(manifest: dict[str, Any]) -> dict[str, Any]:
    """The measures of a model that is not of the catalogue: those of a small one, with the size of its layers."""
    size = sum(layer["size"] for layer in layers_of(manifest))
    return vars(Catalogued(size, "", "llama", 16, 2, 64, 1024)) | {"capabilities": ["completion"]}


def everything() -> list[Model]:
    """Every model on disk, newest first."""
    models = []
    for name, path in _manifests():
        try:
            models.append(find(name))
        except NotFoundError:
            log("bad manifest", "WARN", path=path)
    return sorted(models, key=lambda model: model.modified, reverse=True)


def _manifests() -> Iterator[tuple[str, Path]]:
    """Name and manifest of every model on disk."""
    top = models_folder() / "manifests"
    for path in top.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            *above, tag = path.relative_to(top).parts
            yield full_name("/".join(above) + ":" + tag), path


def delete(name: str) -> None:
    """Delete a model, and every blob that no second model uses.

    Raises:
        NotFoundError: the model is not on disk.
    """
    model = find(name)
    manifest_path(model.name).unlink()
    kept = {layer["digest"] for each in everything() for layer in layers_of(each.manifest)}
    for layer in layers_of(model.manifest):
        if layer["digest"] not in kept:
            blob_path(layer["digest"]).unlink(missing_ok=True)


def copy(source: str, target: str) -> None:
    """Give a model a second name.

    Raises:
        NotFoundError: the model is not on disk.
    """
    found = find(source)
    write(manifest_path(existing_name(target)), manifest_path(found.name).read_bytes())


def write(path: Path, data: bytes) -> None:
    """Write a manifest or a blob. Readers find the old file or the new file, and two clients may write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as partial:
        partial.write(data)
    Path(partial.name).chmod(0o644)
    Path(partial.name).rename(path)


def layer_kind(name: str) -> str:
    """The media type of a layer such as `template`."""
    return f"{_KIND}{name}"


def named_by_weights(path: Path) -> str:
    """The name of the model whose (simulated) weights a file holds; empty for another file."""
    with path.open("rb") as file:
        begin = file.read(4096)
    found = _NAMED.search(begin)
    return found[1].decode(errors="replace") if found and begin.startswith(_HEAD) else ""


def layers_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every layer of a manifest, and its configuration."""
    return [*manifest["layers"], manifest["config"]]


def published(name: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Manifest and blobs (by digest) of a model in the (simulated) library; None for an unknown name."""
    wanted = full_name(name)
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in CATALOGUE:
        return None
    model = CATALOGUE[wanted]
    facts = {**vars(model), "capabilities": list(model.capabilities)}
    head = ollama_gguf.header(wanted, facts, model.family, parameter_count(model.parameters))
    weights = head + random.Random(wanted).randbytes(_BLOB - len(head))  # noqa: S311 - wanted: the same every time
    config = {
        "model_format": "gguf",
        "model_family": model.family,
        "model_families": [model.family],
        "model_type": model.parameters,
        "file_type": "Q4_K_M",
        "simulated": facts,
    }
    bodies = [
        ("model", weights),
        ("template", b"{{ .Prompt }}"),
        ("license", f"Simulated. The real {wanted.split(':')[0]} has a licence of its own.\n".encode()),
        ("params", b'{"stop":["<|end|>"]}'),
    ]
    blobs: dict[str, bytes] = {}
    layers = [_layer(f"{_KIND}{kind}", body, blobs) for kind, body in bodies]
    reference = _layer("application/vnd.docker.container.image.v1+json", json.dumps(config).encode(), blobs)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    return {"schemaVersion": 2, "mediaType": kind, "config": reference, "layers": layers}, blobs


def parameter_count(parameters: str) -> int:
    """The number of parameters of a text such as 1.8B or 137M; 0 for an empty text."""
    scale = {"M": 10**6, "B": 10**9}
    return round(float(parameters[:-1]) * scale[parameters[-1]]) if parameters else 0


def _layer(media_type: str, body: bytes, blobs: dict[str, bytes]) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    blobs[digest] = body
    return {"mediaType": media_type, "digest": digest, "size": len(body)}
