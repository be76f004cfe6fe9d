"""The tensors of a batch of tokens in a transformer, and the bytes of their buffer (the "compute buffer" of a log).

Every architecture gets the graph of a llama: norms and biases work in place, and change nothing. Experts stand for all
that work on one token. Source: llama.cpp `src/models/llama.cpp`, `src/llama-graph.cpp` (`build_attn_mha`, `build_ffn`)
as in ollama 0.17.4; `llama_context` reserves the buffer for a full batch with a result for each of its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from provision.capacity.allocator import Graph, Tensor

_FLOAT, _HALF, _INDEX, _POSITION = 4, 2, 8, 4
_ALIKE, _WINDOWED = 12, 60
"""Numbers of blocks by whose multiple a longer model is cut: a block finds the gaps of the last block but one, and of
the same place in a pattern of windows. 60 is a multiple of every known pattern."""


@dataclass(frozen=True)
class Shape:
    """The numbers that decide the tensors.

    Args:
        tokens: tokens of a batch.
        cells: tokens of context of a slot.
        window_cells: tokens that a block with a sliding window keeps.
        windowed: whether each block keeps a sliding window only.
        flash_attention: whether the server computes attention without a table of scores.
        embedding: numbers of a token's vector.
        heads: heads of a query.
        query: numbers of a head's query.
        answer: numbers of a head's answer.
        keys: numbers of a token's keys, of all heads.
        values: numbers of a token's values, of all heads.
        inner: numbers of the widest vector of a block.
        experts_used: experts that work on one token; 0 for a dense model.
        vocabulary: number of tokens in the table.
    """

    tokens: int
    cells: int
    window_cells: int
    windowed: tuple[bool, ...]
    flash_attention: bool
    embedding: int
    heads: int
    query: int
    answer: int
    keys: int
    values: int
    inner: int
    experts_used: int
    vocabulary: int


@lru_cache(maxsize=1024)
def compute_buffer(shape: Shape, *, cut: bool = True) -> int:
    """Return the bytes of the compute buffer.

    Args:
        shape: the numbers of the model and of the wish.
        cut: whether to leave out blocks that change nothing.
    """
    work = _Work(shape)
    blocks = shape.windowed
    period = _WINDOWED if any(blocks) else _ALIKE
    if cut and len(blocks) > 2 * period:
        blocks = (*blocks[: period + (len(blocks) - 1) % period], blocks[-1])
    stream = Tensor(work.floats(shape.embedding), [_weights(), work.input(_POSITION * shape.tokens)])
    for number, windowed in enumerate(blocks):
        stream = work.block(stream, windowed=windowed, last=number == len(blocks) - 1)
    work.graph.add(Tensor(work.floats(shape.vocabulary), [_weights(), work.norm(stream)]))
    return work.graph.buffer()


def _weights() -> Tensor:
    return Tensor(0, outside=True)


@dataclass(frozen=True)
class _Attention:
    """The inputs of the blocks of one kind: where keys and values go, and which tokens see which."""

    keys_at: Tensor
    values_at: Tensor
    mask: Tensor
    cells: int


class _Work:
    """A graph that grows block by block."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.graph = Graph()
        self.positions = self.input(_POSITION * shape.tokens)
        self.results = self.input(_POSITION * shape.tokens)
        self.kinds = {kind: self._attention(kind) for kind in (False, True)}

    def floats(self, numbers: int) -> int:
        """Return the bytes of so many numbers for each token."""
        return _FLOAT * self.shape.tokens * numbers

    def input(self, size: int) -> Tensor:
        return Tensor(size)

    def norm(self, tensor: Tensor) -> Tensor:
        """Return a vector after a norm and its weights."""
        return Tensor(tensor.size, [Tensor(tensor.size, [tensor], in_place=True), _weights()], in_place=True)

    def block(self, stream: Tensor, *, windowed: bool, last: bool) -> Tensor:
        """Add a block: attention and the feed-forward part, each added to the stream."""
        answer = self._attend(self.norm(stream), self.kinds[windowed])
        cut = Tensor(answer.size, [answer, self.results]) if last else answer
        kept = Tensor(stream.size, [stream, self.results]) if last else stream
        middle = Tensor(stream.size, [cut, kept], in_place=True)
        return Tensor(stream.size, [self._feed_forward(self.norm(middle)), middle], in_place=True)

    def _attention(self, windowed: bool) -> _Attention:
        shape = self.shape
        cells = shape.window_cells if windowed else shape.cells
        mask = self.input(_FLOAT * shape.tokens * cells)
        row = 1 if shape.flash_attention else shape.values
        keys_at, values_at = self.input(_INDEX * shape.tokens), self.input(_INDEX * shape.tokens * row)
        if shape.flash_attention:
            mask = Tensor(_HALF * shape.tokens * cells, [mask])
        return _Attention(keys_at, values_at, mask, cells)

    def _attend(self, normed: Tensor, kind: _Attention) -> Tensor:
        shape = self.shape
        query = self._turned(self._shaped(normed, shape.heads * shape.query))
        keys = self._turned(self._shaped(normed, shape.keys))
        values = self._shaped(normed, shape.values)
        for tensor in (query, values, keys):
            self.graph.add(tensor)
        kept = [self._kept(keys, kind.keys_at), self._kept(values, kind.values_at)]
        shown = Tensor(query.size, [query], view=query)
        width = self.floats(shape.heads * shape.answer)
        if shape.flash_attention:
            answer = Tensor(width, [shown, *kept, kind.mask])
        else:
            scores = Tensor(self.floats(shape.heads * kind.cells), [kept[0], shown])
            chances = Tensor(scores.size, [scores, kind.mask], in_place=True)
            heads = Tensor(width, [kept[1], chances])
            answer = Tensor(width, [Tensor(width, [heads], view=heads)])
        self.graph.add(answer)
        return Tensor(self.floats(shape.embedding), [_weights(), answer])

    def _shaped(self, normed: Tensor, numbers: int) -> Tensor:
        """Return a product with weights, in the shape of heads."""
        made = Tensor(self.floats(numbers), [_weights(), normed])
        return Tensor(made.size, [made], view=made)

    def _turned(self, tensor: Tensor) -> Tensor:
        """Return a tensor with its positions (RoPE)."""
        return Tensor(tensor.size, [tensor, self.positions], in_place=True)

    def _kept(self, tensor: Tensor, at: Tensor) -> Tensor:
        """Add the copy of a tensor into the cache, and return what the cache holds."""
        cache = _weights()
        self.graph.add(Tensor(0, [Tensor(tensor.size, [tensor], view=tensor), at, cache], view=cache))
        return Tensor(0, [cache], view=cache)

    def _feed_forward(self, normed: Tensor) -> Tensor:
        shape = self.shape
        up, gate = (Tensor(self.floats(shape.inner), [_weights(), normed]) for _ in range(2))
        inner = Tensor(up.size, [gate, up])
        if not shape.experts_used:
            return Tensor(self.floats(shape.embedding), [_weights(), inner])
        each = Tensor(self.floats(shape.experts_used * shape.embedding), [_weights(), inner])
        weighed = Tensor(each.size, [each, _weights()], in_place=True)
        return Tensor(self.floats(shape.embedding), [weighed])
