"""`provision loadtest` against a real server, alone and behind the balancer."""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real import balancer, tee
from tests.real.balancer import Balancer
from tests.real.install.programs import Programs
from tests.real.instance import Host, Instance, ask
from tests.real.models import CHAT
from tests.real.noted import Noted

TOKENS = 32
NEAR = 0.15
"""The allowed part between two measurements of a stream: tokens arrive while other programs use the processors."""


@dataclass(frozen=True)
class Outcome:
    """A load test that has ended.

    Attributes:
        code: the exit code.
        document: the document of `--json`.
        rows: the requests, of `--csv`.
        complaint: the error output.
    """

    code: int
    document: Mapping[str, Any]
    rows: list[dict[str, str]]
    complaint: str


def loadtest(folder: Path, port: int, users: int, *words: str, answers: int = 6, paced_by: int = 0) -> Outcome:
    """Run `provision loadtest` with short answers.

    Args:
        folder: folder of the reports.
        port: port of the server on loopback.
        users: users at once.
        words: further options.
        answers: how many answers of the server the test takes, 12 seconds at least. A busy machine is slow.
        paced_by: port of the server that tells how long an answer takes, where `port` keeps every answer.
    """
    seconds = min(150, max(12, round(answers * _one_answer(paced_by or port))))
    target = ["--target", f"http://127.0.0.1:{port}", "--yes", "--model", CHAT, "--max-tokens", str(TOKENS)]
    load = ["--users", str(users), "--duration", f"{seconds}s", "--timeout", "300s", "--max-requests", "200"]
    report = ["--json", "--csv", str(folder / "requests.csv")]
    done = subprocess.run(
        [sys.executable, "-m", "provision", "loadtest", *target, *load, *report, *words],
        env={**os.environ, "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (folder / "requests.csv").exists(), (done.stdout[-2000:], done.stderr[-2000:])
    with (folder / "requests.csv").open() as file:
        return Outcome(done.returncode, json.loads(done.stdout), list(csv.DictReader(file)), done.stderr)


@pytest.fixture(scope="module")
def pair(host: Host, known: Path) -> list[Instance]:
    """Two running instances with the chat model loaded."""
    made = [host.instance(name, known).start() for name in ("ollama1", "ollama2")]
    for instance in made:
        assert ask(instance.port, "POST", "/api/generate", {"model": CHAT, "stream": False})[0] == 200
    return made


@pytest.fixture(scope="module")
def front(programs: Programs, pair: list[Instance], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancer.serving(programs.nginx, tmp_path_factory.mktemp("nginx"), pair) as running:
        yield running


def test_one_user_of_one_instance_passes(pair: list[Instance], tmp_path: Path, noted: Noted) -> None:
    done = loadtest(tmp_path, pair[0].port, 1, "--max-ttft-p95", "5m")
    assert done.code == 0, done
    assert not done.document["overloaded"]
    assert done.document["overall"]["failed"] == 0
    noted.evidence = f"exit 0: {_figures(done)}"


def test_more_users_than_places_are_called_an_overload(pair: list[Instance], tmp_path: Path, noted: Noted) -> None:
    done = loadtest(tmp_path, pair[0].port, 5)
    assert done.code != 0, done
    assert "answers waited in a queue" in done.document["overloaded"]
    noted.evidence = f"exit {done.code}: {done.document['overloaded']}; {_figures(done)}"


def test_the_speed_of_each_stream_is_the_servers_own(pair: list[Instance], tmp_path: Path, noted: Noted) -> None:
    with tee.keeping(pair[0].port) as kept:
        done = loadtest(tmp_path, kept.port, 2, paced_by=pair[0].port)
    rows = sorted((row for row in done.rows if not row["problem"]), key=lambda row: float(row["at"]))
    own = kept.own_rates()
    assert len(rows) >= 3
    assert len(own) >= len(rows)
    pairs = [(float(row["rate"]), rate) for row, rate in zip(rows, own, strict=False) if row["rate"]]
    apart = [abs(measured / rate - 1) for measured, rate in pairs]
    assert statistics.median(apart) <= NEAR, pairs
    shown = ", ".join(f"{measured:.2f}/{rate:.2f}" for measured, rate in pairs[:6])
    noted.evidence = f"{len(pairs)} streams, measured/own: {shown}; median {100 * statistics.median(apart):.1f} % apart"


def test_the_balancer_spreads_the_load(pair: list[Instance], front: Balancer, tmp_path: Path, noted: Noted) -> None:
    done = loadtest(tmp_path, front.port, 4)
    names = {row["instance"]: row["requests"] for row in done.document["instances"] if row["requests"]}
    assert set(names) == {"gpu-01/ollama1", "gpu-01/ollama2"}, done.document
    assert max(names.values()) <= 2 * min(names.values()) + 1
    assert done.document["overall"]["failed"] == 0
    shares = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    noted.evidence = f"requests: {shares}; {_figures(done)}"


def _one_answer(port: int) -> float:
    """Seconds that an answer takes."""
    began = time.monotonic()
    body = {"model": CHAT, "prompt": "1 2 3", "stream": False, "options": {"num_predict": TOKENS}}
    assert ask(port, "POST", "/api/generate", body, limit=300)[0] == 200
    return time.monotonic() - began


def _figures(done: Outcome) -> str:
    every = done.document["overall"]
    first, rate = every["ttft"]["p50"], every["rate"]["p50"]
    return f"{every['requests']} requests, first token p50 {first:.2f} s, {rate:.1f} tokens/s a stream"
