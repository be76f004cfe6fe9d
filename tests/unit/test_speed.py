"""The speed of an instance: what the readiness test and verify measure, and the comparison with other instances."""

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest

from provision.command import Answer
from provision.rollout.speeds import Speeds
from provision.steps import speed
from provision.steps.ollama import loaded_proof, measured_speed, readiness
from provision.steps.speed import Speed


@pytest.mark.parametrize(
    ("rate", "rates", "passed"),
    [
        (60.0, [60.0, 61.0], None),
        (60.0, [60.0, 61.0, 59.0], True),
        (15.0, [60.0, 60.0, 15.0], True),
        (14.9, [60.0, 60.0, 14.9], False),
        (600.0, [60.0, 60.0, 600.0], True),
    ],
    ids=["too few", "usual", "four times slower", "more than four times slower", "faster"],
)
def test_a_speed_is_compared_with_the_median(rate: float, rates: list[float], passed: bool | None) -> None:
    verdict = speed.judge(rate, rates)
    assert verdict.passed is passed
    assert str(len(rates)) in verdict.words


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["NVIDIA L40S"], "NVIDIA L40S"),
        (["NVIDIA L40S", "NVIDIA L40S"], "2 x NVIDIA L40S"),
        (["NVIDIA L40S", "NVIDIA H100"], "NVIDIA H100, NVIDIA L40S"),
        (["NVIDIA L40S", ""], ""),
        ([], ""),
    ],
)
def test_cards_in_words(names: list[str], words: str) -> None:
    assert speed.cards_in_words(names) == words


@pytest.mark.parametrize(
    ("last", "rate"),
    [
        ({"eval_count": 16, "eval_duration": 250_000_000}, 64.0),
        ({"eval_count": 7, "eval_duration": 250_000_000}, 0.0),
        ({"eval_count": 16, "eval_duration": 0}, 0.0),
        ({"eval_count": "16", "eval_duration": 250_000_000}, 0.0),
        ({}, 0.0),
    ],
    ids=["a rate", "a short answer", "no time", "text", "nothing"],
)
def test_the_rate_of_an_answer(last: dict[str, object], rate: float) -> None:
    assert measured_speed.rate_of(last) == rate


def test_instances_of_a_run_are_compared_with_instances_before() -> None:
    speeds = Speeds()
    what = "qwen3:8b on NVIDIA L40S"
    first = [speeds.judge(f"gpu-0{n}/ollama1", Speed(what, 60.0)).passed for n in (1, 2, 3)]
    assert first == [None, None, True]
    assert speeds.judge("gpu-04/ollama1", Speed(what, 6.0)).passed is False
    assert speeds.judge("gpu-04/ollama1", Speed("qwen3:8b on NVIDIA T4", 6.0)).passed is None
    assert speeds.judge("gpu-04/ollama1", Speed(what, 58.0)).passed is True, "the same instance, after the repair"


@pytest.mark.parametrize(
    ("text", "measured"),
    [
        ("card NVIDIA L40S\nspeed 16 250000000 qwen3:8b\nat 10.0.0.1:3001\n", Speed("qwen3:8b on NVIDIA L40S", 64.0)),
        ("card A\ncard A\nspeed 16 1000000000 m\nat x\n", Speed("m:latest on 2 x A", 16.0)),
        ("card A\nspeed 5 1000000000 m\nat x\n", None),
        ("speed 16 1000000000 m\nat x\n", None),
        ("not asked: the speed of m: other requests were under way\nat x\n", None),
        ("card A\nspeed 99999999999999999999 1 m\n", None),
        ("", None),
    ],
)
def test_the_speed_in_the_answer_of_the_readiness_test(text: str, measured: Speed | None) -> None:
    assert readiness.speed(Answer(0, text.encode())) == measured


# -- requests under way: lines in the form of `ss -Htni`, written by hand

IDLE = """0      0      [::ffff:172.17.0.2]:11434 [::ffff:10.0.0.9]:51820
\t cubic wscale:7,7 rto:204 rtt:0.5/0.25 lastsnd:5200 lastrcv:9100 lastack:5200 rcv_space:14480
"""
FRESH = IDLE.replace("lastsnd:5200 lastrcv:9100", "lastsnd:4100 lastrcv:4100")
WAITING = IDLE.replace("lastsnd:5200 lastrcv:9100", "lastsnd:5200 lastrcv:2100")
STREAMING = IDLE.replace("lastsnd:5200 lastrcv:9100", "lastsnd:24 lastrcv:9100")
AT_THIS_MOMENT = IDLE.replace("lastsnd:5200 lastrcv:9100", "lastrcv:9100")
PROGRAMS = {
    "docker": '#!/bin/sh\necho "${PID-123}"\n',
    "nsenter": '#!/bin/sh\nprintf %s "$SAID"\nexit "${CODE:-0}"\n',
    "sleep": "#!/bin/sh\n",
}


def quiet(folder: Path, **says: str) -> str:
    """What the scripts say of the requests under way."""
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **says}
    text = f'{measured_speed.IN_FLIGHT}\nawait_quiet ollama1; still_quiet ollama1; echo "$quiet"'
    done = subprocess.run(
        ["sh", "-eu"], input=text, capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("said", ["", IDLE, FRESH, IDLE + FRESH], ids=["none", "kept open", "just made", "two"])
def test_an_open_connection_is_no_request(tmp_path: Path, said: str) -> None:
    assert quiet(tmp_path, SAID=said) == "yes"


@pytest.mark.parametrize(
    ("said", "when"),
    [
        (WAITING, "sent 5200, received 2100 ms ago"),
        (IDLE + STREAMING, "sent 24, received 9100 ms ago"),
        (AT_THIS_MOMENT, "sent 0, received 9100 ms ago"),
    ],
    ids=["waits", "streams", "now"],
)
def test_a_request_under_way_is_seen_and_its_client_is_named(tmp_path: Path, said: str, when: str) -> None:
    client = "[::ffff:10.0.0.9]:51820"
    assert quiet(tmp_path, SAID=said) == f"other requests were under way (client {client}, {when})"


@pytest.mark.parametrize("says", [{"CODE": "1"}, {"PID": "0"}, {"PID": "$(reboot)"}, {"PID": ""}])
def test_without_an_answer_nobody_knows_of_requests(tmp_path: Path, says: dict[str, str]) -> None:
    assert quiet(tmp_path, SAID="", **says).startswith("nobody knows")


def test_the_question_is_json(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-eu"], input=f"{readiness.REQUEST}\nrequest qwen3:8b", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["options"] == {"num_predict": measured_speed.TOKENS}


CURL = """#!/bin/sh
case "$*" in
  *api/generate*) echo x >>"$FOLDER/asked"; echo "{\\"eval_count\\":16,\\"n\\":$(wc -l <"$FOLDER/asked")}" ;;
esac
"""


@pytest.mark.parametrize(("said", "answers"), [("", 2), (WAITING, 1)], ids=["quiet", "busy"])
def test_verify_measures_no_first_answer_after_a_load(tmp_path: Path, said: str, answers: int) -> None:
    for name, text in {**PROGRAMS, "curl": CURL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": said, "FOLDER": str(tmp_path)}
    argv = ["sh", "-c", loaded_proof.QUESTION, "sh", "ollama1", "127.0.0.1:3001", "{}", "{}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, timeout=60)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert json.loads(base64.b64decode(told["answer"])) == {"eval_count": 16, "n": answers}
