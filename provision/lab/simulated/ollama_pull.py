"""Pulling models as the real server does: the frames of a pull, and the downloads that its clients share.

A ticker sends a frame every 60 ms, also when nothing arrives (server/images.go, server/download.go of Ollama; measured
with 0.33).
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from .ollama_download import Download
from .ollama_errors import GoneError
from .ollama_lab import fault
from .ollama_library import Library
from .ollama_names import REGISTRY, full_name
from .ollama_registry import Registry
from .ollama_store import blob_path, everything, existing_name, layers_of, manifest_path, published, write
from .ollama_transfer import TICK, PullError, Source, wait_for

__all__ = ["PullError", "pull"]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_downloads: dict[Path, Download] = {}
_guard = threading.Lock()
Frames = Generator[dict[str, Any], None, None]
Alive = Callable[[], bool]


def pull(name: str, alive: Alive, *, insecure: bool = False) -> Frames:
    """Pull a model, yielding the frames of its progress.

    Args:
        name: name of the model.
        alive: whether the client is still connected.
        insecure: whether the client allows plain HTTP.

    Raises:
        PullError: the pull cannot succeed.
        GoneError: the client left while the registry was silent.
    """
    name = existing_name(name)  # without the scheme, as in the real server
    yield {"status": "pulling manifest"}
    while fault("pull-stalls") == "manifest":
        if not alive():
            raise GoneError
        time.sleep(TICK)
    failing = fault("pull-fails")
    if failing is not None:
        lookup = f'Get "https://{REGISTRY}/v2/": dial tcp: lookup {REGISTRY}: no such host'
        raise PullError(failing or f"pull model manifest: {lookup}")
    try:
        source = _source(name, insecure=insecure)
        data = wait_for(source.manifest, alive, GoneError())
    except PullError as error:
        raise PullError(f"pull model manifest: {error}") from error
    digests = _digests(data)
    fresh = []
    for digest in digests:
        if not blob_path(digest).exists():
            fresh.append(digest)
        yield from _blob(digest, source, alive)
    yield {"status": "verifying sha256 digest"}
    for digest in fresh:
        _verify(digest)
    yield {"status": "writing manifest"}
    if _write(manifest_path(name), data):
        yield {"status": "removing unused layers"}
    yield {"status": "success"}


def _source(name: str, *, insecure: bool) -> Source:
    """Where a model comes from: the built-in library, or another registry.

    Raises:
        PullError: the library lacks the model.
    """
    path, _, tag = full_name(name).rpartition(":")
    host, _, rest = path.partition("/")
    if "/" in rest:
        return Registry(host, rest, tag, insecure=insecure)
    model = published(name)
    if model is None:
        raise PullError("file does not exist")
    manifest, blobs = model
    return Library(json.dumps(manifest, separators=(",", ":")).encode(), blobs)


def _digests(data: bytes) -> list[str]:
    """The digests of a manifest; a registry may send anything.

    Raises:
        PullError: a digest is none.
    """
    manifest = json.loads(data)
    layers = [layer for layer in manifest.get("layers") or [] if isinstance(layer, dict)]
    config = manifest.get("config")
    named = [*layers, *([config] if isinstance(config, dict) and config.get("digest") else [])]
    digests = [str(layer.get("digest", "")) for layer in named]
    if not all(map(_DIGEST.fullmatch, digests)):
        raise PullError("invalid digest format")
    return digests


def _blob(digest: str, source: Source, alive: Alive) -> Frames:
    """The frames of one blob. The last client to leave cancels the download."""
    frame: dict[str, Any] = {"status": f"pulling {digest[7:19]}", "digest": digest}
    path = blob_path(digest)
    if path.exists():
        size = path.stat().st_size
        yield {**frame, "total": size, **({"completed": size} if size else {})}
        return
    download, is_new = _join(path, digest, source)
    try:
        if is_new:
            wait_for(download.prepare, alive, GoneError())
            download.start(lambda: _forget(path, download))
        while not download.ended.wait(TICK):
            counts = {"total": download.total, "completed": download.completed}
            yield {**frame, **{key: count for key, count in counts.items() if count}}
    finally:
        _leave(path, download)
    if download.error:
        raise download.error


def _join(path: Path, digest: str, source: Source) -> tuple[Download, bool]:
    """The download of a blob, and whether the download is new. A download without clients has to end first."""
    while True:
        with _guard:
            download = _downloads.get(path)
            if download is None or download.clients:
                joined = _downloads[path] = download or Download(path, digest, source)
                joined.clients += 1
                return joined, download is None
        time.sleep(TICK / 6)


def _leave(path: Path, download: Download) -> None:
    with _guard:
        download.clients -= 1
        if download.clients:
            return
    download.cancel()
    _forget(path, download)


def _forget(path: Path, download: Download) -> None:
    with _guard:
        if _downloads.get(path) is download:
            del _downloads[path]


def _verify(digest: str) -> None:
    """Hash a blob that came.

    Raises:
        PullError: the blob has another digest, and is removed.
    """
    with blob_path(digest).open("rb") as file:
        actual = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if actual != digest:
        blob_path(digest).unlink()
        raise PullError(f"digest mismatch, file must be downloaded again: want {digest}, got {actual}")


def _write(path: Path, data: bytes) -> bool:
    """Write a manifest byte for byte; return whether blobs of the manifest before are unused now."""
    before = _listed(path)
    write(path, data)
    unused = before - set(_digests(data))
    kept = {layer["digest"] for model in everything() for layer in layers_of(model.manifest)} if unused else set()
    for digest in unused - kept:
        blob_path(digest).unlink(missing_ok=True)
    return bool(unused)


def _listed(path: Path) -> set[str]:
    try:
        return {layer["digest"] for layer in layers_of(json.loads(path.read_bytes()))}
    except (OSError, ValueError, KeyError):
        return set()
