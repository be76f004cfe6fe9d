"""The dimensions of a model that decide how much memory the model needs, from the metadata of its GGUF file.

Every value of a file, a host or a registry is hostile: a count outside its bounds is refused with its key.
Sources of the keys and of their meaning: docs/facts.md#memory-of-a-model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from provision.capacity import architectures
from provision.errors import GuardError

Source = Literal["gguf", "host", "table"]

MOST_BLOCKS = 4096
MOST_HEADS = 1 << 16
MOST_WIDTH = 1 << 24
MOST_CONTEXT = 1 << 30
MOST_VOCABULARY = 1 << 24
MOST_BYTES = 1 << 50
MOST_TENSORS = 1 << 20
LARGEST_VOCABULARY = 262_144
"""Of the common models, gemma3's is the largest vocabulary; taken where the metadata tell none."""


class MetadataError(GuardError):
    """The metadata of a model cannot be used: a key is missing, or a value is outside its bounds."""


@dataclass(frozen=True)
class Weights:
    """The bytes of a model's weights, by place.

    Args:
        blocks: bytes of each block.
        output: bytes of the last layer, which turns the last block into tokens. The last layer of a model without a
            layer of its own is a copy of the input table.
        input: bytes of the table of tokens, which stays in the host's memory.
        projector: bytes of the part that reads pictures and sound.
    """

    blocks: tuple[int, ...]
    output: int = 0
    input: int = 0
    projector: int = 0

    @property
    def on_cards(self) -> int:
        """Bytes in the memory of cards if the whole model runs there."""
        return sum(self.blocks) + self.output + self.projector


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of a model.

    Args:
        name: the model, for people.
        architecture: such as `qwen2`.
        weights: bytes by place.
        embedding: length of a token's vector.
        heads: the most attention heads of a block.
        kv_heads: key and value heads of each block; 0 for a block without attention.
        key_length: numbers of a key of one head.
        value_length: numbers of a value of one head.
        feed_forward: the widest inner vector of a block, of all experts that work on one token.
        vocabulary: number of tokens in the table.
        training_context: the longest context in tokens; 0 where unknown.
        sliding_window: tokens that a block of a sliding window keeps; 0 without windows.
        windowed: whether each block keeps a sliding window only.
        cached_blocks: number of blocks, from the first, with a cache of their own.
        kv_rank: numbers of the compressed key of MLA; 0 without MLA in the file.
        rope_length: numbers of the key's part with positions, of MLA.
        recurrent_state: numbers of 4 bytes that a block without attention keeps for each slot.
        experts: number of experts; 0 for a dense model.
        experts_used: experts that work on one token.
        parameters: number of weights; 0 where unknown.
        own_context: tokens of context of a request by the model's own parameters (`num_ctx`); 0 without.
        own_unread: whether the model has parameters of its own that nobody sent, so that `own_context` is unknown.
        source: the origin: a GGUF header, a host's server, or our table.
    """

    name: str
    architecture: str
    weights: Weights
    embedding: int
    heads: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    feed_forward: int
    vocabulary: int
    training_context: int
    sliding_window: int = 0
    windowed: tuple[bool, ...] = ()
    cached_blocks: int = 0
    kv_rank: int = 0
    rope_length: int = 0
    recurrent_state: int = 0
    experts: int = 0
    experts_used: int = 0
    parameters: int = 0
    own_context: int = 0
    own_unread: bool = False
    source: Source = "gguf"

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return len(self.kv_heads)

    @property
    def mla(self) -> bool:
        """Whether the cache holds compressed keys (multi-head latent attention)."""
        return self.kv_rank > 0

    @property
    def flash_attention(self) -> bool:
        """Whether the server can use flash attention, and with it a quantised cache.

        Source: ollama `fs/ggml/ggml.go` `SupportsFlashAttention`.
        """
        if self.architecture in architectures.WITHOUT_FLASH_ATTENTION:
            return False
        return self.mla or self.key_length == self.value_length

    @property
    def quantisable(self) -> bool:
        """Whether the cache can be `q8_0` or `q4_0`: by flash attention, with whole blocks of 32 numbers in a head.

        Source: llama.cpp `src/llama-context.cpp` `llama_init_from_model`.
        """
        return self.flash_attention and (self.mla or self.key_length % 32 == self.value_length % 32 == 0)


@dataclass(frozen=True)
class _Keys:
    """Bounded reads of metadata whose keys begin with the architecture."""

    values: Mapping[str, object]
    architecture: str = field(default="")

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def count(self, key: str, most: int, default: int | None = None) -> int:
        """Return a count of at least 0; without a default the key is needed and the count at least 1."""
        value = self.values.get(self.name(key))
        if value is None:
            if default is None:
                raise MetadataError(f"the model's metadata have no {self.name(key)}")
            return default
        return bounded(self.name(key), value, 0 if default is not None else 1, most)

    def counts(self, key: str, blocks: int, most: int, default: int | None = None) -> tuple[int, ...]:
        """Return a count of each block, from one count for all or a list."""
        value = self.values.get(self.name(key))
        if value is None and default is not None:
            return (default,) * blocks
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if len(value) != blocks:
                raise MetadataError(f"{self.name(key)} has {len(value)} entries for {blocks} blocks")
            return tuple(bounded(self.name(key), item, 0, most) for item in value)
        return (self.count(key, most),) * blocks


def bounded(key: str, value: object, least: int, most: int) -> int:
    """Return a count of hostile metadata.

    Args:
        key: the key, for the message.
        value: the value.
        least: the least valid count.
        most: the largest valid count.

    Raises:
        MetadataError: the value is no whole number, or outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise MetadataError(f"{key[:120]} is no whole number: {repr(value)[:60]}")
    if not least <= value <= most:
        raise MetadataError(f"{key[:120]} is {str(value)[:30]}, and not between {least} and {most}")
    return value


def from_metadata(
    values: Mapping[str, object],
    *,
    tensors: Mapping[str, int] | None = None,
    weight_bytes: int = 0,
    name: str = "",
    source: Source = "gguf",
) -> Dimensions:
    """Return the dimensions of a model from the keys of its GGUF file; `/api/show` has the same keys.

    Args:
        values: key -> value, such as `qwen2.block_count` -> 64. Of a long list such as the tokens, the number of
            entries is enough.
        tensors: name of each tensor -> bytes; None where nobody told.
        weight_bytes: bytes of all tensors or of the file, used without `tensors`.
        name: the model, for people.
        source: the origin of the values.

    Raises:
        MetadataError: a needed key is missing, or a value is outside its bounds.
    """
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not 0 < len(architecture) <= 64:
        raise MetadataError("the model's metadata have no usable general.architecture")
    keys = _Keys(values, architecture)
    blocks = keys.count("block_count", MOST_BLOCKS)
    embedding = keys.count("embedding_length", MOST_WIDTH)
    heads = max(keys.counts("attention.head_count", blocks, MOST_HEADS, default=1))
    head_length = embedding // max(heads, 1)
    window = keys.count("attention.sliding_window", MOST_CONTEXT, default=0)
    windowed = architectures.windowed(architecture, blocks, window, values.get(keys.name(architectures.PATTERN)))
    mla = keys.count("attention.key_length_mla", MOST_WIDTH, default=0) > 0
    return Dimensions(
        name=name,
        architecture=architecture,
        weights=_weights(blocks, tensors, weight_bytes),
        embedding=embedding,
        heads=heads,
        kv_heads=_kv_heads(keys, blocks, heads),
        key_length=keys.count("attention.key_length", MOST_WIDTH, default=head_length),
        value_length=keys.count("attention.value_length", MOST_WIDTH, default=head_length),
        feed_forward=_feed_forward(keys, blocks, embedding),
        vocabulary=_vocabulary(keys),
        training_context=keys.count("context_length", MOST_CONTEXT, default=0),
        sliding_window=architectures.window(architecture, window) if any(windowed) else 0,
        windowed=windowed,
        cached_blocks=_cached_blocks(keys, blocks),
        kv_rank=keys.count("attention.kv_lora_rank", MOST_WIDTH, default=0) if mla else 0,
        rope_length=keys.count("rope.dimension_count", MOST_WIDTH, default=0),
        recurrent_state=_recurrent_state(keys),
        experts=keys.count("expert_count", MOST_HEADS, default=0),
        experts_used=keys.count("expert_used_count", MOST_HEADS, default=0),
        parameters=_parameters(values),
        source=source,
    )


def _weights(blocks: int, tensors: Mapping[str, int] | None, weight_bytes: int) -> Weights:
    """Return the bytes by place. Without a list of tensors every byte counts as a block's: the estimate is too high by
    the table of tokens, and never too low."""
    if tensors is None:
        total = bounded("bytes of the weights", weight_bytes, 1, MOST_BYTES)
        share, rest = divmod(total, blocks)
        return Weights((*(share,) * (blocks - 1), share + rest))
    if not 1 <= len(tensors) <= MOST_TENSORS:
        raise MetadataError(f"the model has {len(tensors)} tensors, and not between 1 and {MOST_TENSORS}")
    own = [0] * blocks
    table = output = projector = 0
    for tensor, size in tensors.items():
        size = bounded(f"bytes of tensor {tensor[:60]}", size, 0, MOST_BYTES)
        prefix, _, inside = tensor.partition(".")
        number = inside.partition(".")[0]
        if prefix == "blk" and len(number) < 6 and number.isascii() and number.isdigit():
            own[min(int(number), blocks - 1)] += size
        elif prefix == "token_embd":
            table += size
        elif prefix in ("v", "mm", "a"):
            projector += size
        else:
            output += size
    if "output.weight" not in tensors:
        output += table
    return Weights(tuple(own), output, table, projector)


def _kv_heads(keys: _Keys, blocks: int, heads: int) -> tuple[int, ...]:
    """Return the key and value heads of each block; some architectures have attention in every n-th block only."""
    counts = keys.counts("attention.head_count_kv", blocks, MOST_HEADS, default=heads)
    every = keys.count("full_attention_interval", MOST_BLOCKS, default=0)
    if every:
        return tuple(count if (number + 1) % every == 0 else 0 for number, count in enumerate(counts))
    return counts


def _feed_forward(keys: _Keys, blocks: int, embedding: int) -> int:
    """Return the widest inner vector of a block: dense, or that of all experts that work on one token."""
    dense = max(keys.counts("feed_forward_length", blocks, MOST_WIDTH, default=4 * embedding))
    used = keys.count("expert_used_count", MOST_HEADS, default=0) + keys.count("expert_shared_count", 1024, default=0)
    return max(dense, used * keys.count("expert_feed_forward_length", MOST_WIDTH, default=dense if used else 0))


def _vocabulary(keys: _Keys) -> int:
    """Return the number of tokens, from the table of tokens or the key of the architecture."""
    tokens = keys.values.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Sequence) and not isinstance(tokens, str | bytes):
        tokens = len(tokens)
    if tokens:
        return bounded("tokenizer.ggml.tokens", tokens, 1, MOST_VOCABULARY)
    return keys.count("vocab_size", MOST_VOCABULARY, default=LARGEST_VOCABULARY) or LARGEST_VOCABULARY


def _cached_blocks(keys: _Keys, blocks: int) -> int:
    """Return the number of blocks with a cache of their own: later blocks of some architectures read an earlier
    block's."""
    own = architectures.CACHED_BLOCKS.get(keys.architecture, blocks)
    shared = keys.count("attention.shared_kv_layers", MOST_BLOCKS, default=0)
    return max(min(own, blocks - shared), 1)


def _recurrent_state(keys: _Keys) -> int:
    """Return the numbers that a recurrent block keeps for each slot. Source: llama.cpp `src/llama-hparams.cpp`
    `n_embd_r`, `n_embd_s`."""
    kernel = keys.count("ssm.conv_kernel", MOST_WIDTH, default=0)
    state = keys.count("ssm.state_size", MOST_WIDTH, default=0)
    inner = keys.count("ssm.inner_size", MOST_WIDTH, default=0)
    groups = keys.count("ssm.group_count", MOST_WIDTH, default=0)
    return max(kernel - 1, 0) * (inner + 2 * groups * state) + state * inner


def _parameters(values: Mapping[str, object]) -> int:
    count = values.get("general.parameter_count")
    return 0 if count is None else bounded("general.parameter_count", count, 0, MOST_BYTES)
