"""The store on the controller: bytes that hosts need, addressed by sha256, made once and kept."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


def default_folder() -> Path:
    """Default folder of the artifacts, below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "provision" / "artifacts"


class Store:
    """Artifacts by purpose (`key`) and by content (sha256). Safe to use from many threads.

    Args:
        folder: folder of the artifacts; made when the first is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def find(self, key: str) -> Path | None:
        """The file for this key, or None. A file whose bytes have changed since it was stored counts as absent."""
        name = self.folder / "keys" / _digest(key.encode())
        try:
            sha256 = name.read_text().strip()
        except FileNotFoundError:
            return None
        path = self.folder / sha256
        return path if path.is_file() and file_digest(path) == sha256 else None

    @contextlib.contextmanager
    def adding(self, key: str) -> Iterator[Path]:
        """A temporary file to write an artifact to; the store has it once the block ends without an error."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the mode applies to the last folder alone
        (self.folder / "keys").mkdir(exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=".new-"))
        try:
            yield folder / "artifact"
            sha256 = file_digest(folder / "artifact")
            (folder / "artifact").replace(self.folder / sha256)
            (folder / "key").write_text(sha256)
            (folder / "key").replace(self.folder / "keys" / _digest(key.encode()))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def single_flight(self, key: str, wait: Callable[[], None]) -> Iterator[None]:
        """Let one thread at a time make the artifact of a key.

        Args:
            key: the key of the artifact.
            wait: called about twice a second while another thread makes the artifact; may raise to give up.
        """
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        while not lock.acquire(timeout=0.5):
            wait()
        try:
            yield
        finally:
            lock.release()


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
