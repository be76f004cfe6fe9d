"""One transfer of a pull: a request under way that another thread can cut, and the ways in which a pull fails."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, TypeVar

TICK = 0.06
_Value = TypeVar("_Value")


class PullError(Exception):
    """A pull that cannot succeed, with the text of the real server."""


class RequestError(PullError):
    """A request to a registry that failed; another try may succeed."""


class BrokenError(Exception):
    """The connection closed in the middle of a blob: the bytes so far count (`unexpected EOF`)."""


class Transfer:
    """A request under way. `cut` ends the request from another thread."""

    def __init__(self) -> None:
        self.is_cut = False
        self._connection: socket.socket | None = None
        self._guard = threading.Lock()

    def attach(self, connection: socket.socket) -> None:
        """Remember the connection of the request."""
        with self._guard:
            self._connection = connection
        if self.is_cut:
            self.cut()

    def cut(self) -> None:
        """End the request: a thread that waits for the connection goes on at once."""
        self.is_cut = True
        with self._guard, suppress(OSError):
            if self._connection:
                self._connection.shutdown(socket.SHUT_RDWR)


class Source(Protocol):
    """Where blobs come from. Every method may raise RequestError."""

    def manifest(self, transfer: Transfer) -> bytes:
        """The manifest of the model."""

    def size(self, digest: str, transfer: Transfer) -> int:
        """Bytes of a blob."""

    def locate(self, digest: str, transfer: Transfer) -> str:
        """The place from which the blob comes."""

    def read(self, place: str, first: int, last: int, transfer: Transfer) -> Iterator[bytes]:
        """The bytes of a blob from `first` to `last`, as they come.

        Raises:
            BrokenError: the connection closed before the end of the answer.
        """


def wait_for(work: Callable[[Transfer], _Value], alive: Callable[[], bool], gone: Exception) -> _Value:
    """Return the result of a request, as long as the client waits for the result.

    Args:
        work: the request.
        alive: whether the client is still connected.
        gone: raised after the client has left.
    """
    transfer, done = Transfer(), threading.Event()
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work(transfer))
        except (PullError, OSError) as error:
            results.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(TICK):
        if not alive():
            transfer.cut()
            raise gone
    (result,) = results
    if isinstance(result, Exception):
        raise result
    value: _Value = result
    return value
