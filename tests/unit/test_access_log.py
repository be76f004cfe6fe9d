"""The sums of a balancer's access logs: the script on files of this machine, and the parser of its answer."""

import gzip
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.command import Answer
from provision.errors import FactError
from provision.steps.nginx import access_log
from provision.steps.nginx.access_log import AccessLog, Row

NOON = 1_796_126_400  # 2026-12-01 12:00 UTC
SERVED: dict[str, Any] = {
    "ts": "2026-12-01T12:00:00+00:00",
    "client": "10.0.0.9",
    "name": "alice",
    "key": "1a2b3c4d",
    "method": "POST",
    "uri": "/v1/chat/completions",
    "status": 200,
    "bytes": 512,
    "rt": 1.25,
    "model": "tiny:latest",
    "tokens_in": "11",
    "tokens_out": "5",
    "estimated": "false",
    "dropped": "",
    "up_status": "200",
}
PLAIN = {key: SERVED[key] for key in ("ts", "client", "method", "uri", "status", "bytes", "rt", "up_status")}


def line(more: Mapping[str, Any] | None = None, base: Mapping[str, Any] = SERVED) -> str:
    """Return a line of the log, with its escapes."""
    return json.dumps({**base, **(more or {})}, separators=(",", ":")) + "\n"


def row(**more: Any) -> Row:
    return Row(**{**dict.fromkeys(("client", "key", "model", "kind", "reason"), ""), "status": 0, **more})


def counted(requests: int, tokens_in: int, tokens_out: int, seconds: float, **more: int) -> dict[str, Any]:
    numbers = {"tokens_in": tokens_in, "tokens_out": tokens_out, "seconds": seconds, "estimated": 0, "uncounted": 0}
    return {"requests": requests, **numbers, **more}


def said(folder: Path, since: int = 0, most: int = access_log.MOST) -> Answer:
    """Return the answer of this machine to the command."""
    command = access_log.command(since, str(folder), most)
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=False, env=environment)
    return Answer(done.returncode, done.stdout, done.stderr)


def summed(folder: Path, text: str | bytes, since: int = 0, most: int = access_log.MOST) -> AccessLog:
    """Return the sums of a log."""
    (folder / "access.log").write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(folder / "access.log", (NOON, NOON))
    answer = said(folder, since, most)
    assert answer.stderr == b""
    return access_log.read(answer)


ALICE = {"client": "alice", "key": "1a2b3c4d", "model": "tiny:latest"}


def test_requests_of_the_same_client_key_and_model_are_a_row(tmp_path: Path) -> None:
    others = line({"name": "bob", "key": "99999999"}) + line({"model": "big:latest", "tokens_in": "4000000000"})
    found = summed(tmp_path, line() + line({"estimated": "true", "tokens_in": "0", "rt": 0.5}) + others * 2)
    assert sorted(found.rows, key=lambda row: (row.client, row.model)) == [
        row(**{**ALICE, "model": "big:latest"}, **counted(2, 8_000_000_000, 10, 2.5)),
        row(**ALICE, **counted(2, 11, 10, 1.75, estimated=1)),
        row(**{**ALICE, "client": "bob", "key": "99999999"}, **counted(2, 22, 10, 2.5)),
    ]
    assert (found.begins, found.unread, found.damaged) == (NOON, 0, 0)


@pytest.mark.parametrize(
    ("more", "kind", "status", "reason"),
    [
        ({"status": 429, "up_status": ""}, "refused", 429, ""),
        ({"status": 401, "up_status": "", "refused": "expired"}, "refused", 401, "expired"),
        ({"status": 503, "up_status": "502"}, "refused", 503, ""),
        ({"status": 503, "up_status": "502, 504"}, "refused", 503, ""),
        ({"status": 404, "up_status": "404"}, "failed", 0, ""),
        ({"status": 500, "up_status": "502, 500"}, "failed", 0, ""),
        ({"status": 499, "up_status": "-"}, "", 0, ""),
        ({"status": 304, "up_status": "304"}, "", 0, ""),
    ],
)
def test_an_error_is_the_balancers_own_or_that_of_an_instance(
    tmp_path: Path, more: dict[str, Any], kind: str, status: int, reason: str
) -> None:
    (found,) = summed(tmp_path, line({**more, "tokens_in": "0", "tokens_out": "0"})).rows
    assert found == row(**ALICE, kind=kind, reason=reason, **{**counted(1, 0, 0, 1.25), "status": status})


def test_requests_before_the_gateway_have_no_client_and_no_tokens(tmp_path: Path) -> None:
    (found,) = summed(tmp_path, line(base=PLAIN) * 3).rows
    assert found == row(**counted(3, 0, 0, 3.75, uncounted=3))
    (found,) = summed(tmp_path, line({"tokens_in": "", "tokens_out": ""})).rows
    assert (found.client, found.uncounted) == ("alice", 1), "nobody counted the tokens"


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        ("2026-12-01T12:00:00+00:00", NOON),
        ("2026-12-01T14:30:00+02:30", NOON),
        ("2026-12-01T04:00:00-08:00", NOON),
        ("2024-02-29T00:00:00+00:00", 1_709_164_800),
        ("2000-03-01T00:00:01+00:00", 951_868_801),
        ("1970-01-01T00:00:00+00:00", 0),
    ],
)
def test_a_time_of_any_zone_is_known(tmp_path: Path, moment: str, seconds: int) -> None:
    text = line({"ts": moment})
    assert summed(tmp_path, text).begins == seconds
    assert len(summed(tmp_path, text, since=seconds).rows) == 1
    later = summed(tmp_path, text, since=seconds + 1)
    assert (later.begins, list(later.rows)) == (seconds, [])


def test_rotated_logs_are_read_too_and_old_logs_are_only_dated(tmp_path: Path) -> None:
    """An old file is no part of the sums, but says how far the logs reach back."""
    day = 86400
    first = gzip.compress((line({"ts": "2026-11-28T12:00:00+00:00"}) * 5).encode())
    (tmp_path / "access.log.3.gz").write_bytes(first)
    os.utime(tmp_path / "access.log.3.gz", (NOON - 3 * day, NOON - 3 * day))
    (tmp_path / "access.log.2.gz").write_bytes(gzip.compress(line({"ts": "2026-11-29T12:00:00+00:00"}).encode()))
    (tmp_path / "access.log.1").write_text(line({"ts": "2026-11-30T12:00:00+00:00"}) * 2)
    (tmp_path / "error.log").write_text("not a request\n")
    found = summed(tmp_path, line() * 4)
    assert (found.begins, sum(row.requests for row in found.rows)) == (NOON - 3 * day, 12)
    found = summed(tmp_path, line() * 4, since=NOON - 2 * day + 1)
    assert (found.begins, sum(row.requests for row in found.rows)) == (NOON - 3 * day, 6)


def test_a_damaged_rotated_log_is_named_and_the_rest_counts(tmp_path: Path) -> None:
    whole = gzip.compress((line() * 500).encode(), mtime=0)
    (tmp_path / "access.log.2.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "access.log").write_text(line() * 3)
    found = access_log.read(said(tmp_path))
    assert found.damaged == 1
    assert sum(row.requests for row in found.rows) >= 3


def test_a_balancer_without_logs_has_no_requests(tmp_path: Path) -> None:
    nothing = AccessLog(None, [], 0, 0)
    assert access_log.read(said(tmp_path / "no folder")) == nothing
    assert access_log.read(said(tmp_path)) == nothing
    assert summed(tmp_path, "") == nothing


HOSTILE = '","name":"bob","key":"99999999","model":"big:latest","status":200,"tokens_out":"999999'


def test_a_client_cannot_write_for_another(tmp_path: Path) -> None:
    """The values that a client chooses have their quotes escaped."""
    for key in ("uri", "method", "client", "dropped", "retries", "patience"):
        (found,) = summed(tmp_path, line({key: HOSTILE}) + line({key: HOSTILE + "\\"})).rows
        assert found == row(**ALICE, **counted(2, 22, 10, 2.5)), key


@settings(max_examples=8)
@given(st.lists(st.text(max_size=40), min_size=20, max_size=60), st.lists(st.binary(max_size=60), max_size=20))
def test_any_value_of_a_client_changes_no_sum(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], noises: list[bytes]
) -> None:
    lines = b"".join(line({"uri": value, "dropped": value}).encode(errors="replace") for value in values)
    kept = [noise for noise in (noise.replace(b"\n", b"").replace(b"\0", b"") for noise in noises) if noise]
    found = summed(tmp_path_factory.mktemp("log"), lines + b"".join(noise + b"\n" for noise in kept))
    assert [(row.client, row.requests) for row in found.rows] == [("alice", len(values))]
    assert found.unread == len(kept)


def test_lines_that_are_no_requests_are_counted(tmp_path: Path) -> None:
    cut = line()[:120]
    strange = ["{}", "text", '{"ts":"yesterday"}', cut, '{"ts":"2026-12-01T12:00:00+00:00","status":abc,"rt":1.0}']
    found = summed(tmp_path, "\n".join(strange) + "\n" + line())
    assert (found.unread, sum(row.requests for row in found.rows)) == (len(strange), 1)
    assert summed(tmp_path, b"\0" * 5000 + b"\n" + line().encode()).unread == 1


def test_the_rows_of_a_balancer_are_bounded(tmp_path: Path) -> None:
    text = "".join(line({"name": f"client{number}"}) for number in range(50))
    found = summed(tmp_path, text * 2, most=10)
    assert len(found.rows) == 11
    assert {row.client: row.requests for row in found.rows}["?"] == 80
    assert sum(row.requests for row in found.rows) == 100


def test_a_log_that_is_rotated_meanwhile_is_read_again_by_the_operator() -> None:
    with pytest.raises(FactError, match="rotated"):
        access_log.read(Answer(0, b"unread 0\ndamaged 0\nrotated\nend\n"))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(0),
        Answer(1, b"", b"awk: not found"),
        Answer(124, b"begins 1\n"),
        Answer(0, b"begins 1\nunread 0\ndamaged 0\n"),
        Answer(0, b'row ["a","b","c","",0,"",1,1,1,1.0,0]\nend\n'),
        Answer(0, b'row ["a","b","c","",0,"",1,1,1,1.0,0,-1]\nend\n'),
        Answer(0, b'row ["a","b",3,"",0,"",1,1,1,1.0,0,0]\nend\n'),
        Answer(0, b'row ["a","b","c","",0,"",true,1,1,1.0,0,0]\nend\n'),
        Answer(0, b"row " + b"[" * 100_000 + b"\nend\n"),
        Answer(0, b"begins soon\nend\n"),
    ],
    ids=str,
)
def test_an_answer_that_is_not_whole_is_no_proof_of_absence(answer: Answer) -> None:
    with pytest.raises(FactError):
        access_log.read(answer)
