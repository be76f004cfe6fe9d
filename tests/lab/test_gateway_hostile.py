"""Hostile requests against the gateway on a real nginx: none reaches a closed path, and none changes a loaded model."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from provision.roles.balancer_gateway import Client, Gateway, Key, Served
from tests.gateway import packaged_nginx, stub_instance
from tests.gateway.hostile import attacks
from tests.gateway.rules import broken_rules
from tests.gateway.running import RunningGateway, running
from tests.gateway.stub_instance import StubInstance

pytestmark = pytest.mark.lab
SEED = 24
CAP = 64 * 1024
GOOD = "sk-prov-good-0123456789abcdef"
OLD = "sk-prov-old-0123456789abcdef"
GONE = "sk-prov-gone-0123456789abcdef"
MODELS = {"ollama": frozenset({"deepseek-r1:32b"}), "ollama_2": frozenset({"tiny:latest"})}
ASKED = ("deepseek-r1:32b", "tiny", "tiny:latest", "other:7b")


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


GATEWAY = Gateway(
    models={"deepseek-r1:32b": Served({"": "ollama"}), "tiny:latest": Served({"": "ollama_2"})},
    clients=(Client("alice"),),
    keys=(Key(hashed(GOOD), "alice"), Key(hashed(OLD), "alice", expires=1), Key(hashed(GONE), "alice", revoked=True)),
    cap=CAP,
)


@contextmanager
def attacked(folder: Path) -> Iterator[tuple[RunningGateway, list[StubInstance]]]:
    with stub_instance.serving("ollama") as first, stub_instance.serving("ollama_2") as second:
        ports = {"ollama": [first.port], "ollama_2": [second.port]}
        with running(packaged_nginx.unpacked(), folder, GATEWAY, ports, patience=1) as gateway:
            yield gateway, [first, second]


def is_a_crash(line: str) -> bool:
    """Whether a line of nginx's error log is about a lost worker or an exception of a script."""
    return any(f"[{level}]" in line for level in ("crit", "alert", "emerg")) or ("[error]" in line and "js " in line)


def survives(folder: Path, seed: int, count: int) -> None:
    """Send requests and hold every request that reaches an instance, and every answer, against the rules."""
    statuses: Counter[int] = Counter()
    reached = 0
    with attacked(folder) as (gateway, instances):
        for attack in attacks(seed, count, (GOOD, OLD, GONE), ASKED, CAP):
            status = gateway.send(attack.request, ends=attack.ends).status
            statuses[status] += 1
            arrived = [request for instance in instances for request in instance.take()]
            broken = [rule for request in arrived for rule in broken_rules(request, MODELS[request.instance], (GOOD,))]
            assert broken == [], (attack.request[:3000], arrived)
            assert status != 500, (attack.request[:3000], gateway.errors[-2000:])
            reached += len(arrived)
        errors = [line for line in gateway.errors.splitlines() if is_a_crash(line)]
        assert gateway.ask("POST", "/api/chat", {"model": "tiny"}, Authorization=f"Bearer {GOOD}").status == 200
        assert GOOD not in (gateway.folder / "access.log").read_text()
    assert errors == []
    assert reached > count / 20, f"too few requests came far enough: {statuses}"
    assert {200, 400, 401, 403, 404, 405, 413, 415} <= set(statuses) | ({413} if count < 1000 else set()), statuses


def test_hostile_requests_reach_nothing_closed(tmp_path: Path) -> None:
    survives(tmp_path, SEED, 400)


@pytest.mark.matrix
def test_ten_thousand_hostile_requests_reach_nothing_closed(tmp_path: Path) -> None:
    survives(tmp_path, SEED + 1, 10_000)


def test_an_unfinished_request_is_given_up(tmp_path: Path) -> None:
    """A client that sends its request byte by byte gets no worker for itself, and an end after a while."""
    with attacked(tmp_path) as (gateway, instances):
        slow = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        head = f"POST /api/chat HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {GOOD}\r\nContent-Length: 99\r\n\r\n"
        slow.sendall(head.encode() + b"{")
        assert gateway.ask("POST", "/api/chat", {"model": "tiny"}, Authorization=f"Bearer {GOOD}").status == 200
        with slow:
            assert slow.recv(65536)[:12] in (b"", b"HTTP/1.1 408")
        assert len(instances[1].take()) == 1
