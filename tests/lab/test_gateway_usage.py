"""The log of a real nginx with the gateway, added up as by `provision usage`. The instances are SIMULATED."""

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from provision.command import Answer
from provision.roles.balancer_gateway import Client
from provision.steps.nginx import access_log
from provision.steps.nginx.access_log import Row
from tests.gateway import packaged_nginx
from tests.gateway.balancer import ALICE, BOB, CAP, CHAT, GONE, KEYED, OLD, OPEN, Balancer, balancing, hashed
from tests.gateway.running import free_port, running
from tests.gateway.stub_instance import PROMPT_TOKENS, TOKENS

pytestmark = pytest.mark.lab
ASIDE = '","name":"bob","key":"00000000","tokens_out":"999999'


def rows(balancer: Balancer) -> Mapping[tuple[str, str, str, int, str], Row]:
    """Return the sums of the log: client, key, model, status and reason of a refusal -> the row."""
    balancer.gateway.row(balancer.ask("GET", "/v1/models").mark)
    command = access_log.command(int(time.time()) - 3600, str(balancer.gateway.folder))
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=True, env=environment)
    log = access_log.read(Answer(0, done.stdout))
    assert (log.unread, log.damaged) == (0, 0)
    assert log.begins is not None
    assert abs(log.begins - time.time()) < 600
    return {(row.client, row.key, row.model, row.status, row.reason): row for row in log.rows}


def test_the_log_of_nginx_gives_the_tokens_of_each_key(tmp_path: Path) -> None:
    with balancing(tmp_path, KEYED) as balancer:
        for _ in range(3):
            assert balancer.post(CHAT, {"model": "tiny"}).status == 200
        assert balancer.post(CHAT, {"model": "tiny", "stream": True}).status == 200
        hostile = {"X_Stainless_Read_Timeout": ASIDE, "User_Agent": ASIDE}
        assert balancer.post("/api/chat", {"model": "tiny", ASIDE: 1}, key=BOB, **hostile).status == 200
        assert balancer.post("/api/show", {"model": "tiny"}, key=BOB).status == 200
        balancer.ask("GET", f"/v1/models/{ASIDE}", key=BOB)
        found = rows(balancer)
        alice = found["alice", hashed(ALICE)[:8], "tiny:latest", 0, ""]
        assert (alice.requests, alice.estimated, alice.uncounted) == (4, 1, 0)
        assert (alice.tokens_in, alice.tokens_out) == (3 * PROMPT_TOKENS, 4 * TOKENS + 1)
        bob = found["bob", hashed(BOB)[:8], "tiny:latest", 0, ""]
        assert (bob.requests, bob.tokens_in, bob.tokens_out, bob.estimated) == (2, PROMPT_TOKENS, TOKENS, 0)
        assert {row.client for row in found.values()} == {"alice", "bob"}


def test_the_log_of_nginx_has_the_reason_of_each_refusal(tmp_path: Path) -> None:
    clients = (Client("alice", tokens_per_day=1), Client("bob", models=("tiny:latest",)), Client("carol", rate=1))
    keys = tuple(key for key in KEYED.keys if key.client in ("alice", "bob"))
    with balancing(tmp_path, replace(KEYED, clients=clients, keys=keys)) as balancer:
        for key in ("", "sk-prov-unknown", OLD, GONE):
            balancer.post(CHAT, {"model": "tiny"}, key=key)
        for body in ({"model": "nope"}, {"model": "deepseek-r1:32b"}, {"Model": "tiny"}, {"model": "a" * CAP}):
            balancer.post(CHAT, body, key=BOB)
        balancer.post(CHAT, {"model": "tiny"}, key=BOB, Content_Encoding="zstd")
        balancer.ask("GET", CHAT, key=BOB)
        balancer.post("/api/pull", {"model": "tiny"}, key=BOB)
        balancer.gateway.row(balancer.post(CHAT, {"model": "tiny"}).mark)
        balancer.post(CHAT, {"model": "tiny"})
        refused = {(key, status, reason) for client, key, _, status, reason in rows(balancer) if status}
    bob, alice = hashed(BOB)[:8], hashed(ALICE)[:8]
    assert refused == {
        ("", 401, "no key"),
        ("", 401, "unknown key"),
        (hashed(OLD)[:8], 401, "expired key"),
        (hashed(GONE)[:8], 401, "revoked key"),
        (bob, 404, "unknown model"),
        (bob, 403, "model not allowed"),
        (bob, 400, "invalid body"),
        (bob, 413, "too large"),
        (bob, 415, "encoded body"),
        (bob, 405, "wrong method"),
        (bob, 403, "closed path"),
        (alice, 429, "tokens of the day used"),
    }


def test_a_limit_and_a_pool_without_an_instance_are_reasons_too(tmp_path: Path) -> None:
    clients = (Client("alice", rate=1), Client("bob"))
    keys = tuple(key for key in KEYED.keys if key.client in ("alice", "bob"))
    with balancing(tmp_path, replace(KEYED, clients=clients, keys=keys)) as balancer:
        for _ in range(4):
            balancer.post(CHAT, {"model": "tiny"})
        balancer.instances[1].status = 500
        balancer.post(CHAT, {"model": "tiny"}, key=BOB)
        found = rows(balancer)
    limited = found["alice", hashed(ALICE)[:8], "", 429, "too many requests"]
    assert (limited.kind, limited.requests) == ("refused", 2 + 1), "the limit refuses the list of models too"
    failed = found["bob", hashed(BOB)[:8], "tiny:latest", 0, ""]
    assert (failed.kind, failed.requests) == ("failed", 1)


def test_a_dead_instance_is_another_reason_than_a_busy_instance(tmp_path: Path) -> None:
    ports = {name: [free_port()] for name in ("ollama", "ollama_2", "line_2")}
    with running(packaged_nginx.unpacked(), tmp_path, OPEN, ports) as gateway:
        reply = gateway.ask("POST", CHAT, {"model": "tiny"})
        assert reply.status == 503
        assert gateway.row(reply.mark)["refused"] == "no instance answers"
        again = gateway.ask("POST", CHAT, {"model": "tiny"})
        assert again.body == reply.body, "a client sees no difference"
