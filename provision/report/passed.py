"""Passes on the output of a command on a host: a pipe gets every byte, a terminal gets lines without escapes."""

import codecs
from typing import TextIO

from provision.terminal_text import line

LONGEST = 4000  # characters of a line on a terminal


class Passed:
    """Passes on one stream.

    Args:
        stream: standard output or standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace" if self._is_terminal else "surrogateescape")
        self._rest = ""
        if not self._is_terminal:
            stream.reconfigure(errors="surrogateescape")  # type: ignore[attr-defined]

    def __call__(self, data: bytes) -> None:
        """Take a piece of the output."""
        text = self._decode.decode(data)
        if self._is_terminal:
            *whole, self._rest = (self._rest + text).split("\n")
            text = "".join(f"{line(each.removesuffix(chr(13)), LONGEST)}\n" for each in whole)
        self._stream.write(text)
        self._stream.flush()

    def end(self) -> None:
        """Pass on the rest of the output."""
        rest = self._rest + self._decode.decode(b"", final=True)
        if rest:
            self._stream.write(f"{line(rest, LONGEST)}\n" if self._is_terminal else rest)
            self._stream.flush()
