"""Pulling models as the real server does: one download for each blob, shared by all clients that ask for the blob.

A ticker sends a frame every 60 ms, also when nothing arrives. A part that stalls starts over after 30 s, without end,
and its bytes no longer count; a connection that the registry closes goes on from the same byte, six times
(server/download.go; measured with 0.33).
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .ollama_errors import GoneError
from .ollama_lab import fault, knob, log
from .ollama_names import REGISTRY, full_name
from .ollama_store import blob_path, layers_of, manifest_path, published

_TICK = 0.06
_CONNECTING = 2 * _TICK
_ATTEMPTS = 6
_SMALL = 1 << 16
_downloads: dict[Path, "_Download"] = {}
_guard = threading.Lock()
Frames = Generator[dict[str, Any], None, None]


class PullError(Exception):
    """A pull that cannot succeed, with the text of the real server."""


def pull(name: str, alive: Callable[[], bool]) -> Frames:
    """Pull a model, yielding the frames of its progress.

    Args:
        name: name of the model.
        alive: whether the client is still connected.

    Raises:
        PullError: no such model, or the fault `pull-fails` is on, or the registry closes every connection.
        GoneError: the client left while the registry was silent.
    """
    yield {"status": "pulling manifest"}
    while fault("pull-stalls") == "manifest":
        if not alive():
            raise GoneError
        time.sleep(_TICK)
    failing = fault("pull-fails")
    if failing is not None:
        lookup = f'Get "https://{REGISTRY}/v2/": dial tcp: lookup {REGISTRY}: no such host'
        raise PullError(failing or f"pull model manifest: {lookup}")
    if len(full_name(name).split("/")) > 2:
        host = name.partition("/")[0]
        raise PullError(f"pull model manifest: dial tcp: lookup {host}: no such host")
    model = published(name)
    if model is None:
        raise PullError("pull model manifest: file does not exist")
    manifest, blobs = model
    for layer in layers_of(manifest):
        yield from _blob(layer["digest"], blobs[layer["digest"]])
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    path = manifest_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(manifest, separators=(",", ":")))
    partial.rename(path)
    yield {"status": "success"}


def _blob(digest: str, body: bytes) -> Frames:
    """The frames of one blob. The last client to leave cancels the download."""
    frame = {"status": f"pulling {digest.split(':')[1][:12]}", "digest": digest, "total": len(body)}
    path = blob_path(digest)
    if path.exists():
        yield {**frame, "completed": len(body)}
        return
    with _guard:
        download = _downloads.get(path) or _Download(path, digest, body)
        _downloads[path] = download
        download.clients += 1
    try:
        while not download.ended.wait(_TICK):
            yield {**frame, "completed": download.completed} if download.completed else frame
    finally:
        with _guard:
            download.clients -= 1
            if not download.clients and _downloads.get(path) is download:
                del _downloads[path]
    if download.error:
        raise download.error


class _Download:
    """The download of one blob.

    Args:
        path: the file of the blob.
        digest: digest of the blob.
        body: content of the blob, as in the registry.
    """

    def __init__(self, path: Path, digest: str, body: bytes) -> None:
        self.clients = 0
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._path, self._body, self._digest = path, body, digest
        self._partial = path.with_name(f"{path.name}-partial")
        self.completed = self._partial.stat().st_size if self._partial.exists() else 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._attempts()
        except (PullError, OSError) as error:
            self.error = error
        except GoneError:
            log("download cancelled", digest=self._digest)
        finally:
            self.ended.set()

    def _attempts(self) -> None:
        for attempt in range(_ATTEMPTS):
            with suppress(EOFError):
                self._fetch()
                self._finish()
                return
            log(f"part 0 attempt {attempt} failed: unexpected EOF, retrying")
            self._sleep(2**attempt * knob("retry_seconds", 1))
        raise PullError("max retries exceeded: unexpected EOF")

    def _fetch(self) -> None:
        """Fetch bytes until the blob is whole.

        Raises:
            EOFError: the registry closed the connection.
        """
        total = len(self._body)
        small = total <= _SMALL
        step = total if small else max(1, int(total * _TICK / max(_TICK, knob("pull_seconds", 0.5))))
        closes = self.completed + total // 16
        self._sleep(0 if small else _CONNECTING)
        while self.completed < total:
            if not small and fault("pull-stalls") is not None and self.completed >= total // 2:
                self._stall()
                self._sleep(_CONNECTING)
                continue
            if not small and fault("pull-closes") is not None and self.completed >= closes:
                raise EOFError
            with self._partial.open("ab") as file:
                file.write(self._body[self.completed : self.completed + step])
            self.completed = min(total, self.completed + step)
            self._sleep(0 if small else _TICK)

    def _stall(self) -> None:
        """Nothing arrives; after a while the whole part is fetched again."""
        end = time.monotonic() + knob("stall_seconds", 30)
        while time.monotonic() < end:
            if fault("pull-stalls") is None:
                return
            self._sleep(_TICK)
        log("part 0 stalled; retrying. If this persists, press ctrl-c to exit, then 'ollama pull'")
        os.truncate(self._partial, 0)
        self.completed = 0

    def _finish(self) -> None:
        actual = f"sha256:{hashlib.sha256(self._partial.read_bytes()).hexdigest()}"
        if actual != self._digest:
            self._partial.unlink()
            raise PullError(f"digest mismatch, file must be downloaded again: want {self._digest}, got {actual}")
        self._partial.rename(self._path)

    def _sleep(self, duration: float) -> None:
        """Wait, as long as a client waits.

        Raises:
            GoneError: all clients left.
        """
        end = time.monotonic() + duration
        while True:
            with _guard:
                if _downloads.get(self._path) is not self:
                    raise GoneError
            if (left := end - time.monotonic()) <= 0:
                return
            time.sleep(min(_TICK, left))
