"""The files of a model registry: manifests and blobs, laid out as the models folder of an Ollama server.

A store's folder has `manifests/REGISTRY/NAMESPACE/MODEL/TAG` and `blobs/sha256-HEX`, so that the models of a real
server can be served as they are. Source: docs/facts.md#ollama-files.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_KIND = "application/vnd.ollama.image."
_CONFIG = "application/vnd.docker.container.image.v1+json"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_PLACE = "registry.ollama.ai"
_PART = re.compile(r"\w[\w.-]{0,79}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Store:
    """A folder of models.

    Args:
        folder: the folder; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "blobs").mkdir(parents=True, exist_ok=True)

    def publish(self, name: str, parts: Iterable[tuple[str, bytes | Path]], config: dict[str, Any]) -> str:
        """Add a model, or replace it.

        Args:
            name: name of the model, such as `library/small:latest`.
            parts: kind and content of each layer; a kind is a word of Ollama, such as `model`, `template`, `license`.
                The content is bytes, or a file of which the store makes a link or a copy.
            config: the configuration of the model.

        Returns:
            The sha256 of the manifest, as `/api/tags` calls it.

        Raises:
            ValueError: no model can have this name.
        """
        layers = [{"mediaType": f"{_KIND}{kind}", **self._keep(content)} for kind, content in parts]
        reference = {"mediaType": _CONFIG, **self._keep(json.dumps(config).encode())}
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": reference, "layers": layers}
        return self.put_manifest(name, json.dumps(manifest, separators=(",", ":")).encode())

    def put_manifest(self, name: str, data: bytes) -> str:
        """Write the manifest of a model whose blobs are in the folder; return its sha256.

        Raises:
            ValueError: no model can have this name.
        """
        path, _, tag = name.partition(":")
        if (file := self._place(path, tag or "latest")) is None:
            raise ValueError(f"{name!r} is no name of a model such as library/small:latest")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_bytes(data)
        partial.rename(file)
        return hashlib.sha256(data).hexdigest()

    def add_blob(self, data: bytes) -> str:
        """Add a blob, and return its digest."""
        return str(self._keep(data)["digest"])

    def manifest(self, path: str, tag: str) -> bytes | None:
        """The manifest of a model, such as `library/small` with the tag `latest`; None without such a model."""
        file = self._place(path, tag)
        return file.read_bytes() if file and file.is_file() else None

    def blob(self, digest: str) -> Path | None:
        """The file of a blob; None without such a blob."""
        file = self._folder / "blobs" / digest.replace(":", "-")
        return file if _DIGEST.fullmatch(digest) and file.is_file() else None

    def _place(self, path: str, tag: str) -> Path | None:
        words = path.split("/")
        if len(words) != 2 or not all(map(_PART.fullmatch, [*words, tag])):
            return None
        return self._folder.joinpath("manifests", _PLACE, *words, tag)

    def _keep(self, content: bytes | Path) -> dict[str, Any]:
        """Put a blob into the folder; return its digest and its size in bytes."""
        if isinstance(content, bytes):
            digest, size = hashlib.sha256(content).hexdigest(), len(content)
        else:
            with content.open("rb") as file:
                digest, size = hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size
        target = self._folder / "blobs" / f"sha256-{digest}"
        if not target.exists():
            partial = target.with_name(f".{digest}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            _fill(partial, content)
            partial.rename(target)
        return {"digest": f"sha256:{digest}", "size": size}


def _fill(file: Path, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        file.write_bytes(content)
        return
    try:
        file.hardlink_to(content)
    except OSError:  # another file system
        shutil.copyfile(content, file)
