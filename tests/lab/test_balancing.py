"""Clients notice nothing when instances die, hosts vanish and nginx reloads, wherever that is possible."""

import asyncio
import contextlib
import hashlib
import json
import time

import pytest

from provision.lab import faults
from tests.bench.balancer import generations
from tests.bench.balancer.client import Ask, in_turn, keep_asking, play

pytestmark = pytest.mark.lab
HOSTS = ("gpu-01", "gpu-02")
KNOBS = "/etc/provision-lab/knobs.json"
RELOAD = ["systemctl", "reload", "provision-nginx"]


@pytest.fixture(autouse=True)
def nothing_twice(fleet, lab):
    """Answers have the length asked for, at 50 tokens a second; no answer is generated twice at once."""
    began = time.time()
    for host in HOSTS:
        lab.host(host).write(KNOBS, json.dumps({"tokens_per_second": 50, "answer_tokens": 5000}))
    yield
    for host in HOSTS:
        lab.host(host).run(["rm", KNOBS])
    forget(lab)
    made = generations.read(lab, began)
    assert made
    assert generations.twice(made) == []


@pytest.fixture
def ask(fleet, request):
    """Makes a request to the balancer, with a prompt of the test's own."""

    def make(name, tokens=3, at=0.0):
        return Ask(f"{request.node.name} {name}", tokens, fleet.address("lb-01"), 3008, at)

    return make


def forget(lab):
    """nginx forgets failed servers, and closes its idle connections."""
    lab.host("lb-01").run(RELOAD)


@contextlib.contextmanager
def repaired(fleet, lab):
    """Instances that die inside live again afterwards."""
    try:
        yield
    finally:
        fleet.deploy()
        forget(lab)


def kill(lab, host, *names):
    lab.host(host).run(["docker", "kill", *names])


async def during(asks, seconds, happens):
    """The answers to requests, while `happens` runs some seconds after the first request."""
    answers = asyncio.create_task(play(asks))
    await asyncio.sleep(seconds)
    await asyncio.to_thread(happens)
    return await answers


def failed(answers):
    return [answer for answer in answers if not answer.good]


def test_requests_that_waited_at_an_instance_that_dies_are_answered_by_another(fleet, lab, ask):
    # 24 seconds: the instance dies long before an answer ends, also where the command that kills takes seconds
    busy = [ask(f"busy {number}", 1200, at=number / 10) for number in range(4)]
    waiting = [ask(f"waiting {number}", at=1 + number / 10) for number in range(8)]
    with repaired(fleet, lab):
        answers = asyncio.run(during(busy + waiting, 6.5, lambda: kill(lab, "gpu-01", "ollama1")))
    assert failed(answers[4:]) == []
    assert sum("," in answer.instance for answer in answers[4:]) == 2, "none waited at the instance that died"
    # Requests that had begun there cannot be saved: their first tokens are with the client.
    assert [(lost.instance, lost.failure) for lost in failed(answers)] == [("gpu-01/ollama1", "cut")]


@pytest.mark.matrix
def test_no_request_fails_where_a_whole_host_is_gone(fleet, lab, ask):
    forget(lab)
    with repaired(fleet, lab):
        kill(lab, "gpu-01", "ollama1", "ollama2")
        answers = asyncio.run(in_turn([ask(number) for number in range(12)]))
    assert failed(answers) == []
    assert any(answer.instance.count(",") == 2 for answer in answers), "no request met both dead instances"


@pytest.mark.matrix
def test_a_host_that_does_not_even_refuse_is_passed_over(fleet, lab, ask):
    forget(lab)
    lab.cut("gpu-01")
    try:
        answers = asyncio.run(play([ask(number) for number in range(4)]))
    finally:
        lab.uncut("gpu-01")
    assert failed(answers) == []
    assert any("," in answer.instance for answer in answers), "no request met the host that is gone"


def test_an_instance_that_answers_503_is_not_seen_by_clients(fleet, lab, ask):
    faults.switch(lab, "gpu-02/ollama1", "answer-503", on=True)
    try:
        answers = asyncio.run(in_turn([ask(number) for number in range(8)]))
    finally:
        faults.switch(lab, "gpu-02/ollama1", "answer-503", on=False)
    assert failed(answers) == []
    assert any("," in answer.instance for answer in answers), "no request met the instance"


@pytest.mark.matrix
def test_a_slow_request_is_not_tried_elsewhere(fleet, lab, ask):
    fleet.vars["balancer"] = {"read_timeout": "2s"}
    fleet.deploy()
    began = time.time()
    try:
        busy = [ask(f"busy {number}", 200, at=number / 10) for number in range(4)]
        *answers, slow = asyncio.run(play([*busy, ask("slow", at=0.5)]))
    finally:
        del fleet.vars["balancer"]
        fleet.deploy()
    assert failed(answers) == []
    assert slow.failure == "503"
    prompt = hashlib.sha256(slow.name.encode()).hexdigest()[:16]
    assert prompt not in {made.prompt for made in generations.read(lab, began)}


def test_no_request_is_lost_over_twenty_five_reloads(fleet, lab, ask):
    async def scenario():
        until = asyncio.Event()
        clients = asyncio.create_task(keep_asking(ask("x", tokens=1), 8, until))
        for _ in range(25):
            await asyncio.sleep(0.2)
            await asyncio.to_thread(forget, lab)
        until.set()
        return await clients

    answers = asyncio.run(scenario())
    assert len(answers) > 100
    assert failed(answers) == []
