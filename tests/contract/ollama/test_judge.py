"""The judge of the contract finds what differs, in whole and in cut answers."""

import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.contract.ollama import cases, differences, documents, judge, live, simulator, targets, wire

CASES = {case.name: case for case in cases.load()}
RECORDING = targets.Recording("0.33")


def found(kind, wanted, body, **facts):
    """Return the places that differ in a body."""
    case = replace(CASES["root GET"], answer={kind: wanted}, versions={})
    answer = judge.Answer(200, facts.pop("headers", ()), "length", body, **facts)
    return [each.where for each in judge.judge(case, answer, "0.33")]


@pytest.mark.parametrize(
    ("wanted", "body", "places"),
    [
        ({"a": 1}, '{"a":1}', []),
        ({"a": 1}, '{"a":2}', ["json.a"]),
        ({"a": 1}, '{"a":true}', ["json.a"]),
        ({"a": 1}, '{"a":1,"b":2}', ["json.b"]),
        ({"a": 1, "...": "<any>"}, '{"a":1,"b":2}', []),
        ({"a": 1, "b?": "<int>"}, '{"a":1}', []),
        ({"a": 1, "b?": "<int>"}, '{"a":1,"b":"x"}', ["json.b"]),
        ({"a": None}, '{"a":null}', []),
        ({"a": None}, "{}", ["json.a"]),
        ({"a": {}}, '{"a":[]}', ["json.a"]),
        ([], "[]", []),
        ([1], "[]", ["json[0]"]),
        ([1], "[1,2]", ["json[1]"]),
        (["<int>", "...", "x"], '[1,2,3,"x"]', []),
        (["<int>", "...", "x"], '["x"]', ["json[0]", "json[1]"]),
        (["<int>", "...?", "x"], '["x"]', []),
        (["<int>", "...?", "x"], '[1,1,"y"]', ["json[2]"]),
        ("<text>", '""', []),
        ("<some text>", '""', ["json"]),
        ("<text>", "5", ["json"]),
        ("<int>", "5.5", ["json"]),
        ("<int>", "true", ["json"]),
        ("<number>", "5.5", []),
        ("<nanoseconds>", "-1", ["json"]),
        ("<stop|length>", '"length"', []),
        ("<stop|length>", '"load"', ["json"]),
        ("model '<text>' not found", "\"model 'a.b' not found\"", []),
        ("model '<text>' not found", "\"model 'a' not found, try\"", ["json"]),
        ("chatcmpl-<int>", '"chatcmpl-12"', []),
        ("a.c", '"abc"', ["json"]),
        ("<time>", '"2026-11-29T22:08:38.864011113Z"', []),
        ("<time>", '"yesterday"', ["json"]),
        ({"a": 1}, "no JSON", ["json"]),
    ],
)
def test_a_document_is_held_against_a_pattern(wanted, body, places):
    assert found("json", wanted, body) == places


@pytest.mark.parametrize(
    ("wanted", "stamp", "holds"),
    [
        ("<time in 300 s>", "2026-01-01T00:05:10.123456789Z", True),
        ("<time in 300 s>", "2026-01-01T00:10:00Z", False),
        ("<time far away>", "2318-01-01T00:00:00Z", True),
        ("<time far away>", "2027-01-01T00:00:00Z", False),
    ],
)
def test_a_time_is_held_against_the_clock_of_the_answer(wanted, stamp, holds):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert found("json", wanted, f'"{stamp}"', now=now) == ([] if holds else ["json"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1,"b":[{"c":2,"d', {"a": 1, "b": [{"c": 2}]}),
        ('{"a":1,"b":"x', {"a": 1}),
        ('{"a":1,"b":12', {"a": 1}),
        ("[1,[2,3", [1, [2]]),
        ('{"a":{"b":1}', {"a": {"b": 1}}),
        ("[", []),
    ],
)
def test_a_cut_document_is_read_up_to_the_end(text, expected):
    assert documents.document(text, cut=True) == expected


def test_a_cut_answer_may_lack_what_the_recording_cut_and_nothing_else():
    wanted = {"a": [{"b": 1, "c": 2}, "..."], "d": 3}
    assert found("json", wanted, '{"a":[{"b":1,"c":2},{"b":1', cut=True) == []
    assert found("json", wanted, '{"a":[{"b":1},{"b":1', cut=True) == ["json.a[0].c"]
    assert found("json", wanted, '{"a":[{"b":1,"c":2}]', cut=True) == []
    assert found("frames", [{"b": 1}, "...", {"e": 2}], '{"b":1}\n{"b":1}\n{"e', cut=True) == []
    assert found("frames", [{"b": 1}, "...", {"e": 2}], '{"b":1}\n{"x":1}\n{"e', cut=True) == [
        "frames[1].e",
        "frames[1].x",
    ]


@pytest.mark.parametrize(
    ("kind", "wanted", "body", "places"),
    [
        ("frames", [{"a": 1}, {"a": 2}], '{"a":1}\n{"a":2}\n', []),
        ("frames", [{"a": 1}], '{"a":1}', ["frames"]),
        ("frames", [{"a": 1}], '{"a":1}\n\n', ["frames"]),
        ("events", [{"a": 1}, "[DONE]"], 'data: {"a":1}\n\ndata: [DONE]\n\n', []),
        ("events", [{"event": "x", "data": {"a": 1}}], 'event: x\ndata: {"a":1}\n\n', []),
        ("events", [{"a": 1}], 'event: x\ndata: {"a":1}\n\n', ["events.a", "events.data", "events.event"]),
        ("events", [{"a": 1}], "id: 5\n\n", ["events"]),
        ("text", "a<int>", "a5", []),
        ("text", "a", "a\n", ["text"]),
    ],
)
def test_streams_are_read_as_documents(kind, wanted, body, places):
    assert [place.replace("[0]", "") for place in sorted(found(kind, wanted, body))] == sorted(places)


def test_headers_and_chunks_are_facts():
    headers = (("Vary", "Origin"), ("vary", "Accept"), ("Content-Type", "application/x-ndjson"))
    assert found("headers", {"Vary": "Origin, Accept", "Allow": None}, "", headers=headers) == []
    assert found("headers", {"Vary": None, "Allow": "GET"}, "", headers=headers) == ["headers.Vary", "headers.Allow"]
    assert found("chunks", "frames", "{}\n{}\n", chunks=2) == []
    assert found("chunks", "frames", "{}\n{}\n", chunks=1) == ["chunks"]


@pytest.mark.parametrize("name", [name for name in RECORDING.names if CASES[name].recorded])
def test_no_case_holds_of_another_answer(name):
    case, answer = CASES[name], RECORDING.answer(CASES[name])
    broken = replace(answer, status=599, statuses=(599,), ends="never")
    assert judge.judge(case, broken, "0.33")
    if {"json", "frames", "events", "text"} & case.expected("0.33").keys():
        assert judge.judge(case, replace(answer, body="simulated\n\n"), "0.33")


def test_facts_of_a_version_replace_the_body_and_keep_the_rest():
    case = CASES["generate bad model name"]
    assert case.expected("0.33.0")["status"] == 400
    assert case.expected("0.17.4") == {
        **case.expected("0.33"),
        "status": 404,
        "json": {"error": "model '../../x' not found"},
    }
    assert "eval_duration?" in CASES["generate num_predict 1"].expected("0.17")["json"]
    assert isinstance(CASES["generate HTTP/1.0"].expected("0.17"), str)


def test_a_listed_difference_is_strict():
    entries = [
        differences.Listed("x", ("json.id", "events[].id"), "says that it is simulated"),
        differences.Listed("y", (), "being mended"),
    ]
    own, other = judge.Difference("events[3].id", "a", "b"), judge.Difference("status", "200", "404")
    assert differences.complaints("x", [own], entries) == []
    assert differences.complaints("x", [own, other], entries) == ["status: wanted 200, found 404"]
    assert "take the case out" in differences.complaints("x", [], entries)[0]
    assert differences.complaints("y", [other, own], entries) == []
    assert "take the case out" in differences.complaints("y", [], entries)[0]
    assert differences.complaints("z", [other], entries) == ["status: wanted 200, found 404"]


def test_an_address_without_a_server_is_a_difference():
    nobody = targets.Address("127.0.0.1", 1, "0.33")
    assert "ConnectionRefusedError" in str(targets.differences(CASES["root GET"], nobody)[0])
    assert wire.ask(("127.0.0.1", 1), CASES["root GET"].requests[0], 1).status == 0


def test_a_simulator_that_does_not_start_is_an_error_with_the_log(tmp_path):
    (tmp_path / "lab").write_text("a file in the place of the folder")
    with (
        pytest.raises(RuntimeError, match=r"the simulator did not start: (?s:.*)FileExistsError"),
        simulator.running(tmp_path),
    ):
        pass


def live_verdict(name, server):
    """Return the verdict of a live run on a case."""
    (verdict,) = live.verdicts(server, [CASES[name]])
    return verdict.verdict, verdict.evidence


def test_a_live_run_says_why_a_case_has_no_verdict():
    nobody = targets.Address("127.0.0.1", 1, "0.17.4")
    assert live_verdict("generate HTTP/1.0", nobody)[0] == "not run"
    assert live_verdict("pull unknown", nobody) == ("not run", "the server would ask a registry outside this machine")
    assert live_verdict("pull without a stream", nobody) == ("not run", "the run has no model registry")
    assert live_verdict("ps loaded", nobody)[0] == "failed"
    assert live_verdict("root GET", nobody)[0] == "differs"
    assert live_verdict("pipelined two", nobody)[0] == "differs"


def test_an_answer_that_is_no_http_is_a_difference():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept()[0].sendall(b"hello\r\n\r\n"), daemon=True).start()
        server = targets.Address("127.0.0.1", listening.getsockname()[1], "0.33", timeout=10)
        assert "no HTTP" in str(targets.differences(CASES["root GET"], server)[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: x, request: GET /, answer: {statu: 200}}", "unknown ['statu']"),
        ("- {name: x, request: GET /, answr: {status: 200}}", "unknown ['answr']"),
        ("- {name: x, request: GET /}", "no answer"),
    ],
)
def test_a_case_with_unknown_words_is_refused(tmp_path, text, said):
    for group in cases.GROUPS:
        (tmp_path / f"{group}.yaml").write_text("[]")
    (tmp_path / "plain.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"plain.yaml: x: {said}".replace("[", r"\[")):
        cases.load(tmp_path)
