"""From records to figures to the verdict, and the search for the capacity, checked by arithmetic."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import UsageError
from provision.inventory import Targets
from provision.loadtest import session, text, verdict
from provision.loadtest.capacity import Step, search
from provision.loadtest.drive import Ended, Load
from provision.loadtest.locust_page import LATEST, Latest
from provision.loadtest.measure import OTHER, UNNAMED, Tally, histogram, overlap, percentile, summary
from provision.loadtest.profile import Profile
from provision.loadtest.record import Record, parse
from provision.loadtest.sizing import sized
from provision.loadtest.verdict import compare, judge, lumps, odd

ONE, TWO, THREE = "gpu-01/ollama1", "gpu-01/ollama2", "gpu-02/ollama1"


def record(at=0.0, instance=ONE, ttft=0.5, rate=10.0, tokens=21, **rest):
    """Return the record of an answer, with a number of tokens at a rate (tokens per second) after the first token."""
    given = {"arrivals": tokens, "total": ttft + (tokens - 1) / rate, **rest}
    return Record(at, "http://t", instance, status=200, ttft=ttft, tokens=tokens, **given)


def failed(problem, at=0.0, instance=ONE):
    return Record(at, "http://t", instance, status=503, problem=problem, ttft=None, total=0.01)


def tallied(*records):
    tally = Tally()
    for one in records:
        tally.add(one)
    return tally


def result(*records, weights=None, **targets):
    found = summary(tallied(*records), weights or {})
    load = Load(("http://t",), Profile("chat", "m", 64), 4, 1.0, 10.0)
    return session.Result(load, found, tallied(*records), Ended(), judge(found, Targets(**targets)), odd(found))


def test_a_record_survives_the_way_to_a_line_and_back():
    one = record(gaps=(0.25, 0.5), queued=0.125)
    assert parse(one.line()).gaps == [0.25, 0.5]
    assert "\n" not in one.line()


def test_figures_of_all_and_of_each_instance():
    found = summary(tallied(*(record(at=n, ttft=0.1 * n, instance=ONE if n % 2 else TWO) for n in range(1, 101))), {})
    every = found.overall
    assert (every.requests, every.failed, every.tokens) == (100, 0, 2100)
    assert [round(value, 6) for value in (every.ttft.p50, every.ttft.p95, every.ttft.p99)] == [5.0, 9.5, 9.9]
    assert (every.rate.p50, every.rate.p99) == (pytest.approx(10), pytest.approx(10))
    assert {name: own.share for name, own in found.instances.items()} == {ONE: 0.5, TWO: 0.5}


def test_percentiles_of_speed_count_from_the_slow_end():
    rates = [float(n) for n in range(1, 101)]
    spread = summary(tallied(*(record(rate=rate) for rate in rates)), {}).overall.rate
    assert [round(value) for value in (spread.p50, spread.p95, spread.p99)] == [51, 6, 2]


def test_gaps_between_tokens_are_counted_in_milliseconds():
    gap = summary(tallied(record(gaps=[0.017] * 98 + [0.5, 0.5])), {}).overall.gap
    assert (gap.p50, gap.p95, gap.p99) == (0.017, 0.017, 0.5)


def test_failures_by_kind():
    found = summary(tallied(record(), failed("503", instance=""), failed("cut stream", instance=TWO)), {})
    assert found.overall.kinds == {"503": 1, "cut stream": 1}
    assert set(found.instances) == {ONE, TWO, UNNAMED}


def test_after_a_second_try_the_answer_counts_for_the_last_instance():
    tally = Tally({"10.0.0.2:3001": TWO}, frozenset({ONE, TWO}))
    for said in ("10.0.0.1:3001, 10.0.0.2:3001", "10.0.0.1:3001, ollama", "", "ollama", "evil/1", "evil/2", ONE):
        tally.add(record(instance=said))
    found = summary(tally, {ONE: 1.0, TWO: 1.0})
    requests = {name: own.requests for name, own in found.instances.items()}
    assert requests == {ONE: 1, TWO: 1, UNNAMED: 3, OTHER: 2}
    assert found.retried == 2


@pytest.mark.parametrize(("first", "waited"), [(None, 60.0), (55.5, 55.5)])
def test_a_timeout_counts_as_waiting_time(first, waited):
    late = Record(0.0, "http://t", ONE, problem="timeout", ttft=first, total=60.0)
    every = summary(tallied(*[record(ttft=0.1)] * 9, late), {}).overall
    assert (every.ttft.p50, every.ttft.p95) == (0.1, waited)


def test_a_cut_stream_is_no_waiting_time():
    cut = Record(0.0, "http://t", ONE, problem="cut stream", ttft=30.0, total=31.0)
    assert summary(tallied(record(ttft=0.1), cut), {}).overall.ttft.p99 == 0.1


def test_tokens_in_a_lump_have_only_the_speed_reported_by_the_server():
    assert record(arrivals=1, tokens=50, total=0.501).rate is None
    assert record(arrivals=1, tokens=50, total=0.501, decode=5.0).rate == 10
    assert record(arrivals=40, tokens=50, decode=999.0).rate != pytest.approx(50 / 999)
    assert "50 tokens came in 2 pieces" in lumps([record(arrivals=2, tokens=50)])[0]
    assert lumps([record()]) == []


def test_a_hanging_request_does_not_lower_the_throughput_of_the_rest():
    late = Record(3.0, "http://t", ONE, problem="timeout", total=60.0)
    whole = [record(at=n, ttft=0.0, tokens=11, rate=10.0) for n in range(4)]
    found = summary(tallied(*whole, late), {}, length=4.0)
    assert found.overall.tokens_per_second == pytest.approx(11)


def test_queueing_is_counted_only_if_the_server_reports_queueing():
    every = summary(tallied(record(queued=0.0), record(queued=2.0), record(queued=None)), {}).overall
    assert (every.waited, every.timed, every.queued_share, every.queued.p95) == (1, 2, 0.5, 2.0)
    unknown = summary(tallied(record(queued=None)), {}).overall
    assert (unknown.waited, unknown.queued_share) == (None, None)


def test_the_way_through_the_network_is_no_queue():
    far = [record(queued=0.3), record(queued=0.35), record(queued=0.32)]
    assert summary(tallied(*far), {}).overall.waited == 0
    assert summary(tallied(*far, record(queued=0.9)), {}).overall.waited == 1
    assert summary(tallied(record(queued=7.0), record(queued=8.0)), {}).overall.waited == 2, "full before the run"
    whole = tallied(record(at=0.0, queued=0.0), record(at=50.0, queued=0.7))
    assert summary(whole, {}, (40.0, 60.0)).overall.waited == 1, "the way is that of the whole run"


def overloaded_run():
    """Return records like a run of the real Ollama: four users at one place, each answer of four seconds."""
    waits = [0.0, 3.5, 7.2, 11.1, 11.0, 11.3, 12.0, 15.9, 20.1]
    return [record(at=n * 4.0, ttft=0.2 + wait, rate=32.0, tokens=121, queued=wait) for n, wait in enumerate(waits)]


def test_an_overloaded_endpoint_fails_by_default_and_is_called_overloaded():
    found = result(*overloaded_run())
    assert [(target.name, target.passed, target.measured) for target in found.verdicts] == [
        ("failed requests", True, "0.0% (0 of 9)"),
        ("time to first token, p95", False, "20.30 s"),
        ("queued answers", False, "88.9% (8 of 9)"),
    ]
    assert all(target.limit.endswith(" (default)") for target in found.verdicts)
    assert found.exit_code == 5
    assert found.overload == "8 of 9 answers waited in a queue, 20.10 s at p95"
    assert session.document(found)["overloaded"] == found.overload
    said = list(text.whole(found))
    assert "OVERLOADED: 8 of 9 answers waited in a queue, 20.10 s at p95" in said
    assert any("--find-capacity` finds the number of users that fit" in one for one in said)
    assert not any(one.startswith("pass  time") for one in said)


def test_targets_that_are_off_leave_an_overloaded_endpoint_alone():
    found = result(*overloaded_run(), max_ttft_p95="off", max_queued=False)
    assert [target.name for target in found.verdicts] == ["failed requests"]
    assert (found.exit_code, found.overload) == (0, "")


def test_an_endpoint_with_places_for_all_passes_by_default():
    found = result(*(record(queued=0.02, ttft=0.4) for _ in range(20)))
    assert ([target.passed for target in found.verdicts], found.exit_code, found.overload) == ([True] * 3, 0, "")
    assert "OVERLOADED" not in "\n".join(text.whole(found))


def test_a_slow_first_token_without_a_queue_is_no_overload():
    found = result(*(record(queued=0.02, ttft=9.0) for _ in range(20)))
    assert (found.exit_code, found.overload) == (5, "")


def test_full_instances_are_an_overload():
    found = result(*[record(queued=0.0)] * 8, *[failed("503")] * 4)
    assert (found.exit_code, found.overload) == (5, "4 of 12 requests found every instance full (503)")
    assert result(*[record(queued=0.0)] * 8, *[failed("cut stream")] * 4).overload == ""


def test_queueing_without_a_figure_is_judged_only_where_the_operator_set_the_target():
    default = result(*[record(queued=None)] * 3)
    assert [target.name for target in default.verdicts] == ["failed requests", "time to first token, p95"]
    assert default.exit_code == 0
    assert verdict.untold(default.figures) == [
        "the answers of this profile do not tell whether they waited in a queue: --profile chat does"
    ]
    given = result(*[record(queued=None)] * 3, max_queued="10%")
    assert [(target.measured, target.passed) for target in given.verdicts][-1] == ("unknown", False)
    assert (given.exit_code, given.overload) == (5, "")


def test_a_target_of_the_command_line_wins_and_is_no_default():
    ours = Targets(max_ttft_p95="5s").replaced({"max_queued": "off", "max_fail": "2%"})
    assert (ours.max_ttft_p95, ours.max_queued, ours.max_fail) == ("5s", None, "2%")
    assert {name: ours.is_default(name) for name in Targets.model_fields} == {
        "max_fail": False,
        "max_ttft_p95": False,
        "max_queued": False,
        "min_tokens_per_second": True,
        "max_skew": True,
    }
    assert Targets(max_ttft_p95="5s").replaced({"max_ttft_p95": "off"}).max_ttft_p95 is None
    with pytest.raises(UsageError, match="--max-queued: must be at most 100%"):
        ours.replaced({"max_queued": "101%"})


def test_skew_is_measured_against_the_weights():
    weights = {ONE: 1.0, TWO: 3.0}
    fair = [record(instance=ONE)] + [record(instance=TWO)] * 3
    assert summary(tallied(*fair), weights).skew == 0
    assert summary(tallied(*[record(instance=TWO)] * 4), weights).skew == 1
    assert summary(tallied(*fair), {}).skew is None


def test_tokens_per_second_count_within_the_window():
    one = record(at=100.0, ttft=1.0, rate=10.0, tokens=41)  # tokens from 101 to 105
    assert overlap(one, 100.0, 110.0) == pytest.approx(41)
    assert overlap(one, 103.0, 110.0) == pytest.approx(20.5)
    assert overlap(failed("503"), 0, 10) == 0
    found = summary(tallied(one, record(at=104.0)), {}, (100.0, 104.0))
    assert (found.overall.requests, found.overall.tokens_per_second) == (1, pytest.approx(41 * 3 / 4 / 4))
    assert summary(tallied(one), {}, (103.0, 104.0)).overall.requests == 1, "a request under way counts"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_a_value_not_exceeded_by_the_share(values, share):
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= math.ceil(len(values) * share / 100)


@given(st.lists(st.floats(-1, 1e9), max_size=100), st.floats(1e-6, 10), st.floats(0, 1e6), st.integers(1, 30))
def test_a_histogram_counts_everything_once(values, low, more, bins):
    assert sum(histogram(values, low, low + more, bins)) == len(values)


def test_each_target_is_judged_by_its_measurement():
    rows = [*(record(at=n, instance=ONE) for n in range(3)), failed("503", instance=ONE)]
    targets = {"max_fail": "30%", "max_ttft_p95": "400ms", "min_tokens_per_second": 9.0, "max_skew": "20%"}
    found = result(*rows, weights={ONE: 1.0, TWO: 1.0}, **targets)
    assert [(target.passed, target.measured) for target in found.verdicts] == [
        (True, "25.0% (1 of 4)"),
        (False, "500 ms"),
        (True, "10.0"),
        (False, "100.0%"),
    ]
    assert found.exit_code == 5


def test_a_target_without_a_measurement_is_missed():
    found = result(max_ttft_p95="1s", min_tokens_per_second=1.0, max_skew="10%")
    assert [target.passed for target in found.verdicts] == [False] * 4
    assert result(record()).exit_code == 0


@pytest.mark.parametrize(
    ("ended", "code"), [(Ended("x", interrupted=True, guarded=True), 130), (Ended("x", guarded=True), 7)]
)
def test_the_end_of_the_load_counts_more_than_the_targets(ended, code):
    found = result(failed("503"))
    found.ended = ended
    assert found.exit_code == code


def test_the_odd_instance_is_named():
    rows = [
        record(instance=name, rate=rate) for name, rate in ((ONE, 60.0), (TWO, 58.0), (THREE, 6.0)) for _ in range(15)
    ]
    found = result(*rows, weights={ONE: 1.0, TWO: 1.0, THREE: 1.0, "gpu-02/ollama2": 1.0})
    assert [line.split(" ", 1)[0] for line in found.findings] == ["gpu-02/ollama2", THREE]
    assert "6.0 tokens per second, its peers 59.0" in found.findings[1]
    assert result(*(record(instance=name, rate=50) for name in (ONE, TWO) for _ in range(9))).findings == []


def test_few_requests_name_no_odd_instance():
    assert result(record(), weights={ONE: 1.0, TWO: 1.0, THREE: 1.0}).findings == []
    assert result(*[record(instance=TWO)] * 500, *[record()] * 499, failed("cut stream")).findings == []


def test_a_failing_instance_is_named():
    rows = [*[record(instance=TWO)] * 9, *[failed("cut stream")] * 3, *[record()] * 6]
    assert result(*rows).findings == [f"{ONE} fails 33.3% of its requests: 3 cut stream"]


def overall(*records):
    return session.document(result(*records))["overall"]


def test_a_baseline_fails_figures_worse_by_more_than_the_margin():
    before = overall(*[record()] * 20)
    assert all(one.passed for one in compare(overall(*[record(ttft=0.54)] * 20), before, 0.1))
    worse = compare(overall(*[record(ttft=0.8)] * 20), before, 0.1)
    assert [one.name for one in worse if not one.passed] == [
        "baseline: time to first token, p50",
        "baseline: time to first token, p95",
        "baseline: tokens per second",
    ]
    failing = compare(overall(*[record()] * 16, *[failed("503")] * 4), before, 0.1)
    assert "baseline: failed requests" in [one.name for one in failing if not one.passed]


WHOLE = session.document(result(record()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "no document"),
        ("[]", "no document"),
        ("{}", "no document"),
        (json.dumps({**WHOLE, "users": 9}), "another test: its users is 9, not 4"),
        (json.dumps({**WHOLE, "overall": 3}), "no document"),
        (json.dumps({**WHOLE, "overall": {**WHOLE["overall"], "fail_share": "x"}}), "no document"),
        (json.dumps({**WHOLE, "overall": {**WHOLE["overall"], "tokens_per_second": math.inf}}), "no document"),
        (json.dumps({**WHOLE, "overall": {**WHOLE["overall"], "ttft": {}}}), "no document"),
    ],
)
def test_a_wrong_baseline_is_refused_before_the_load(tmp_path, text, said):
    (tmp_path / "before.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        session.baseline(str(tmp_path / "before.json"), result(record()).load)
    (tmp_path / "before.json").write_text(json.dumps(WHOLE))
    assert session.baseline(str(tmp_path / "before.json"), result(record()).load) == WHOLE["overall"]


FAILURES = Targets(max_ttft_p95=None, max_queued=None)
"""The target for failures alone."""


def step_of(users, places, queue):
    """Return a step against an endpoint of `places` at 10 tokens per second; `queue` users wait, the rest get 503."""
    served = min(users, places)
    rows = [record(at=n * 2.0, ttft=0.1 * max(1, users / max(1, places))) for n in range(served * 5)]
    rows += [failed("503", at=n * 2.0) for n in range(10 * max(0, users - places - queue))]
    found = summary(tallied(*rows), {}, (0.0, 10.0))
    found = type(found)(
        10.0, type(found.overall)(**{**vars(found.overall), "tokens_per_second": served * 10.0}), {}, None, 0
    )
    return Step(users, found, judge(found, FAILURES))


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 200))
def test_the_capacity_agrees_with_arithmetic(places, queue, most):
    asked = []

    def run(users):
        asked.append(users)
        return step_of(users, places, queue)

    found = search(run, most)
    limit = places + queue
    assert found.holds is not None
    assert found.holds.users <= min(limit, most)
    assert found.holds.users >= min(limit / 1.2 - 1, most)
    assert (found.broke is None) == (most <= limit)
    assert found.knee is not None
    assert found.knee.tokens_per_second >= 0.9 * max(step.tokens_per_second for step in found.steps if step.holds)
    assert max(asked) <= most
    assert len(asked) == len(set(asked)), "no step runs twice"


def sizing_of(places, declared, wanted=None, most=64, instances=()):
    found = search(lambda users: step_of(users, places, 2 * places), most)
    if instances:
        named = dict.fromkeys(instances, found.knee.figures.overall)
        found.knee.figures.instances.update(named)
    return sized(found, declared, wanted)


def test_wanted_users_are_put_into_instances():
    found = sizing_of(places=4, declared=4, wanted=10)
    assert (found.instances, found.knee, found.limited, found.needs) == (4, 4, True, [(10, 10)])
    assert next(text.sizing(found)) == "10 users need 10 instances."
    assert sizing_of(places=16, declared=4, wanted=17).needs == [(17, 5)], "a part of an instance is an instance"


def test_without_wanted_users_there_is_a_table_and_its_assumptions():
    said = list(text.sizing(sizing_of(places=8, declared=2)))
    assert said[:4] == [
        "10 users need 3 instances.",
        "50 users need 13 instances.",
        "100 users need 25 instances.",
        "500 users need 125 instances.",
    ]
    assert said[4].startswith("By the knee: 8 users on 2 instances. Assumed: the same model, cards")


def test_an_unmeasured_limit_bounds_the_number_of_instances():
    found = sizing_of(places=100, declared=2, wanted=40, most=8)
    assert (found.limited, found.needs) == (False, [(40, 10)])
    assert next(text.sizing(found)) == "40 users need at most 10 instances."


def test_instances_without_an_inventory_are_counted_by_their_answers():
    assert sizing_of(places=4, declared=0, wanted=9, instances=(ONE, TWO, UNNAMED)).needs == [(9, 5)]
    nameless = sizing_of(places=4, declared=0, wanted=9)
    assert (nameless.instances, nameless.needs) == (0, [(9, 3)])
    assert next(text.sizing(nameless)) == "9 users need 3 endpoints as this one."


def test_a_search_without_a_good_step_gives_no_number_of_instances():
    found = search(lambda users: step_of(users, 0, 0), 100)
    assert sized(found, 4, 10) is None
    assert list(text.sizing(None)) == [
        "How many instances a number of users needs is unknown: no step reached every target."
    ]


def test_an_endpoint_that_holds_no_user_is_reported():
    found = search(lambda users: step_of(users, 0, 0), 100)
    assert (found.holds, found.broke.users, len(found.steps)) == (None, 1, 1)
    assert "The endpoint does not hold a single user." in list(text.capacity(found))


def test_an_interrupted_search_reports_its_steps():
    found = search(lambda users: step_of(users, 8, 0) if users < 4 else None, 100)
    assert (found.holds.users, found.broke) == (2, None)
    nothing = search(lambda users: None, 100)
    assert list(text.capacity(nothing, whole=False))[-1] == "No step was completed."


def test_locusts_page_has_the_figures_of_the_latest_requests():
    latest = Latest({"10.0.0.2:3001": TWO}, [ONE, TWO])
    assert latest.rows() == []
    for number in range(LATEST + 1):
        latest.add(
            record(at=float(number), instance=ONE if number else "gone", ttft=0.25, queued=0.0 if number else 9.0)
        )
    latest.add(record(at=2000.0, instance="10.0.0.2:3001", ttft=3.0, queued=2.8))
    rows = {row["instance"]: row for row in latest.rows()}
    assert list(rows) == [ONE, TWO, "all"]
    assert (rows["all"]["requests"], rows["all"]["queued"], rows["all"]["firsta"]) == (LATEST, "1 of 1000", 0.25)
    assert (rows[TWO]["firstb"], rows[TWO]["ratea"]) == (3.0, 10.0)
    latest.clear()
    assert latest.rows() == []


def test_the_terminal_shows_every_instance_and_every_target():
    said = "\n".join(text.whole(result(record(), failed("503", instance="bad\x1b[2J"), max_skew="5%")))
    assert ONE in said
    assert "FAIL" in said
    assert "\x1b" not in said
    assert "1 503" in said
