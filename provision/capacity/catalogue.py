"""DeepSeek-R1 1.5b to 671b: dimensions by the real configurations, for a model that nobody has asked yet.

Sources: config.json of each model, and the sizes of the library's files; docs/facts.md#deepseek-r1.
"""

from __future__ import annotations

from dataclasses import dataclass

from provision.capacity.dimensions import Dimensions, Weights

Q4_K_M, Q8_0, F16 = "Q4_K_M", "Q8_0", "F16"
QUANTISATIONS = (Q4_K_M, Q8_0, F16)
_Q8_0 = (32, 34)
_F16 = (1, 2)
_Q4_K = (256, 144)
_Q6_K = (256, 210)
"""Numbers of a block, bytes of a block. Source: llama.cpp `ggml/src/ggml-common.h`."""


@dataclass(frozen=True)
class Model:
    """A model of the table.

    Args:
        name: the name in the library.
        architecture: of the file.
        q4_bytes: bytes of the library's file of Q4_K_M.
        blocks: number of blocks.
        embedding: length of a token's vector.
        heads: attention heads.
        kv_heads: key and value heads.
        key_length: numbers of a key of one head.
        value_length: numbers of a value of one head.
        feed_forward: inner vector of a block; of a block without experts where some have experts.
        vocabulary: number of tokens.
        training_context: the longest context in tokens.
        block_parameters: numbers of all weights in blocks.
        experts: number of experts.
        experts_used: experts that work on one token, the shared expert counted.
        expert_feed_forward: inner vector of an expert.
    """

    name: str
    architecture: str
    q4_bytes: int
    blocks: int
    embedding: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    feed_forward: int
    vocabulary: int
    training_context: int
    block_parameters: int
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 0

    @property
    def table(self) -> int:
        """Numbers of the table of tokens; the last layer has as many."""
        return self.embedding * self.vocabulary

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.block_parameters + 2 * self.table + self.embedding


def _dense(embedding: int, heads: int, kv_heads: int, head: int, feed_forward: int, blocks: int, extra: int) -> int:
    """Return the numbers of all weights in blocks without experts; `extra` are biases and norms of heads of a block."""
    attention = embedding * head * (2 * heads + 2 * kv_heads)
    return blocks * (attention + 3 * embedding * feed_forward + 2 * embedding + extra)


def _biases(heads: int, kv_heads: int, head: int) -> int:
    return head * (heads + 2 * kv_heads)


def _mixture() -> int:
    """Return the numbers of all weights in the 61 blocks of the 671b."""
    wide, heads, query, rank, nope, rope, value = 7168, 128, 1536, 512, 128, 64, 128
    attention = wide * query + query * heads * (nope + rope) + wide * (rank + rope)
    attention += rank * heads * (nope + value) + heads * value * wide + query + rank + 2 * wide
    expert = 3 * wide * 2048
    return 61 * attention + 3 * 3 * wide * 18432 + 58 * (257 * expert + 256 * wide + 256)


def _models() -> tuple[Model, ...]:
    def dense(name: str, kind: str, size: int, shape: tuple[int, ...], vocabulary: int, context: int) -> Model:
        blocks, embedding, heads, kv_heads, feed_forward = shape
        head = 128
        extra = {"qwen2": _biases(heads, kv_heads, head), "qwen3": 2 * head, "llama": 0}[kind]
        numbers = _dense(embedding, heads, kv_heads, head, feed_forward, blocks, extra)
        return Model(
            name, kind, size, blocks, embedding, heads, kv_heads, head, head, feed_forward, vocabulary, context, numbers
        )

    return (
        dense("deepseek-r1:1.5b", "qwen2", 1_117_322_599, (28, 1536, 12, 2, 8960), 151_936, 131_072),
        dense("deepseek-r1:7b", "qwen2", 4_683_075_271, (28, 3584, 28, 4, 18944), 152_064, 131_072),
        dense("deepseek-r1:8b", "qwen3", 5_225_376_000, (36, 4096, 32, 8, 12288), 151_936, 131_072),
        dense("deepseek-r1:14b", "qwen2", 8_988_112_040, (48, 5120, 40, 8, 13824), 152_064, 131_072),
        dense("deepseek-r1:32b", "qwen2", 19_851_337_640, (64, 5120, 40, 8, 27648), 152_064, 131_072),
        dense("deepseek-r1:70b", "llama", 42_520_400_000, (80, 8192, 64, 8, 28672), 128_256, 131_072),
        Model(
            "deepseek-r1:671b",
            "deepseek2",
            404_430_188_519,
            61,
            7168,
            128,
            128,
            192,
            128,
            18432,
            129_280,
            163_840,
            _mixture(),
            experts=256,
            experts_used=9,
            expert_feed_forward=2048,
        ),
    )


MODELS = {model.name: model for model in _models()}
"""Name in the library -> model."""
_VARIANTS = {"8b": "0528-qwen3", "70b": "llama-distill", "671b": "0528"}
"""Size -> the word of the library's longer tags, such as `8b-0528-qwen3-q8_0`; of other sizes `qwen-distill`."""
_TAGS = {"q4_K_M": Q4_K_M, "q8_0": Q8_0, "fp16": F16}


def _names() -> dict[str, tuple[str, str]]:
    """Return every name of the library -> model, quantisation."""
    found = {name: (name, Q4_K_M) for name in MODELS}
    for name in MODELS:
        size = name.partition(":")[2]
        variant = f"{name}-{_VARIANTS.get(size, 'qwen-distill')}"
        found.update({f"{variant}-{tag}": (name, kind) for tag, kind in _TAGS.items()})
    return {**found, "deepseek-r1": found["deepseek-r1:8b"], "deepseek-r1:latest": found["deepseek-r1:8b"]}


NAMES = _names()
"""Every name of the library -> model, quantisation."""


def dimensions(name: str, quantisation: str = "") -> Dimensions | None:
    """Return the dimensions of a model of the table, or None if the table has no such model.

    Args:
        name: the name in the library, such as `deepseek-r1:32b`.
        quantisation: `Q4_K_M`, `Q8_0` or `F16`; empty for that of the name.
    """
    if name not in NAMES:
        return None
    known, own = NAMES[name]
    model, quantisation = MODELS[known], quantisation or own
    suffix = "" if quantisation == Q4_K_M else f" {quantisation}"
    return Dimensions(
        name=model.name + suffix,
        architecture=model.architecture,
        weights=_weights(model, quantisation),
        embedding=model.embedding,
        heads=model.heads,
        kv_heads=(model.kv_heads,) * model.blocks,
        key_length=model.key_length,
        value_length=model.value_length,
        feed_forward=max(model.feed_forward, model.experts_used * model.expert_feed_forward),
        vocabulary=model.vocabulary,
        training_context=model.training_context,
        windowed=(False,) * model.blocks,
        cached_blocks=model.blocks,
        experts=model.experts,
        experts_used=max(model.experts_used - 1, 0),
        parameters=model.parameters,
        source="table",
    )


def _weights(model: Model, quantisation: str) -> Weights:
    """Return the bytes by place. The file of Q4_K_M mixes types: its blocks have what table and last layer leave."""
    if quantisation == Q4_K_M:
        table, output = _size(model.table, _Q4_K), _size(model.table, _Q6_K)
        blocks = model.q4_bytes - table - output
    else:
        kind = _Q8_0 if quantisation == Q8_0 else _F16
        table = output = _size(model.table, kind)
        blocks = _size(model.block_parameters, kind)
    share, rest = divmod(blocks, model.blocks)
    return Weights((*(share,) * (model.blocks - 1), share + rest), output, table)


def _size(numbers: int, kind: tuple[int, int]) -> int:
    return numbers * kind[1] // kind[0]
