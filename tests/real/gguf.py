"""A GGUF file with a further number in the metadata and further tensors: enough for a real model without text.

The layout, by ggml/include/gguf.h of llama.cpp: magic, version, counts of tensors and of keys, keys,
tensors, padding, data.
"""

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Sizes of the values of each type, in bytes; 8 is a text, 9 a list."""
_NUMBER = 4
_FLOAT = 0
"""The type of a tensor of 32 bit numbers."""
_ALIGNED = 32


def with_number(source: Path, target: Path, key: str, value: int, squares: Sequence[str] = (), side: int = 0) -> None:
    """Copy a GGUF file of version 3 and add a key with a whole number.

    Args:
        source: the file.
        target: the copy.
        key: the key.
        value: the number.
        squares: names of further tensors, each an identity matrix of 32 bit numbers.
        side: the number of rows of such a matrix; a multiple of 8.

    Raises:
        ValueError: the file is no GGUF file of version 3.
    """
    with source.open("rb") as file, target.open("wb") as copy:
        magic, version, tensors, keys = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version != 3:
            raise ValueError(f"{source} is no GGUF file of version 3")
        begin = file.tell()
        for _ in range(keys):
            _text(file)
            _skip(file, _whole(file, "<I"))
        middle = file.tell()
        for _ in range(tensors):
            _text(file)
            file.seek(8 * _whole(file, "<I") + 12, 1)
        end = file.tell()
        file.seek(begin)
        data_length = _aligned(source.stat().st_size - _aligned(end))
        copy.write(struct.pack("<4sIQQ", magic, version, tensors + len(squares), keys + 1))
        copy.write(file.read(middle - begin))
        copy.write(_word(key) + struct.pack("<II", _NUMBER, value))
        copy.write(file.read(end - middle))
        for number, name in enumerate(squares):
            place = data_length + number * 4 * side * side
            copy.write(_word(name) + struct.pack("<IQQIQ", 2, side, side, _FLOAT, place))
        _pad(copy)
        file.seek(_aligned(end))
        shutil.copyfileobj(file, copy, 1 << 20)
        _pad(copy)
        for _ in squares:
            copy.write(
                b"".join(struct.pack(f"<{side}f", *(row == column for column in range(side))) for row in range(side))
            )


def _aligned(place: int) -> int:
    return place + -place % _ALIGNED


def _pad(copy: BinaryIO) -> None:
    copy.write(bytes(-copy.tell() % _ALIGNED))


def _word(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _whole(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)


def _text(file: BinaryIO) -> None:
    file.seek(_whole(file, "<Q"), 1)


def _skip(file: BinaryIO, kind: int) -> None:
    """Skip a value."""
    if kind == 8:
        _text(file)
    elif kind == 9:
        inner, count = _whole(file, "<I"), _whole(file, "<Q")
        if inner in _FIXED:
            file.seek(_FIXED[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(_FIXED[kind], 1)
