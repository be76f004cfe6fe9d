"""What is said, where that cannot be written: a full disk behind stdout, a terminal that was closed."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

from provision.errors import ProvisionError


class UnwritableError(ProvisionError):
    """Standard output cannot be written."""


class _Stream:
    """A stream that passes all its other methods to a wrapped stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _Results(_Stream):
    """Standard output. Who asked for a document must not take half of it for all of it."""

    is_written = False
    """Whether anything was printed."""

    def write(self, text: str) -> int:
        self.is_written = True
        with self._told():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # `provision plan | head`
            raise
        except OSError as error:
            said = f"standard output cannot be written: {error.strerror or error}"
            raise UnwritableError(said, "what was done stays: `provision history` shows it") from error


class _Remarks(_Stream):
    """Standard error. That nobody hears a remark is no reason to stop a run half-way."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Have both streams behave so while a command runs."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, _Results(out)), cast(TextIO, _Remarks(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def is_written() -> bool:
    """Whether the command has printed anything on standard output, such as its document."""
    return bool(getattr(sys.stdout, "is_written", False))


def forget_stdout() -> None:
    """Have the interpreter not fail at its exit over what it could not write."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
