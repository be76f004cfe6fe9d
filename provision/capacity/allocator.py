"""How many bytes ggml takes for the tensors of a graph: its allocator, without memory.

A tensor takes the smallest free gap that is large enough, and is freed after its last use. So gaps stay, and the buffer
is larger than the most that is in use at once. Source: llama.cpp `ggml/src/ggml-alloc.c` (`ggml_dyn_tallocr_alloc`,
`ggml_gallocr_alloc_graph_impl`) as in ollama 0.17.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ALIGNMENT = 32
"""Bytes to whose multiple each tensor is rounded up. Source: ggml `TENSOR_ALIGNMENT`."""
_ENDLESS = 1 << 62


@dataclass(eq=False)
class Tensor:
    """A tensor of a graph.

    Args:
        size: bytes.
        sources: the tensors from which this tensor is computed; none for an input.
        view: the tensor whose bytes this tensor shows in another shape.
        in_place: whether the operation may write over a source of the same shape.
        outside: whether the bytes are elsewhere: weights, and the cache.
    """

    size: int
    sources: Sequence[Tensor] = ()
    view: Tensor | None = None
    in_place: bool = False
    outside: bool = False
    readers: int = field(default=0, init=False)
    views: int = field(default=0, init=False)
    place: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Show the bytes of the first tensor where a view is of a view."""
        if self.view is not None and self.view.view is not None:
            self.view = self.view.view


class Graph:
    """Tensors in the order of their work: see `add`."""

    def __init__(self) -> None:
        self._inputs: list[Tensor] = []
        self._nodes: list[Tensor] = []
        self._known: set[int] = set()

    def add(self, tensor: Tensor) -> None:
        """Add a tensor behind its sources, as `ggml_build_forward_expand` does.

        Args:
            tensor: the tensor. Sources that the graph already has keep their place.
        """
        if id(tensor) in self._known:
            return
        self._known.add(id(tensor))
        for source in tensor.sources:
            self.add(source)
        (self._nodes if tensor.sources else self._inputs).append(tensor)

    def buffer(self) -> int:
        """Return the bytes of the buffer that holds every tensor of the graph while the tensor is in use."""
        gaps = _Gaps()
        for tensor in self._inputs:
            _place(tensor, gaps)
        for tensor in self._nodes:
            if tensor.view is not None:
                tensor.view.views += 1
            for source in tensor.sources:
                source.readers += 1
        for tensor in self._nodes:
            _place(tensor, gaps)
            for source in tensor.sources:
                _read(source, gaps)
        return gaps.end


def _place(tensor: Tensor, gaps: _Gaps) -> None:
    """Give a tensor its place: that of a source with no other reader, or a gap."""
    if tensor.outside or tensor.view is not None:
        return
    if tensor.in_place:
        for source in tensor.sources:
            last = source.readers == 1 and not source.views
            if last and source.place is not None and source.size == tensor.size:
                tensor.place, source.place = source.place, None
                return
    tensor.place = gaps.take(tensor.size)


def _read(source: Tensor, gaps: _Gaps) -> None:
    """Count a read, and free the bytes after the last read."""
    source.readers -= 1
    if source.readers or source.views:
        return
    shown = source
    if source.view is not None:
        shown = source.view
        shown.views -= 1
        if shown.views or shown.readers:
            return
    if shown.place is not None:
        gaps.free(shown.place, shown.size)
        shown.place = None


class _Gaps:
    """The free bytes of a buffer, as (place, size) in their order; the last gap has no end."""

    def __init__(self) -> None:
        self.end = 0
        self._gaps = [(0, _ENDLESS)]

    def take(self, size: int) -> int:
        """Return the place of a number of bytes in the smallest gap that is large enough."""
        size += -size % ALIGNMENT
        chosen = len(self._gaps) - 1
        for number, (_, room) in enumerate(self._gaps[:-1]):
            if room >= size and (chosen == len(self._gaps) - 1 or room <= self._gaps[chosen][1]):
                chosen = number
        place, room = self._gaps[chosen]
        if room == size:
            del self._gaps[chosen]
        else:
            self._gaps[chosen] = (place + size, room - size)
        self.end = max(self.end, place + size)
        return place

    def free(self, place: int, size: int) -> None:
        """Give bytes back, and join the gaps beside them."""
        size += -size % ALIGNMENT
        joined: list[tuple[int, int]] = []
        for gap in sorted([*self._gaps, (place, size)]):
            if joined and sum(joined[-1]) == gap[0]:
                joined[-1] = (joined[-1][0], joined[-1][1] + gap[1])
            else:
                joined.append(gap)
        self._gaps = joined
