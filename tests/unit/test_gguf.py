"""The header of a GGUF file, from a prefix: what a real writer lays out, and what a hostile one claims."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.artifacts.gguf import BLOCKS, GgufError, Header, parse
from provision.lab.simulated import ollama_gguf, ollama_store

U32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def file(*pairs: bytes, tensors: bytes = b"", count: int = 0, claimed: int | None = None, version: int = 3) -> bytes:
    return (
        b"GGUF"
        + struct.pack("<IQQ", version, count, len(pairs) if claimed is None else claimed)
        + b"".join(pairs)
        + tensors
    )


def whole(data: bytes) -> Header:
    return parse(data, len(data))


BLOCK_COUNT = pair("qwen2.block_count", U32, struct.pack("<I", 28))
WORDS = pair("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("b") + text("c"))
HEADS = pair("qwen2.attention.head_count_kv", ARRAY, struct.pack("<IQ3I", U32, 3, 4, 2, 4))
TENSOR = text("token_embd.weight") + struct.pack("<I2QIQ", 2, 256, 10, 12, 0)


def test_numbers_texts_arrays_and_tensors_are_read() -> None:
    name = pair("general.architecture", STRING, text("qwen2"))
    header = whole(file(name, BLOCK_COUNT, WORDS, HEADS, tensors=TENSOR, count=1))
    assert header.metadata == {
        "general.architecture": "qwen2",
        "qwen2.block_count": 28,
        "qwen2.attention.head_count_kv": (4, 2, 4),
    }
    assert header.lengths == {"tokenizer.ggml.tokens": 3, "qwen2.attention.head_count_kv": 3}
    assert [(tensor.name, tensor.size) for tensor in header.tensors] == [("token_embd.weight", 10 * 144)]
    assert header.whole


def test_a_prefix_that_ends_in_the_vocabulary_has_the_dimensions_before_it() -> None:
    data = file(BLOCK_COUNT, WORDS, HEADS, tensors=TENSOR, count=1)
    header = parse(data[: len(file(BLOCK_COUNT, WORDS)) - 5], len(data))
    assert header.metadata == {"qwen2.block_count": 28}
    assert header.lengths == {"tokenizer.ggml.tokens": 3}
    assert not header.whole


def test_the_simulated_weights_of_the_lab_have_the_sizes_of_the_real_model() -> None:
    for name, model in ollama_store.CATALOGUE.items():
        published = ollama_store.published(name)
        assert published
        manifest, blobs = published
        layer = manifest["layers"][0]
        header = parse(blobs[layer["digest"]][: 1 << 16], layer["size"])
        assert header.whole, name
        sizes = [tensor.size or 0 for tensor in header.tensors]
        assert abs(sum(sizes) - model.size) < model.size / 1000, name
        assert header.metadata[f"{model.family}.block_count"] == model.layers
        assert "SIMULATED" in str(header.metadata["general.name"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>a portal</html>", "no GGUF file: it begins with '<html>"),
        (b"", "no GGUF file"),
        (file(version=9), "version 9"),
        (file(version=0x03000000), "little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "1152921504606846976 tensors"),
        (file(claimed=1 << 40), "1099511627776 metadata keys"),
        (file(struct.pack("<Q", 1 << 50), claimed=1), "a key claims a length of"),
        (file(pair("a", STRING, struct.pack("<Q", 1 << 62)), claimed=1), "the value of a claims a length of"),
        (file(pair("a", STRING, struct.pack("<Q", 1 << 20))), "the file has"),
        (file(pair("a", ARRAY, struct.pack("<IQ", U32, 1 << 40))), "1099511627776 items of a"),
        (file(pair("a", ARRAY, struct.pack("<IQ", ARRAY, 2))), "unknown type 9"),
        (file(pair("a", 77, b"")), "unknown type 77"),
        (file(BLOCK_COUNT, BLOCK_COUNT), "doubled"),
        (file(pair("a\nb", U32, bytes(4))), "not printable"),
        (file(BLOCK_COUNT, claimed=2), "the header claims|ends inside"),
        (file(tensors=text("x") + struct.pack("<I", 99), count=1), "99 axes"),
        (file(count=3, tensors=TENSOR), "the header claims|ends inside"),
    ],
)
def test_a_hostile_header_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        whole(data)


def test_a_type_of_tensor_that_is_not_known_has_no_size() -> None:
    tensor = text("x") + struct.pack("<IQIQ", 1, 10, 999, 0)
    assert whole(file(tensors=tensor, count=1)).tensors[0].size is None


def test_the_longest_text_is_cut_and_a_long_array_is_counted() -> None:
    long = pair("tokenizer.chat_template", STRING, text("x" * 100_000))
    scores = pair("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", 6, 5000) + bytes(20_000))
    header = whole(file(long, scores))
    assert header.metadata == {"tokenizer.chat_template": "x" * 4096}
    assert header.lengths == {"tokenizer.ggml.scores": 5000}


@given(st.binary(max_size=300), st.integers(0, 1 << 40))
def test_any_bytes_are_a_header_or_an_error(data: bytes, size: int) -> None:
    for text_ in (data, b"GGUF" + data, file() + data):
        try:
            header = parse(text_, max(size, len(text_)))
        except GgufError:
            continue
        assert isinstance(header, Header)


VALUES = st.one_of(
    st.integers(0, (1 << 32) - 1).map(lambda number: (U32, struct.pack("<I", number), number)),
    st.text(max_size=50).map(lambda word: (STRING, text(word), word)),
    st.booleans().map(lambda value: (7, struct.pack("<?", value), value)),
)


@given(st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9_.]{0,20}\Z"), VALUES, max_size=8), st.integers(0, 400))
def test_every_prefix_of_a_header_has_a_part_of_its_metadata(pairs: dict[str, Any], cut: int) -> None:
    data = file(*(pair(key, kind, value) for key, (kind, value, _) in pairs.items()))
    expected = {key: value for key, (_, _, value) in pairs.items()}
    assert whole(data).metadata == expected
    header = parse(data[: max(1, min(cut, len(data)))], len(data))
    assert header.metadata.items() <= expected.items()


def test_blocks_hold_whole_bytes() -> None:
    assert all(values > 0 and size > 0 for values, size in BLOCKS.values())


def test_the_simulated_server_shows_the_metadata_of_its_file() -> None:
    model = ollama_store.CATALOGUE["deepseek-r1:671b"]
    shown = ollama_gguf.metadata({**vars(model)}, "deepseek2", 671 * 10**9)
    assert shown["deepseek2.attention.kv_lora_rank"] == 512
    assert shown["general.description"] == "SIMULATED by the provision lab"
