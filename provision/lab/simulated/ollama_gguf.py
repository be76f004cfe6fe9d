"""The header of simulated weights: GGUF as a real file begins, with the measures and the sizes of the real model.

The tensors have the sizes of the real model together; the bytes behind the header are few, and no weights.
"""

import struct
from collections.abc import Iterator
from typing import Any

_U32, _TEXT, _U64 = 4, 8, 10
_Q4_K, _Q6_K, _I8 = 12, 14, 24
_VOCABULARY = {"llama": 128256, "deepseek2": 129280, "nomic-bert": 30522}
_USUAL = 151936
NOTE = "SIMULATED by the provision lab"
Facts = dict[str, Any]


def metadata(facts: Facts, family: str, parameters: int) -> dict[str, Any]:
    """The metadata of a model, as its file and /api/show have them.

    Args:
        facts: the measures of the model.
        family: architecture of the model.
        parameters: number of parameters.
    """
    heads = max(facts["kv_heads"], facts["embedding"] // facts["head_dim"])
    is_latent = family == "deepseek2"  # the cache of such a model holds 512 + 64 values for a token and block
    key, value = (576, 512) if is_latent else (facts["head_dim"], facts["head_dim"])
    sizes = {"attention.kv_lora_rank": 512, "attention.key_length_mla": 192, "attention.value_length_mla": 128}
    latent = {f"{family}.{key}": size for key, size in {**sizes, "rope.dimension_count": 64}.items()}
    pooling = {f"{family}.pooling_type": 1} if "embedding" in facts["capabilities"] else {}
    pairs = {
        "general.architecture": family,
        "general.description": NOTE,
        "general.parameter_count": parameters,
        f"{family}.attention.head_count": 128 if is_latent else heads,
        f"{family}.attention.head_count_kv": facts["kv_heads"],
        f"{family}.attention.key_length": key,
        f"{family}.attention.value_length": value,
        f"{family}.block_count": facts["layers"],
        f"{family}.context_length": facts["trained_context"],
        f"{family}.embedding_length": facts["embedding"],
        f"{family}.vocab_size": _VOCABULARY.get(family, _USUAL),
        **(latent if is_latent else {}),
        **pooling,
    }
    return dict(sorted(pairs.items()))


def header(name: str, facts: Facts, family: str, parameters: int) -> bytes:
    """The first bytes of the weights of a model.

    Args:
        name: of the model.
        facts, family, parameters: as for `metadata`.
    """
    pairs = {**metadata(facts, family, parameters), "general.name": f"{NOTE}: not the weights of {name}\n"}
    tensors = list(_tensors(facts, family))
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(pairs))]
    for key, value in sorted(pairs.items()):
        out += [_text(key), *_value(key, value)]
    offset = 0
    for tensor, shape, kind, size in tensors:
        out += [_text(tensor), struct.pack(f"<I{len(shape)}Q", len(shape), *shape), struct.pack("<IQ", kind, offset)]
        offset += -(-size // 32) * 32
    return b"".join(out)


def _value(key: str, value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        yield struct.pack("<I", _TEXT) + _text(value)
    elif key == "general.parameter_count":
        yield struct.pack("<IQ", _U64, value)
    else:
        yield struct.pack("<II", _U32, value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _tensors(facts: Facts, family: str) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Name, shape, type and bytes of each tensor. The blocks have the bytes that are left."""
    width, words = facts["embedding"], _VOCABULARY.get(family, _USUAL)
    values = width * words
    first, last = values // 256 * 144, values // 256 * 210
    yield "token_embd.weight", (width, words), _Q4_K, first
    rest = max(facts["layers"], facts["size"] - first - last - 4 * width)
    for block in range(facts["layers"]):
        size = rest // facts["layers"] + (rest % facts["layers"] if block == 0 else 0)
        yield f"blk.{block}.ffn_down.weight", (size,), _I8, size
    yield "output_norm.weight", (width,), 0, 4 * width
    yield "output.weight", (width, words), _Q6_K, last
