"""The compute buffer of a model is the size that llama.cpp wrote to its log, to a hundredth of a MiB.

Logged by the runner llama.cpp of Ollama 0.17.4 on the CPU, for the models of `tests/real/test_capacity.py`. That
runner kept the whole context in blocks with a sliding window too.
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.capacity.allocator import ALIGNMENT, Graph, Tensor
from provision.capacity.graph import Shape, compute_buffer

MIB = 1 << 20
LLAMA = Shape(
    tokens=512,
    cells=2048,
    window_cells=0,
    windowed=(False,) * 8,
    flash_attention=True,
    embedding=1024,
    heads=16,
    query=64,
    answer=64,
    keys=256,
    values=256,
    inner=2816,
    experts_used=0,
    vocabulary=16384,
)
QWEN2 = replace(
    LLAMA, windowed=(False,) * 6, embedding=896, heads=14, keys=128, values=128, inner=4864, vocabulary=32768
)
GEMMA3 = replace(
    LLAMA,
    windowed=tuple((number + 1) % 6 != 0 for number in range(18)),
    embedding=640,
    heads=4,
    query=256,
    answer=256,
    inner=2048,
    vocabulary=262144,
)
LOGGED = [
    (LLAMA, 2048, True, 36.0),
    (LLAMA, 8192, True, 37.51),
    (LLAMA, 2048, False, 77.01),
    (LLAMA, 8192, False, 281.01),
    (QWEN2, 2048, True, 67.5),
    (QWEN2, 8192, True, 87.01),
    (QWEN2, 2048, False, 67.51),
    (QWEN2, 8192, False, 247.51),
    (GEMMA3, 2048, True, 519.77),
    (GEMMA3, 8192, True, 513.25),
    (GEMMA3, 2048, False, 513.25),
    (GEMMA3, 8192, False, 513.25),
]


@pytest.mark.parametrize(("shape", "cells", "flash_attention", "logged"), LOGGED)
def test_the_buffer_is_the_logged_size(shape: Shape, cells: int, flash_attention: bool, logged: float) -> None:
    asked = replace(shape, cells=cells, window_cells=cells, flash_attention=flash_attention)
    assert compute_buffer(asked) / MIB == pytest.approx(logged, abs=0.006)


@pytest.mark.parametrize(("blocks", "every"), [(25, 0), (48, 0), (81, 0), (126, 4), (127, 5), (160, 6)])
@given(st.sampled_from([256, 2048, 16384]), st.booleans(), st.sampled_from([2816, 11008]))
@settings(max_examples=6)
def test_a_model_of_many_blocks_is_cut_without_a_change(
    blocks: int, every: int, cells: int, flash_attention: bool, inner: int
) -> None:
    windowed = tuple(bool(every) and (number + 1) % every != 0 for number in range(blocks))
    shape = replace(
        LLAMA, windowed=windowed, window_cells=1024, cells=cells, flash_attention=flash_attention, inner=inner
    )
    assert compute_buffer(shape) == compute_buffer(shape, cut=False)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_a_chain_of_tensors_keeps_two_of_them(sizes: list[int]) -> None:
    tensor = Tensor(sizes[0])
    graph = Graph()
    for size in sizes[1:]:
        tensor = Tensor(size, [tensor])
    graph.add(tensor)
    aligned = [size + -size % ALIGNMENT for size in sizes]
    least = max(map(sum, zip(aligned, [0, *aligned], strict=False)))
    assert least <= graph.buffer() <= sum(aligned)


def test_a_tensor_goes_into_the_smallest_gap_that_is_large_enough() -> None:
    large, between, small = Tensor(320), Tensor(32), Tensor(64)
    first = Tensor(32, [large, between, small])
    fits_small = Tensor(64, [first])
    fits_large = Tensor(320, [fits_small])
    graph = Graph()
    graph.add(Tensor(32, [fits_large, between]))
    assert graph.buffer() == 320 + 32 + 64 + 32


def test_an_operation_in_place_takes_no_further_bytes_unless_the_source_is_read_again() -> None:
    def buffer(*, again: bool) -> int:
        source = Tensor(320, [Tensor(32)])
        normed = Tensor(320, [source], in_place=True)
        graph = Graph()
        graph.add(Tensor(32, [normed, source] if again else [normed]))
        return graph.buffer()

    assert buffer(again=True) - buffer(again=False) == 320
