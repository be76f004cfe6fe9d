"""The parts of `make test-real` that need no real program."""

import struct
from pathlib import Path

import pytest

from tests.real import balancer, gguf
from tests.real.instance import VARIABLES, Host, Instance


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file_with(keys: list[bytes], data: bytes) -> bytes:
    """A GGUF file with a tensor of two dimensions."""
    tensor = text("weights") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(keys)) + b"".join(keys) + tensor
    return head + bytes(-len(head) % 32) + data


def test_a_key_is_added_and_the_data_stay_aligned(tmp_path: Path) -> None:
    data = bytes(range(32))
    keys = [
        text("a.name") + struct.pack("<I", 8) + text("gemma"),
        text("a.size") + struct.pack("<II", 4, 7),
        text("a.flag") + struct.pack("<I?", 7, True),
        text("a.numbers") + struct.pack("<IIQ3H", 9, 2, 3, 1, 2, 3),
        text("a.words") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yz"),
    ]
    source, target = tmp_path / "a.gguf", tmp_path / "b.gguf"
    source.write_bytes(file_with(keys, data))
    gguf.with_number(source, target, "a.pooling_type", 1)
    added = text("a.pooling_type") + struct.pack("<II", 4, 1)
    assert target.read_bytes() == file_with([*keys, added], data)


def test_a_matrix_is_added_behind_the_data(tmp_path: Path) -> None:
    data = bytes(range(40))
    source, target = tmp_path / "a.gguf", tmp_path / "b.gguf"
    source.write_bytes(file_with([], data))
    gguf.with_number(source, target, "key", 1, ["square"], side=8)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 2, 1) + text("key") + struct.pack("<II", 4, 1)
    head += text("weights") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    head += text("square") + struct.pack("<IQQIQ", 2, 8, 8, 0, 64)
    head += bytes(-len(head) % 32) + data + bytes(24)
    rows = struct.unpack("<64f", target.read_bytes()[len(head) :])
    assert target.read_bytes().startswith(head)
    assert [place for place, value in enumerate(rows) if value] == [9 * n for n in range(8)]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="no GGUF file of version 3"):
        gguf.with_number(tmp_path / "a", tmp_path / "b", "key", 1)


def test_only_the_paths_of_the_rendered_configuration_move(tmp_path: Path) -> None:
    pair = [Instance(Host(tmp_path, "ollama"), f"ollama{n}", 4000 + n, VARIABLES) for n in (1, 2)]
    files = balancer.files(balancer.inventory(pair, 3008, 8080))
    assert "server 127.0.0.1:4001 weight=1 max_conns=5" in files["upstream.conf"]
    for name, before in files.items():
        after = balancer.moved(before, tmp_path)
        assert "provision-nginx" not in after
        changed = [line for line in set(after.splitlines()) - set(before.splitlines()) if str(tmp_path) not in line]
        assert set(changed) <= {"user root;", ""}, name
