"""The download of one blob, shared by all clients that ask for the blob, as in the real server (server/download.go).

A blob has parts of 100 MB and more, and a file `-partial-N` beside the blob knows how much of a part is there, so that
a later pull goes on at that byte. A part that stalls for 30 s starts over without end, and the bytes of that try no
longer count; a connection that closes goes on from the same byte, six times. The real server downloads sixteen parts
at once, this one a part after the other: the models of a lab have only one.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .ollama_lab import knob, log
from .ollama_transfer import TICK, BrokenError, PullError, RequestError, Source, Transfer

_ATTEMPTS = 6
_PARTS = 16
_SMALLEST, _LARGEST = 100_000_000, 1_000_000_000


class _CancelledError(Exception):
    """All clients left."""


@dataclass
class _Part:
    number: int
    offset: int
    size: int
    completed: int = 0

    def save(self, blob: Path) -> None:
        words = {"N": self.number, "Offset": self.offset, "Size": self.size, "Completed": self.completed}
        new = blob.with_name(f"{blob.name}.new")
        new.write_text(json.dumps(words, separators=(",", ":")) + "\n")
        new.rename(_part_file(blob, self.number))


class Download:
    """The download of one blob.

    Args:
        path: the file of the blob.
        digest: digest of the blob.
        source: where the blob comes from.
    """

    def __init__(self, path: Path, digest: str, source: Source) -> None:
        self.clients = 0
        self.total = self.completed = 0
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._path, self._digest, self._source = path, digest, source
        self._partial = path.with_name(f"{path.name}-partial")
        self._parts: list[_Part] = []
        self._transfer = Transfer()
        self._limit = float("inf")
        self._cancelled = self._started = False

    def prepare(self, transfer: Transfer) -> None:
        """Find the parts of an earlier download, or ask for the size.

        Raises:
            RequestError: the registry does not say the size.
        """
        self._parts = _saved_parts(self._path)
        if not self._parts:
            size = self._source.size(self._digest, transfer)
            length = min(max(size // _PARTS, _SMALLEST), _LARGEST)
            starts = range(0, size, length)
            self._parts = [_Part(n, start, min(length, size - start)) for n, start in enumerate(starts)]
            for part in self._parts:
                part.save(self._path)
        self.total = sum(part.size for part in self._parts)
        self.completed = sum(part.completed for part in self._parts)

    def start(self, at_end: Callable[[], None]) -> None:
        """Download in threads of this process; `at_end` is called before `ended` is set."""
        self._started = True
        threading.Thread(target=self._run, args=(at_end,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def cancel(self) -> None:
        """End the download, and wait until its bytes are noted for the next one."""
        self._cancelled = True
        self._transfer.cut()
        if self._started:
            self.ended.wait(10)

    def _run(self, at_end: Callable[[], None]) -> None:
        try:
            self._fetch()
        except PullError as error:
            self.error = error
        except OSError as error:
            self.error = PullError(f"write {self._partial}: {(error.strerror or '').lower()}")
        except _CancelledError:
            log("download cancelled", digest=self._digest)
            self.error = PullError("context canceled")
        finally:
            at_end()
            self.ended.set()

    def _watch(self) -> None:
        """Cut the transfer that takes longer than its limit."""
        while not self.ended.wait(TICK):
            if time.monotonic() > self._limit:
                self._transfer.cut()

    def _fetch(self) -> None:
        with self._partial.open("ab"):
            os.truncate(self._partial, self.total)
        place = self._locate()
        for part in self._parts:
            self._fetch_part(part, place)
        for part in self._parts:
            _part_file(self._path, part.number).unlink()
        self._partial.rename(self._path)

    def _locate(self) -> str:
        """Ask the registry for the place of the blob, for 30 seconds."""
        end = self._limit = time.monotonic() + knob("locate_seconds", 30)
        tries = 0
        while True:
            try:
                return self._source.locate(self._digest, self._begin())
            except RequestError as error:
                log("failed to get direct URL; backing off and retrying", "WARN", err=str(error))
            tries += 1
            self._sleep(min(tries * tries * 0.01, 10, max(0, end - time.monotonic())))
            if time.monotonic() >= end:
                raise PullError("context deadline exceeded")

    def _fetch_part(self, part: _Part, place: str) -> None:
        attempt = 0
        while part.completed < part.size:
            why = self._try_part(part, place)
            if not why:
                continue
            delay = 2**attempt * knob("retry_seconds", 1)
            short = self._digest[7:19]
            log(f"{short} part {part.number} attempt {attempt} failed: {why}, retrying in {delay:g}s")
            self._sleep(delay)
            attempt += 1
            if attempt == _ATTEMPTS:
                raise PullError(f"max retries exceeded: {why}")

    def _try_part(self, part: _Part, place: str) -> str:
        """Fetch the rest of a part once; return why that failed, or nothing where another try costs no attempt."""
        transfer, self._limit = self._begin(), time.monotonic() + knob("stall_seconds", 30)
        got, kept, why = 0, False, "EOF"
        first = part.offset + part.completed
        try:
            for data in self._source.read(place, first, part.offset + part.size - 1, transfer):
                wanted = data[: part.size - part.completed - got]
                with self._partial.open("r+b") as file:
                    file.seek(first + got)
                    file.write(wanted)
                got += len(wanted)
                self.completed += len(wanted)
                self._limit = time.monotonic() + knob("stall_seconds", 30)
        except BrokenError:
            kept, why = True, "unexpected EOF"
        except RequestError as error:
            why = str(error)
        self._limit = float("inf")
        whole = part.completed + got == part.size
        if self._cancelled or whole or (kept and not transfer.is_cut):
            part.completed += got
            part.save(self._path)
        else:
            self.completed -= got
        if self._cancelled:
            raise _CancelledError
        if whole:
            return ""
        if transfer.is_cut:
            log(
                f"{self._digest[7:19]} part {part.number} stalled; retrying. If this persists, press ctrl-c to exit, "
                "then 'ollama pull' to find a faster connection."
            )
            return ""
        return why

    def _begin(self) -> Transfer:
        """A new transfer, cut at once where all clients left a moment ago."""
        transfer = self._transfer = Transfer()
        if self._cancelled:
            transfer.cut()
        return transfer

    def _sleep(self, seconds: float) -> None:
        """Wait, as long as a client waits.

        Raises:
            _CancelledError: all clients left.
        """
        end = time.monotonic() + seconds
        while not self._cancelled and (left := end - time.monotonic()) > 0:
            time.sleep(min(TICK, left))
        if self._cancelled:
            raise _CancelledError


def _part_file(blob: Path, number: int) -> Path:
    return blob.with_name(f"{blob.name}-partial-{number}")


def _saved_parts(blob: Path) -> list[_Part]:
    parts = []
    for file in sorted(blob.parent.glob(f"{blob.name}-partial-*")):
        words = json.loads(file.read_text())
        parts.append(_Part(words["N"], words["Offset"], words["Size"], words["Completed"]))
    return parts
