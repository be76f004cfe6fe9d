"""The library's models, built into the simulated server, at the speed that the lab's knobs say."""

import time
from collections.abc import Iterator

from .ollama_lab import fault, knob
from .ollama_transfer import TICK, BrokenError, Transfer

_CONNECTING = 2 * TICK
_SMALL = 1 << 16


class Library:
    """A model of the library.

    Args:
        manifest: the manifest.
        blobs: digest -> content of each blob.
    """

    def __init__(self, manifest: bytes, blobs: dict[str, bytes]) -> None:
        self._manifest, self._blobs = manifest, blobs

    def manifest(self, _: Transfer) -> bytes:
        """The manifest of the model."""
        return self._manifest

    def size(self, digest: str, _: Transfer) -> int:
        """Bytes of a blob."""
        return len(self._blobs[digest])

    def locate(self, digest: str, _: Transfer) -> str:
        """The blob itself."""
        return digest

    def read(self, place: str, first: int, last: int, transfer: Transfer) -> Iterator[bytes]:
        """The bytes of a blob; the faults `pull-stalls` and `pull-closes` strike blobs that are not small.

        Raises:
            BrokenError: the fault `pull-closes` is on.
        """
        body = self._blobs[place]
        total = len(body)
        if total <= _SMALL:
            yield body[first : last + 1]
            return
        time.sleep(_CONNECTING)
        step = max(1, int(total * TICK / max(TICK, knob("pull_seconds", 0.5))))
        closes = first + total // 16
        while first <= last and not transfer.is_cut:
            while fault("pull-stalls") is not None and first >= total // 2 and not transfer.is_cut:
                time.sleep(TICK)
            if transfer.is_cut:
                return
            if fault("pull-closes") is not None and first >= closes:
                raise BrokenError
            yield body[first : min(first + step, last + 1)]
            first += step
            time.sleep(TICK)
