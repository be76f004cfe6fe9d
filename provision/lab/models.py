"""The models of the site: the library's models in a model registry, and the registry's faults."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from provision.lab import model_store, paths
from provision.lab.model_registry import FAULTS, fault_file
from provision.lab.network import Network
from provision.lab.simulated import ollama_gguf, ollama_store

__all__ = ["FAULTS", "PORT", "active", "command", "ensure", "switch"]
PORT = 5001


def ensure() -> None:
    """Put the library's models into the cache, unless the cache has models from the same sources."""
    marker = _folder().with_suffix(".made-of")
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (ollama_gguf, ollama_store, model_store))
    recipe = hashlib.sha256(sources).hexdigest()
    if marker.exists() and marker.read_text() == recipe:
        return
    store = model_store.Store(_folder())
    for name in ollama_store.CATALOGUE:
        if model := ollama_store.published(name):
            manifest, blobs = model
            for blob in blobs.values():
                store.add_blob(blob)
            store.put_manifest(f"library/{name}", json.dumps(manifest, separators=(",", ":")).encode())
    marker.write_text(recipe)


def command(home: Path, network: Network) -> list[str]:
    """The words that start the model registry on the site's two addresses.

    Args:
        home: the lab's directory.
        network: the lab's network.
    """
    module = ["-I", "-m", "provision.lab.model_registry"]
    return [sys.executable, *module, network.site, str(PORT), network.blobs, str(_folder()), str(_faults(home))]


def switch(home: Path, model: str, fault: str, *, on: bool, value: str = "") -> None:
    """Switch a fault of the model registry on or off.

    Args:
        home: the lab's directory.
        model: name of the only model with the fault; empty for all models.
        fault: a key of `FAULTS`.
        on: whether the fault is on from now on.
        value: the value that some faults take.
    """
    file = _faults(home) / fault_file(fault, model)
    if on:
        file.parent.mkdir(exist_ok=True)
        file.write_text(value)
    else:
        file.unlink(missing_ok=True)


def active(home: Path) -> Iterator[tuple[str, str]]:
    """Yield every fault that is on, as (model, fault); the model is empty for a fault of all models."""
    for file in sorted(_faults(home).glob("models-*")):
        fault, _, model = file.name.partition("@")
        yield model.replace("+", "/").removeprefix("library/"), fault


def _folder() -> Path:
    return paths.CACHE / "models"


def _faults(home: Path) -> Path:
    return home / "model-faults"
