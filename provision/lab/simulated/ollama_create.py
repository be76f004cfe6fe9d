"""/api/create and /api/blobs of the simulated server: models made from others, or from uploaded simulated weights."""

import hashlib
import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

from .ollama_errors import RefusedError
from .ollama_names import is_valid
from .ollama_requests import Body
from .ollama_store import (
    NotFoundError,
    blob_path,
    existing_name,
    find,
    layer_kind,
    manifest_path,
    named_by_weights,
    published,
    write,
)

_TEXTS = ("template", "system")
Layer = dict[str, Any]


def blob(digest: str) -> Path:
    """The file of a blob.

    Raises:
        RefusedError: the text is no digest (400), or the blob is not here (404).
    """
    if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
        raise RefusedError(400, "invalid digest format")
    path = blob_path(digest)
    if not path.exists():
        raise RefusedError(404, f'blob "{digest}" not found')
    return path


def upload(digest: str, data: bytes) -> int:
    """Store a blob and return the status of the answer: 200 for a blob that was here, 201 for a new one.

    Raises:
        RefusedError: the content has another digest (400).
    """
    try:
        blob(digest)
    except RefusedError as absent:
        if absent.status != 404:
            raise
        actual = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if actual != digest.replace("-", ":"):
            text = f'digest mismatch, expected "{digest}", got "{actual}"'
            raise RefusedError(400, text) from absent
        write(blob_path(digest), data)
        return 201
    return 200


def create(body: Body) -> Generator[dict[str, Any], None, None]:
    """Make a model, yielding the frames of the progress.

    Raises:
        RefusedError: no model can be made of this.
    """
    name = body.get("model") or body.get("name") or ""
    if not is_valid(name):
        raise RefusedError(400, "invalid model name")
    manifest = _base(body)
    layers = [layer for layer in manifest["layers"] if layer["mediaType"] not in {kind for kind, _ in _given(body)}]
    for layer in layers:
        yield {"status": f"using existing layer {layer['digest']}"}
    for kind, data in _given(body):
        layer = {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
        write(blob_path(layer["digest"]), data)
        layers.append(layer)
        yield {"status": f"creating new layer {layer['digest']}"}
    yield {"status": "writing manifest"}
    text = json.dumps({**manifest, "layers": layers}, separators=(",", ":"))
    write(manifest_path(existing_name(name)), text.encode())
    yield {"status": "success"}


def _given(body: Body) -> list[tuple[str, bytes]]:
    """Kind and content of the layers that the request brings."""
    given = [(layer_kind(text), body[text].encode()) for text in _TEXTS if body.get(text)]
    if body.get("parameters"):
        given.append((layer_kind("params"), json.dumps(body["parameters"]).encode()))
    return given


def _base(body: Body) -> dict[str, Any]:
    """The manifest to begin with."""
    if body.get("from"):
        try:
            return find(body["from"]).manifest
        except NotFoundError as error:
            raise RefusedError(500, "pull model manifest: file does not exist") from error
    if not body.get("files"):
        raise RefusedError(400, "neither 'from' or 'files' was specified")
    return _from_weights([str(digest) for digest in body["files"].values()])


def _from_weights(digests: list[str]) -> dict[str, Any]:
    """The manifest of uploaded weights: our own name their model."""
    for digest in digests:
        known = published(named_by_weights(blob(digest)))
        if known:
            manifest, blobs = known
            config = manifest["config"]["digest"]
            write(blob_path(config), blobs[config])
            return {**manifest, "layers": [layer for layer in manifest["layers"] if layer["digest"] == digest]}
    raise RefusedError(500, "invalid file magic")
