"""The memory that a model needs on cards, in terms of bytes. An estimate: no server was asked.

The formulae are those of llama.cpp's cache and graph; docs/facts.md#memory-of-a-model has the sources. No constant is
fitted to a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from provision.capacity import architectures
from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions
from provision.capacity.graph import Shape, compute_buffer

MIB = 1 << 20
GIB = 1 << 30
CACHE_TYPES = {"f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
"""Type of the cache -> numbers of a block, bytes of a block. Source: llama.cpp `ggml/src/ggml-common.h`."""
BATCH = 512
"""Tokens of a prompt that the server computes at once; with free memory to spare the server takes more, and goes back
to 512 where more has no room. Source: ollama `server/sched.go` `automaticGenerationBatch`."""
CONTEXT_STEP = 256
"""llama.cpp rounds the context of a slot up to a multiple. Source: llama.cpp `src/llama-context.cpp`."""
CUDA_CONTEXT = 457 * MIB
"""Memory of a card that a process takes before any model. Source: ollama `ml/device.go` `MinimumMemory`."""
MARGIN = 1024 * MIB
"""llama.cpp keeps so much of every card free, and moves layers to the CPU else (`LLAMA_ARG_FIT_TARGET`)."""
_STATE_BYTES = 4


@dataclass(frozen=True)
class Request:
    """What a model has to serve.

    Args:
        context: tokens of one request, with its answer.
        parallel: requests that are answered at once; each has a context of its own.
        cache_type: numbers of the cache: `f16`, `q8_0` or `q4_0`.
        batch: tokens of a prompt that are computed at once.
    """

    context: int
    parallel: int = 1
    cache_type: str = "f16"
    batch: int = BATCH

    def __post_init__(self) -> None:
        """Refuse what no server can do.

        Raises:
            ValueError: a count below 1, or an unknown type of the cache.
        """
        if min(self.context, self.parallel, self.batch) < 1:
            raise ValueError(f"context, parallel and batch are at least 1: {self}")
        if self.cache_type not in CACHE_TYPES:
            raise ValueError(f"no such cache type: {self.cache_type}")


@dataclass(frozen=True)
class Estimate:
    """The memory that a model needs on one card, in bytes.

    Args:
        weights: of the layers on the card.
        kv_cache: of the layers on the card: keys, values and recurrent states of all slots.
        compute: for the work on a batch.
        cuda_context: of the process.
        margin: stays free.
    """

    weights: int
    kv_cache: int
    compute: int
    cuda_context: int
    margin: int

    @property
    def total(self) -> int:
        """Bytes that have to be free on the card."""
        return self.weights + self.kv_cache + self.compute + self.cuda_context + self.margin


def estimate(dimensions: Dimensions, request: Request, card: Card | None = None) -> Estimate:
    """Return the memory that a model needs if all of the model is on one card.

    Args:
        dimensions: of the model.
        request: what to serve.
        card: the card; today no term depends on the card.
    """
    return Estimate(
        weights=dimensions.weights.on_cards,
        kv_cache=sum(cache_of_blocks(dimensions, request)),
        compute=compute(dimensions, request),
        cuda_context=CUDA_CONTEXT,
        margin=MARGIN,
    )


def slots(dimensions: Dimensions, request: Request) -> int:
    """Return the number of requests that the server answers at once: some architectures have one slot only."""
    return 1 if dimensions.architecture in architectures.ONE_SLOT else request.parallel


def cache_type(dimensions: Dimensions, request: Request) -> str:
    """Return the type of the cache that the server takes: always f16 for a model without flash attention.

    Source: ollama 0.17 `llm/server.go` `NewLlamaServer`; docs/facts.md#memory-of-a-model.

    Args:
        dimensions: of the model.
        request: the wish.
    """
    return request.cache_type if dimensions.flash_attention else "f16"


def with_own_context(dimensions: Dimensions, request: Request) -> Request:
    """Return the wish with the context by the model's own parameters, if any: they win over the server's setting.

    Source: ollama 0.33 `server/routes.go` `modelOptions`.

    Args:
        dimensions: of the model.
        request: the wish.
    """
    return replace(request, context=dimensions.own_context) if dimensions.own_context else request


def context_of_slot(dimensions: Dimensions, request: Request) -> int:
    """Return the context of a slot in tokens: cut to the training context, then rounded up.

    Source: ollama `llm/server.go` `NewLlamaServer`; llama.cpp `src/llama-context.cpp` `n_ctx_seq`.
    """
    wanted = min(request.context, dimensions.training_context or request.context)
    return _padded(wanted)


def cache_of_blocks(dimensions: Dimensions, request: Request) -> tuple[int, ...]:
    """Return the bytes of the cache of each block, of all slots.

    Source: llama.cpp `src/llama-kv-cache.cpp`, `src/llama-kv-cache-iswa.cpp`.

    Args:
        dimensions: of the model.
        request: what to serve.
    """
    many, kind = slots(dimensions, request), cache_type(dimensions, request)
    whole = context_of_slot(dimensions, request)
    window = _window_cells(dimensions, request)
    sizes = []
    for number, heads in enumerate(dimensions.kv_heads):
        cells = window if dimensions.windowed and dimensions.windowed[number] else whole
        if number >= dimensions.cached_blocks:
            sizes.append(0)
        elif not heads:
            sizes.append(dimensions.recurrent_state * _STATE_BYTES * many)
        else:
            sizes.append(cells * many * _cell_bytes(dimensions, heads, kind))
    return tuple(sizes)


def compute(dimensions: Dimensions, request: Request) -> int:
    """Return the bytes of the compute buffer: what the tensors of a batch take in ggml's allocator.

    Source: `provision/capacity/graph.py`.

    Args:
        dimensions: of the model.
        request: what to serve.
    """
    context = context_of_slot(dimensions, request)
    query, answer = _query_lengths(dimensions)
    heads = 1 if dimensions.mla else max(dimensions.kv_heads)
    return compute_buffer(
        Shape(
            tokens=min(request.batch, context * slots(dimensions, request)),
            cells=context,
            window_cells=_window_cells(dimensions, request),
            windowed=dimensions.windowed or (False,) * dimensions.block_count,
            flash_attention=dimensions.flash_attention,
            embedding=dimensions.embedding,
            heads=dimensions.heads,
            query=query,
            answer=answer,
            keys=heads * query,
            values=heads * answer,
            inner=dimensions.feed_forward,
            experts_used=dimensions.experts_used,
            vocabulary=dimensions.vocabulary,
        )
    )


def split(dimensions: Dimensions, request: Request, cards: Sequence[Card]) -> tuple[Estimate, ...] | None:
    """Return the need of each card if the layers of a model are spread over cards, or None if the layers have no room.

    Layers are whole, and stay in their order. Each card has a compute buffer and a process context of its own.
    Source: docs/facts.md#memory-of-a-model, "several cards".

    Args:
        dimensions: of the model.
        request: what to serve.
        cards: the cards, in the order of the server.
    """
    need = estimate(dimensions, request)
    rooms = [card.free - need.compute - need.cuda_context - need.margin for card in cards]
    caches = cache_of_blocks(dimensions, request)
    layers = [*zip(dimensions.weights.blocks, caches, strict=True), (dimensions.weights.output, 0)]
    layers[0] = (layers[0][0] + dimensions.weights.projector, layers[0][1])
    shares = [[0, 0] for _ in cards]
    card = 0
    for weights, cache in layers:
        while card < len(cards) and sum(shares[card]) + weights + cache > rooms[card]:
            card += 1
        if card == len(cards):
            return None
        shares[card][0] += weights
        shares[card][1] += cache
    return tuple(Estimate(weights, cache, need.compute, CUDA_CONTEXT, MARGIN) for weights, cache in shares)


def _padded(tokens: int) -> int:
    return math.ceil(tokens / CONTEXT_STEP) * CONTEXT_STEP


def _window_cells(dimensions: Dimensions, request: Request) -> int:
    """Return the tokens that a block with a sliding window keeps for a slot; 0 without windows."""
    if not dimensions.sliding_window or not any(dimensions.windowed):
        return 0
    whole = context_of_slot(dimensions, request)
    return _padded(min(whole, dimensions.sliding_window + request.batch))


def _cell_bytes(dimensions: Dimensions, heads: int, kind: str) -> int:
    """Return the bytes of one token in one block. With MLA the values are a part of the keys."""
    if dimensions.mla:
        return _row(dimensions.kv_rank + dimensions.rope_length, kind)
    return _row(heads * dimensions.key_length, kind) + _row(heads * dimensions.value_length, kind)


def _row(numbers: int, kind: str) -> int:
    per_block, size = CACHE_TYPES[kind]
    return math.ceil(numbers / per_block) * size


def _query_lengths(dimensions: Dimensions) -> tuple[int, int]:
    """Return the numbers of a query and of an answer of one head."""
    if dimensions.mla:
        return dimensions.kv_rank + dimensions.rope_length, dimensions.kv_rank
    return dimensions.key_length, dimensions.value_length
