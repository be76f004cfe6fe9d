"""The estimate of a model's memory, held to the recorded sizes of a real server: within 10 % for each term."""

from collections.abc import Mapping
from typing import Any

import pytest

from provision.capacity.dimensions import Dimensions
from provision.capacity.estimate import Request, estimate
from tests.real import sizes

LIMIT = 0.1
RECORDED = [sizes.load(path.stem) for path in sorted(sizes.FOLDER.glob("*.yaml"))]
CASES = [(recording, row) for recording in RECORDED for row in recording.rows]


def terms(dimensions: Dimensions, row: Mapping[str, Any]) -> dict[str, float]:
    """Return the estimate in MiB. A server on the CPU keeps the table of tokens beside the other weights."""
    found = estimate(dimensions, Request(context=row["context"], cache_type=row["cache_type"]))
    weights = found.weights + dimensions.weights.input
    numbers = {"weights": weights, "cache": found.kv_cache, "compute": found.compute}
    return {name: number / sizes.MIB for name, number in numbers.items()}


def name(case: object) -> str:
    if isinstance(case, sizes.Recording):
        return case.architecture
    return f"{case['context']}-{case['cache_type']}" if isinstance(case, Mapping) else ""


def test_three_architectures_are_recorded_with_two_contexts_and_two_types_of_the_cache() -> None:
    assert {recording.architecture for recording in RECORDED} >= {"gemma3", "llama", "qwen2"}
    for recording in RECORDED:
        wishes = {(row["context"], row["cache_type"]) for row in recording.rows}
        assert wishes == {(context, cache) for context in sizes.CONTEXTS for cache in sizes.CACHES}


@pytest.mark.parametrize(("recording", "row"), CASES, ids=name)
def test_each_term_is_within_a_tenth_of_the_servers_own_size(
    recording: sizes.Recording, row: Mapping[str, Any]
) -> None:
    for term, guess in terms(recording.dimensions, row).items():
        assert guess == pytest.approx(row[term], rel=LIMIT), term
