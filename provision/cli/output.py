"""Streams for output that cannot be written: a full disk behind stdout, a closed terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

from provision.errors import ProvisionError


class UnwritableError(ProvisionError):
    """Standard output cannot be written."""


class ReaderGoneError(Exception):
    """The reader of standard output has ended, as in `provision plan | head`.

    Not a BrokenPipeError: click would end the command with exit code 1.
    """


class _Stream:
    """A stream around another stream, with all its methods."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class _Results(_Stream):
    """Standard output. Half a document must not pass for the whole document."""

    is_written = False
    """Whether anything was printed."""

    def write(self, text: str) -> int:
        self.is_written = True
        with self._named_if_unwritable():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._named_if_unwritable():
            self._stream.flush()

    @contextlib.contextmanager
    def _named_if_unwritable(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except OSError as error:
            message = f"standard output cannot be written: {error.strerror or error}"
            hint = "make room, then run the command again; `provision history` lists the runs that changed hosts"
            raise UnwritableError(message, hint) from error


class _Remarks(_Stream):
    """Standard error. A remark without a reader is no reason to stop a run half-way."""

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
    """Whether the command has printed on standard output, such as its document."""
    return bool(getattr(sys.stdout, "is_written", False))


def forget_stdout() -> None:
    """Drop unwritten output, so that the interpreter does not fail at its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
