"""The week of faults: what a lost request costs, the schedule, and the page."""

import itertools

import pytest
import yaml

from tests.bench.week import text
from tests.bench.week.__main__ import ASSUMPTIONS, schedule
from tests.bench.week.acts import ACTS
from tests.bench.week.arithmetic import WEEK, Fault, Request, availability, costs, losses

ASSUMED = yaml.safe_load(ASSUMPTIONS.read_text())


def request(begun: float, *, whole: bool = True, ended: float = 0.0, kind: str = "openai-fresh") -> Request:
    return Request(kind, begun, ended or begun + 0.3, whole, "" if whole else "APIError: no")


def test_a_second_is_lost_by_the_share_of_its_requests() -> None:
    asked = [request(1.1), request(1.3), request(1.5), request(1.9, whole=False), request(2.1, whole=False)]
    (loss,) = losses(asked, [Fault("roll", 0.5)])
    assert (loss.key, loss.seconds, loss.touched, loss.requests) == ("roll", 1.25, 2, 2)


def test_a_lost_request_belongs_to_the_last_fault_before_its_end() -> None:
    asked = [
        request(0.1, whole=False, ended=0.2),
        request(0.9, whole=False, ended=4.0),
        request(1.5),
        request(5.5, whole=False, ended=5.6),
    ]
    lost = losses(asked, [Fault("roll", 1.0), Fault("host-off", 5.0)])
    assert [(loss.key, loss.requests) for loss in lost] == [("", 1), ("roll", 1), ("host-off", 1)]


def test_a_fault_without_a_lost_request_costs_nothing_and_counts() -> None:
    lost = losses([request(1.0), request(1.5, whole=False), request(9.0)], [Fault("roll", 1.2), Fault("roll", 8.0)])
    (cost,) = costs(lost, {"roll": 4})
    assert (cost.made, cost.mean, cost.worst, cost.week) == (2, 0.25, 0.5, 1.0)
    assert availability([cost]) == pytest.approx(100 * (1 - 1 / WEEK))


def test_a_class_that_was_not_made_has_no_cost() -> None:
    with pytest.raises(ValueError, match="no fault of the class host-off was made"):
        costs([], {"host-off": 1})


def test_every_class_has_an_act_and_an_assumption_with_its_reason() -> None:
    assert set(ACTS) == set(ASSUMED)
    for about in ASSUMED.values():
        assert set(about) == {"title", "per_week", "why"}
        assert about["per_week"] > 0


def test_the_shortest_run_makes_every_class_once_and_a_long_run_goes_round() -> None:
    assert list(schedule(0)) == list(ACTS)
    keys = list(ACTS)
    assert list(itertools.islice(schedule(1000), 2 * len(keys))) == keys * 2
    assert keys.index("host-back") == keys.index("host-off") + 1
    assert keys.index("balancer-back") == keys.index("balancer-off") + 1
    assert keys.index("rollback") > keys.index("roll")


@pytest.mark.parametrize(("failed", "verdict"), [(0, "goal 99.95 %: met"), (650, "goal 99.95 %: **lost**")])
def test_the_page_says_whether_the_goal_is_met_and_which_classes_cost_most(failed: int, verdict: str) -> None:
    faults = [Fault(key, 1000.0 * number) for number, key in enumerate(ACTS, 1)]
    hang = next(fault.begun for fault in faults if fault.key == "instance-hangs")
    asked = [request(hang + second, whole=second >= failed, ended=hang + second + 0.1) for second in range(700)]
    asked += [request(1000.0 * number + 0.5) for number, _ in enumerate(ACTS, 1)]
    written = text.page("2026-01-01", 60, asked, faults, ASSUMED)
    assert verdict in written
    assert f"lost {failed} (" in written
    assert ("an instance takes requests and never answers, for a minute (" in written) == bool(failed)
    assert "SIMULATED" in written
