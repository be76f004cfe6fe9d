"""The header of a GGUF file: metadata and tensors, from the first bytes of the file. Pure.

PyPI's `gguf` reads whole files by a memory map. A registry sends 20 GB, of which the dimensions take the first
kilobytes: so this parser takes a prefix, and says where the prefix ends. A vocabulary is counted, and not kept.
Source of the layout: docs/facts.md#gguf-header. Every byte is hostile: whoever makes a model writes the header.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_PAIRS, MOST_TENSORS = 10_000, 200_000  # real models have 20 to 60 pairs, and up to some thousand tensors
LONGEST_KEY, LONGEST_TEXT, MOST_ITEMS = 65_535, 1 << 24, 1 << 24
KEPT_ITEMS, KEPT_TEXT = 1024, 4096  # a number for each block is kept; a vocabulary is counted, a template is cut
MOST_AXES = 4
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

# Type of a tensor -> values in a block, bytes of a block (docs/facts.md#gguf-header).
BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}

Scalar = int | float | bool | str
Value = Scalar | tuple[int | float | bool, ...]


class GgufError(ValueError):
    """The bytes are no header of a GGUF file. The message names the fault."""


@dataclass(frozen=True)
class Tensor:
    """A tensor by its entry in the header.

    Args:
        name: name of the tensor, such as `blk.0.attn_q.weight`.
        shape: lengths of the axes.
        kind: number of the type, as in ggml.
        offset: first byte of the tensor behind the header.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int | None:
        """Bytes of the tensor; None for a type that is not known."""
        values, bytes_ = BLOCKS.get(self.kind, (0, 0))
        return -(-prod(self.shape) // values) * bytes_ if values else None


@dataclass(frozen=True)
class Header:
    """The part of a header that is known.

    Args:
        version: version of the format.
        metadata: key -> value; of an array of more than 1024 items, and of an array of texts, only the length.
        lengths: key -> number of items, of every array.
        tensors: the tensors in the order of the file; empty unless `whole`.
        whole: whether the bytes hold the header up to the end.
    """

    version: int
    metadata: Mapping[str, Value] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()
    whole: bool = False


class _EndError(Exception):
    """The prefix ends here."""


def parse(data: bytes, size: int) -> Header:
    """Parse the first bytes of a file.

    Args:
        data: the first bytes.
        size: bytes of the whole file.

    Raises:
        GgufError: the file is no GGUF file, has impossible counts or lengths, or ends inside the header.
    """
    if data[:4] != MAGIC[: len(data)] or not data:
        raise GgufError(f"the file is no GGUF file: it begins with {data[:40].decode('ascii', 'replace')!r}")
    reader = _Reader(data, size)
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    version = VERSIONS[-1]
    try:
        reader.take(4)
        version = _version(reader.number("I"))
        count, pairs = reader.number("Q"), reader.number("Q")
        _bounded("tensors", count, MOST_TENSORS)
        _bounded("metadata keys", pairs, MOST_PAIRS)
        for _ in range(pairs):
            _pair(reader, metadata, lengths)
        tensors = tuple(_tensor(reader) for _ in range(count))
    except _EndError:
        if len(data) >= size:
            raise GgufError(f"the file ends inside its header, after {size} bytes") from None
        return Header(version, metadata, lengths)
    return Header(version, metadata, lengths, tensors, whole=True)


def _version(version: int) -> int:
    if version not in VERSIONS:
        raise GgufError(f"version {version} of the GGUF format is not known (2 and 3 are, in little-endian order)")
    return version


def _bounded(what: str, count: int, most: int) -> None:
    if count > most:
        raise GgufError(f"the header claims {count} {what}, and {most} is the most that a model has")


def _pair(reader: "_Reader", metadata: dict[str, Value], lengths: dict[str, int]) -> None:
    key = reader.text("a key", LONGEST_KEY)
    if not key.isprintable() or not key or key in metadata or key in lengths:
        raise GgufError(f"the metadata key {key[:60]!r} is empty, doubled or not printable")
    kind = reader.number("I")
    if kind != _ARRAY:
        metadata[key] = _scalar(reader, kind, key)
        return
    item, count = reader.number("I"), reader.number("Q")
    _bounded(f"items of {key[:60]}", count, MOST_ITEMS)
    _known(item, key)
    lengths[key] = count
    if item == _TEXT:
        for _ in range(count):
            reader.take(reader.length(f"an item of {key[:60]}", LONGEST_TEXT))
    elif count <= KEPT_ITEMS:
        metadata[key] = tuple(reader.number(_NUMBERS[item]) for _ in range(count))
    else:
        reader.take(count * struct.calcsize("<" + _NUMBERS[item]))


def _known(kind: int, key: str) -> None:
    if kind != _TEXT and kind not in _NUMBERS:
        raise GgufError(f"the metadata key {key[:60]} has a value of the unknown type {kind}")


def _scalar(reader: "_Reader", kind: int, key: str) -> Scalar:
    _known(kind, key)
    if kind == _TEXT:
        return reader.text(f"the value of {key[:60]}", LONGEST_TEXT)[:KEPT_TEXT]
    number: int | float | bool = reader.number(_NUMBERS[kind])
    return number


def _tensor(reader: "_Reader") -> Tensor:
    name = reader.text("the name of a tensor", LONGEST_KEY)
    axes = reader.number("I")
    _bounded(f"axes of the tensor {name[:60]!r}", axes, MOST_AXES)
    shape = tuple(reader.number("Q") for _ in range(axes))
    return Tensor(name, shape, reader.number("I"), reader.number("Q"))


class _Reader:
    """Reads values from the begin of a file on."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = data
        self._size = size
        self._at = 0

    def take(self, count: int) -> bytes:
        """Take some bytes. Raises `_EndError` where the prefix ends, GgufError where the file would."""
        end = self._at + count
        if end > self._size:
            raise GgufError(f"the header claims {end} bytes, and the file has {self._size}")
        if end > len(self._data):
            raise _EndError
        part, self._at = self._data[self._at : end], end
        return part

    def number(self, form: str) -> Any:
        """Take a number of a format of `struct`, in little-endian order."""
        (value,) = struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))
        return value

    def length(self, what: str, most: int) -> int:
        """Take the length of a text, in bytes."""
        length: int = self.number("Q")
        if length > most:
            raise GgufError(f"{what} claims a length of {length} bytes, and {most} is the most")
        return length

    def text(self, what: str, most: int) -> str:
        """Take a text."""
        return self.take(self.length(what, most)).decode(errors="replace")
