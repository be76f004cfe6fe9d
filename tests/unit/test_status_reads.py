"""The reads of `provision status`, by a real shell: load of cards, last minutes of the access log, streams, Docker."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from provision.command import Answer, Run
from provision.plan import role_interface
from provision.runs.setup import Setup
from provision.ssh import script
from provision.steps import card_load
from provision.steps.docker import glance, inspect
from provision.steps.nginx import in_flight, recent_log
from tests.unit.status_fleet import INVENTORY


def ask(command: Run, folder: Path, **programs: str) -> Answer:
    """Return the answer of a shell with stand-ins for programs, as text of a shell script."""
    for name, text in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        command.words, input=command.stdin, capture_output=True, env=environment, check=False, timeout=60
    )
    return Answer(done.returncode, done.stdout, done.stderr)


ROW = "{}, NVIDIA L40S, 6500, 46068, 37, 54"
WHOLE = f'case $* in *clocks_event*errors*|*errors*clocks_event*) echo "{ROW.format("GPU-1")}, 2, 0x40" ;; esac'
OLD = f"""
case $* in
  *utilization*errors*|*clocks_event*) echo 'Field "clocks_event_reasons.active" is not a valid field'; exit 2 ;;
  -L) echo 'GPU 0: NVIDIA L40S (UUID: GPU-1)' ;;
  *utilization*) echo "{ROW.format("GPU-1")}" ;;
  *errors*) echo 'GPU-1, [N/A]' ;;
  *clocks_throttle*) echo 'GPU-1, 0x0000000000000020' ;;
esac"""
LOST = f"""
case $* in
  -L) echo 'Unable to determine the device handle for gpu 0: GPU is lost.'; echo 'GPU 1: NVIDIA L40S (UUID: GPU-2)'; exit 15 ;;
  *"-i 1"*) case $* in *utilization*) echo "{ROW.format("GPU-2")}" ;; *errors*) echo 'GPU-2, 0' ;; *) echo 'GPU-2, 0x1' ;; esac ;;
  *) echo 'Unable to determine the device handle for GPU0: GPU is lost.'; exit 15 ;;
esac"""  # noqa: E501 - one line for each call


@pytest.mark.parametrize(
    ("program", "cards", "error"),
    [
        (WHOLE, [("GPU-1", 2, "too hot (hardware)")], ""),
        (OLD, [("GPU-1", None, "too hot (software)")], ""),
        (LOST, [("GPU-2", 0, "")], "a GPU is lost: it needs a reset or a reboot"),
        ("echo 'NVIDIA-SMI has failed'; exit 9", [], "the NVIDIA driver is not loaded"),
        ("echo 'No devices were found'; exit 6", [], "nvidia-smi found no devices"),
        ("exec sleep 30", [], card_load.nvidia_smi.ERRORS[124]),
    ],
    ids=["whole", "an old driver", "a lost card", "no driver", "no card", "a wedged driver"],
)
def test_the_load_of_cards(tmp_path: Path, program: str, cards: list[Any], error: str) -> None:
    found = card_load.read(ask(card_load.command(1), tmp_path, nvidia_smi=program))
    assert [(card.uuid, card.errors, card.slowed) for card in found.cards.values()] == cards
    assert found.error == error
    for card in found.cards.values():
        assert (card.used_mib, card.memory_mib, card.busy, card.celsius) == (6500, 46068, 37, 54)


def line(at: float, **values: Any) -> str:
    """Return a line of the gateway's access log."""
    usual = {"status": 200, "model": "m", "tokens_out": "10", "up": "10.0.0.1:3001", "up_status": "200"}
    row = {"ts": stamp(at), "client": "192.0.2.9", **usual, "uht": "0.500", "urt": "1.200", **values}
    return json.dumps(row, separators=(",", ":"))


def stamp(at: float) -> str:
    """Return a time in the words of nginx."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at))
    return f"{text[:-2]}:{text[-2:]}"


def recent(folder: Path, *lines: str, seconds: int = 300) -> recent_log.RecentLog:
    (folder / "access.log").write_text("".join(f"{one}\n" for one in lines))
    return recent_log.read(ask(recent_log.command(seconds, str(folder)), folder))


def test_requests_tokens_and_first_tokens_of_the_last_minutes(tmp_path: Path) -> None:
    now = time.time()
    found = recent(
        tmp_path,
        line(now - 4000),
        *[line(now - 10)] * 3,
        line(now - 5, up="10.0.0.9:3001, 10.0.0.2:3002", up_status="502, 200", uht="-, 7.200", urt="0.1, 8.0"),
        line(now - 5, status=502, up_status="502", tokens_out=""),
        line(now - 5, status=499, up_status="-", uht="-", urt="0.4"),
        line(now - 5, status=401, up="", up_status="", tokens_out=""),
        line(now - 5, status=502, up="ollama", up_status="502", tokens_out=""),
        "no request",
    )
    first, second = found.instances["10.0.0.1:3001"], found.instances["10.0.0.2:3002"]
    assert (first.requests, first.failed, first.counted, first.tokens) == (5, 1, 4, 40)
    assert (second.requests, second.tokens, second.seconds) == (1, 10, 8.0)
    assert 0.5 <= (first.quantile(0.95) or 0) <= 0.55
    assert 7.2 <= (second.quantile(0.95) or 0) <= 7.92
    assert (found.refused, found.unserved, found.unread, found.covered) == (2, 1, 1, 300)


def test_a_log_that_was_just_rotated_is_read_too_and_nothing_is_written(tmp_path: Path) -> None:
    now = time.time()
    (tmp_path / "access.log.1").write_text(line(now - 100) + "\n")
    assert recent(tmp_path, line(now)).instances["10.0.0.1:3001"].requests == 2
    os.utime(tmp_path / "access.log.1", (now - 9000, now - 9000))
    assert recent(tmp_path, line(now)).instances["10.0.0.1:3001"].requests == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.log", "access.log.1"]


def test_a_long_log_is_read_from_its_end_and_tells_how_far_back(tmp_path: Path) -> None:
    now = time.time()
    long = line(now - 200, uri="x" * 4000)
    number = recent_log.TAIL // len(long) + 100
    found = recent(tmp_path, *[long] * number, line(now - 60))
    assert found.instances["10.0.0.1:3001"].requests < number
    assert 195 <= found.covered <= 215


@pytest.mark.parametrize("value", ['a\\"b', "\\", '","up":"10.0.0.7:1', "x" * 5000])
def test_a_hostile_value_of_a_client_forges_nothing(tmp_path: Path, value: str) -> None:
    found = recent(tmp_path, line(time.time(), uri=value, name=value))
    assert list(found.instances) == ["10.0.0.1:3001"]


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    empty = recent_log.read(ask(recent_log.command(300, str(tmp_path / "none")), tmp_path))
    assert empty == recent_log.RecentLog()


UPSTREAM = """upstream ollama {
    zone ollama 64k;
    server 10.0.0.1:3001 max_conns=4; # gpu-01/ollama1
    server 10.0.0.2:3001; # gpu-02/ollama1
}
"""
SS = """
echo '0 0 10.0.0.5:40000 10.0.0.1:3001 cubic bytes_sent:100 bytes_received:9 lastsnd:5000 lastrcv:100 lastack:1'
echo '0 0 10.0.0.5:40001 10.0.0.1:3001 cubic bytes_sent:100 lastsnd:9000 lastrcv:9001 lastack:1'
echo '0 0 10.0.0.5:40002 10.0.0.1:3001 cubic bytes_sent:100 bytes_received:9 lastsnd:9000 lastrcv:8000 lastack:1'
echo '0 0 10.0.0.5:40003 10.0.0.1:3001 cubic lastsnd:100 lastrcv:100'
echo '0 0 10.0.0.5:443 192.0.2.9:3001 cubic bytes_sent:100 lastrcv:100'
"""


def test_streams_and_waiting_requests_count_and_idle_connections_do_not(tmp_path: Path) -> None:
    (tmp_path / "upstream.conf").write_text(UPSTREAM)
    found = in_flight.read(ask(in_flight.command(str(tmp_path)), tmp_path, ss=SS))
    assert found == {"10.0.0.1:3001": 2, "10.0.0.2:3001": 0}


def test_the_glance_of_an_idle_docker_is_read_as_the_look_at_docker(tmp_path: Path) -> None:
    programs = {"docker": "[ $1 != ps ] || printf '%s\\n' 0a1b", "systemctl": "echo active", "nvidia_smi": "exit 9"}
    found = inspect.read(ask(glance.command(), tmp_path, **programs))
    assert (found.containers, found.listing) == ({}, None)


@pytest.mark.parametrize("ids", ["echo --help", "echo '/etc/*'"])
def test_a_malformed_id_is_not_passed_on(tmp_path: Path, ids: str) -> None:
    answer = ask(glance.command(), tmp_path, docker=f"[ $1 != ps ] || {ids}", systemctl="echo active")
    assert answer.exit == inspect.BABBLES


def test_the_read_of_each_host_is_one_script_of_few_commands(tmp_path: Path) -> None:
    from provision.actions.status_reads import questions

    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    inventory = role_interface.load(str(path))
    asked = {host.name: questions(host, inventory, Setup(), 300).commands for host in inventory.hosts}
    texts = {
        name: script.assemble(list(commands.values()), script.make_mark(), stop=False)
        for name, commands in asked.items()
    }
    assert (list(asked["gpu-01"]), list(asked["lb-01"])) == (
        ["docker", "load", "run", "lock"],
        ["log", "flight", "balancer", "run", "lock"],
    )
    assert (len(texts["gpu-01"]) < 17_000, len(texts["lb-01"]) < 13_000) == (True, True)
    assert texts["gpu-01"].count(b"docker ps -aq") == 1
    assert not any(word in texts["lb-01"] for word in (b"docker", b"nvidia-smi"))
