"""A host's clock and this machine's: the warning about a difference."""

import time
from typing import Any

import pytest

from provision.actions.results import clocks
from provision.rollout import clock
from provision.steps import facts

from . import test_waves

make = test_waves.make  # a fixture
NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("host", "took", "said"),
    [
        (NOW + 3, 6, ""),
        (NOW + 59, 0, ""),
        (NOW - 60, 0, ""),
        (NOW + 100, 50, ""),
        (NOW - 50, 50, ""),
        (NOW + 90, 0, "90 s ahead of"),
        (NOW - 90, 50, "89 s behind"),
        (NOW + 3600, 0, "60 min ahead of"),
        (NOW - 3 * 3600, 0, "3 h behind"),
        (NOW + 365 * 86400, 10, "365 days ahead of"),
        (0, 0, "20718 days behind"),
        (None, 0, ""),
    ],
)
def test_a_difference_beyond_a_minute_and_the_time_of_the_read_is_a_warning(host: Any, took: float, said: str) -> None:
    told = clock.warning("gpu-01", host if host is None else int(host), NOW, NOW + took)
    assert (said in told) if said else not told
    assert not told or told.startswith("gpu-01: the host's clock is ")


@pytest.mark.parametrize(("answer", "known"), [("1790000000", 1790000000), ("", None), ("-1", None), ("9" * 30, None)])
def test_an_answer_without_a_time_leaves_the_clock_unknown(answer: str, known: int | None) -> None:
    assert facts.parse(f"# clock\n{answer}\n# gpu-exit\n127\n").clock == known


@pytest.mark.parametrize("way", ["plan", "deploy"])
def test_each_host_with_a_wrong_clock_gets_one_warning(make: Any, way: str) -> None:
    right = getattr(make({"one": (), "two": ()}), way)()
    assert clocks(right) == []
    off = make({"three": (), "four": ()}, clock=lambda: time.time() - 86400 * 400)
    found = getattr(off, way)()
    assert [said.partition("; ")[0] for said in clocks(found)] == [
        f"{host}: the host's clock is 400 days ahead of this machine's" for host in ("three", "four")
    ]
