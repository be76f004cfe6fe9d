"""Fingerprints of the primary keys in an OpenPGP key file. Pure: a fresh host may not have gpg yet.

The result describes an installed file; whether to install a file is decided on the host by gpg.
Sources: RFC 4880 4.2 (packets), 6.2 (armor), 12.2 (fingerprints of version 4 keys).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

PUBLIC_KEY = 6
ARMOR = re.compile(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n(.*?)-----END PGP", re.DOTALL)


def fingerprints(data: bytes) -> tuple[str, ...]:
    """The fingerprints of all primary keys, sorted; none where the file is not a key file.

    Args:
        data: a key file, armored or not.
    """
    try:
        return tuple(sorted({_fingerprint(body) for tag, body in _packets(_binary(data)) if tag == PUBLIC_KEY}))
    except (ValueError, IndexError, binascii.Error):
        return ()


def _binary(data: bytes) -> bytes:
    blocks = ARMOR.findall(data)
    return b"".join(_unarmor(block) for block in blocks) if blocks else data


def _unarmor(block: bytes) -> bytes:
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith(b"=")]
    return base64.b64decode(b"".join(lines), validate=True)


def _fingerprint(body: bytes) -> str:
    if body[0] != 4:
        raise ValueError("only version 4 keys are known")
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        if not data[0] & 0x80:
            raise ValueError("no OpenPGP packet")
        tag, start, length = _new(data) if data[0] & 0x40 else _old(data)
        if len(data) < start + length:
            raise ValueError("the packet ends early")
        yield tag, data[start : start + length]
        data = data[start + length :]


def _old(data: bytes) -> tuple[int, int, int]:
    size = 1 << (data[0] & 3)
    if size == 8:
        raise ValueError("a packet without a length")
    return (data[0] >> 2) & 15, 1 + size, int.from_bytes(data[1 : 1 + size], "big")


def _new(data: bytes) -> tuple[int, int, int]:
    tag, first = data[0] & 63, data[1]
    if first < 192:
        return tag, 2, first
    if first < 224:
        return tag, 3, ((first - 192) << 8) + data[2] + 192
    if first == 255:
        return tag, 6, int.from_bytes(data[2:6], "big")
    raise ValueError("a packet in parts")
