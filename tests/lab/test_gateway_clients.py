"""The gateway on a real nginx with its JavaScript module: keys, limits, usage. The instances are SIMULATED."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.roles import balancer_gateway
from provision.roles.balancer_gateway import Client
from provision.steps.nginx.router import NETWORKS
from tests.gateway import packaged_nginx
from tests.gateway.balancer import ALICE, BOB, CAROL, CHAT, GONE, KEYED, OLD, OPEN, Balancer, balancing, hashed, message
from tests.gateway.running import running
from tests.gateway.stub_instance import PROMPT_TOKENS, TOKENS

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("path", "status"), [(CHAT, 401), ("/v1/messages", 401), ("/api/chat", 403), ("/v1/models", 401)]
)
def test_a_key_that_is_missing_unknown_expired_or_revoked_is_refused(front: Balancer, path: str, status: int) -> None:
    method, body = ("GET", None) if path == "/v1/models" else ("POST", {"model": "tiny"})
    said = {}
    for key in ("", "sk-prov-unknown", OLD, GONE, "k" * 4000, "__proto__", hashed(ALICE)):
        reply = front.ask(method, path, body, key=key)
        assert (reply.status, reply.headers["x-should-retry"]) == (status, "false")
        said[key] = message(reply)
    assert "no key" in said[""]
    assert "expired" in said[OLD]
    assert "revoked" in said[GONE]
    assert front.taken() == []


def test_a_key_comes_as_bearer_or_as_x_api_key_and_stays_at_the_balancer(front: Balancer) -> None:
    ask = front.gateway.ask
    assert ask("POST", CHAT, {"model": "tiny"}, x_api_key=ALICE).status == 200
    assert ask("POST", CHAT, {"model": "tiny"}, Authorization=f"bearer  {ALICE}").status == 200
    assert ask("POST", CHAT, {"model": "tiny"}, Authorization=f"Bearer {ALICE}", x_api_key=ALICE).status == 200
    assert ask("POST", CHAT, {"model": "tiny"}, Authorization=f"Bearer {ALICE}", x_api_key=BOB).status == 401
    assert ask("POST", CHAT, {"model": "tiny"}, Authorization=f"Basic {ALICE}").status == 401
    requests = front.instances[1].take()
    assert len(requests) == 3
    assert not [request for request in requests if {"authorization", "x-api-key"} & request.headers.keys()]
    front.gateway.row(front.ask("GET", "/v1/models").mark)
    assert ALICE not in (front.gateway.folder / "access.log").read_text() + front.gateway.errors
    assert ALICE not in "".join(content.decode() for content in KEYED.files.values())


def test_a_client_has_its_models_and_its_own_instances(front: Balancer) -> None:
    reply = front.post(CHAT, {"model": "deepseek-r1:32b"}, key=BOB)
    assert (reply.status, reply.json["error"]["code"]) == (403, "model_not_allowed")
    assert "served: tiny:latest" in message(reply)
    assert front.post(CHAT, {"model": "tiny"}, key=BOB).status == 200
    assert front.post(CHAT, {"model": "tiny"}, key=CAROL).status == 200
    assert front.post(CHAT, {"model": "deepseek-r1:32b"}, key=CAROL).status == 404
    assert [name for name, _ in front.taken()] == ["ollama_2", "line_2"]


def test_a_network_may_need_no_key(tmp_path: Path) -> None:
    with balancing(tmp_path, replace(KEYED, networks={"127.0.0.0/8": "cli"})) as balancer:
        reply = balancer.post("/api/chat", {"model": "tiny"}, key="")
        assert (reply.status, balancer.gateway.row(reply.mark)["name"]) == (200, "cli")
        assert balancer.post("/api/chat", {"model": "tiny"}, key=OLD).status == 403


@pytest.mark.parametrize(("network", "status"), [("192.0.2.0/24", 401), ("127.0.0.0/8", 200)])
def test_the_most_specific_network_says_who_asks(tmp_path: Path, network: str, status: int) -> None:
    networks = {network: "cli", "fd00::/64": "cli", "::1/128": "bob"}
    with balancing(tmp_path, replace(KEYED, networks=networks)) as balancer:
        assert balancer.ask("GET", "/v1/models", key="").status == status
        assert balancer.post(CHAT, {"model": "tiny"}).status == 200, "a key is good everywhere"


def test_a_client_of_a_network_has_its_limits(tmp_path: Path) -> None:
    clients = (Client("cli", models=("tiny:latest",), rate=6),)
    with balancing(tmp_path, replace(KEYED, clients=clients, keys=(), networks={"127.0.0.0/8": "cli"})) as balancer:
        assert balancer.post(CHAT, {"model": "deepseek-r1:32b"}, key="").status == 403
        assert [balancer.post(CHAT, {"model": "tiny"}, key="").status for _ in range(2)] == [200, 429]


def test_a_network_of_an_unknown_client_or_without_a_client_is_refused(tmp_path: Path) -> None:
    """After a rollback the file of the networks may be empty, and no client may be unknown."""
    gateway = replace(KEYED, networks={"127.0.0.0/8": "cli"})
    nobody = balancer_gateway.networks_file({})
    unknown = balancer_gateway.networks_file({"127.0.0.0/8": "dave"})
    for name, networks, status in (("revoked", nobody, 403), ("unknown", unknown, 500)):
        (tmp_path / name).mkdir()
        with balancing(tmp_path / name, gateway, changed={NETWORKS: networks}) as balancer:
            assert balancer.post("/api/chat", {"model": "tiny"}, key="").status == status
            assert balancer.taken() == []
            assert balancer.post("/api/chat", {"model": "tiny"}).status == 200


def test_without_clients_nobody_needs_a_key(tmp_path: Path) -> None:
    with balancing(tmp_path, OPEN) as balancer:
        assert balancer.post(CHAT, {"model": "tiny"}, key="").status == 200
        assert balancer.post(CHAT, {"model": "tiny"}, key="any").status == 200


def test_openai_alone_leaves_no_native_path_open(tmp_path: Path) -> None:
    with balancing(tmp_path, replace(KEYED, api="openai")) as balancer:
        for path in ("/api/chat", "/api/generate", "/api/embed", "/api/show"):
            assert balancer.post(path, {"model": "tiny"}).status == 403
        assert balancer.taken() == []
        assert balancer.post(CHAT, {"model": "tiny"}).status == 200
        assert balancer.ask("GET", "/api/tags").status == 200


def test_an_answer_may_be_bounded_in_tokens(tmp_path: Path) -> None:
    with balancing(tmp_path, replace(OPEN, max_tokens=100)) as balancer:
        for path, asked, key in (
            ("/api/chat", {"options": {"num_predict": -1}}, "options"),
            ("/api/generate", {}, "options"),
            (CHAT, {"Max_Tokens": 9999}, "max_tokens"),
            (CHAT, {"max_tokens": 7}, "max_tokens"),
            ("/v1/responses", {}, "max_output_tokens"),
        ):
            assert balancer.post(path, {"model": "tiny", **asked}).status == 200
            ((_, arrived),) = balancer.taken()
            wanted: Any = 7 if asked == {"max_tokens": 7} else 100
            assert arrived[key] == ({"num_predict": wanted} if key == "options" else wanted)


@pytest.mark.parametrize(
    ("path", "more", "row"),
    [
        ("/api/chat", {}, (PROMPT_TOKENS, TOKENS, "false")),
        ("/api/generate", {"stream": False}, (PROMPT_TOKENS, TOKENS, "false")),
        ("/api/embed", {}, (PROMPT_TOKENS, 0, "false")),
        (CHAT, {}, (PROMPT_TOKENS, TOKENS, "false")),
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}, (PROMPT_TOKENS, TOKENS, "false")),
        (CHAT, {"stream": True}, (0, TOKENS + 1, "true")),
        ("/v1/embeddings", {}, (PROMPT_TOKENS, 0, "false")),
        ("/v1/messages", {"stream": True}, (PROMPT_TOKENS, TOKENS, "false")),
        ("/v1/messages", {}, (PROMPT_TOKENS, TOKENS, "false")),
        ("/v1/responses", {"stream": True}, (PROMPT_TOKENS, TOKENS, "false")),
        ("/v1/responses", {}, (PROMPT_TOKENS, TOKENS, "false")),
    ],
)
def test_the_log_has_the_tokens_of_the_last_frame(front: Balancer, path: str, more: Any, row: Any) -> None:
    """A stream without a count has an estimate: a frame for a token, and the mark of the end."""
    reply = front.post(path, {"model": "tiny", **more})
    assert reply.status == 200
    found = front.gateway.row(reply.mark)
    assert (int(found["tokens_in"]), int(found["tokens_out"]), found["estimated"]) == row
    assert (found["name"], found["key"], found["model"]) == ("alice", hashed(ALICE)[:8], "tiny:latest")


@contextmanager
def held_stream(balancer: Balancer, key: str) -> Iterator[socket.socket]:
    """A stream that has begun and does not end."""
    balancer.instances[1].hold.clear()
    with closing(socket.create_connection(("127.0.0.1", balancer.gateway.port), timeout=30)) as stream:
        body = b'{"model":"tiny"}'
        lines = ["POST /api/chat HTTP/1.1", "Host: a", f"Authorization: Bearer {key}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "X-Stainless-Retry-Count: held", "", ""])
        stream.sendall(head.encode() + body)
        received = b""
        while b'"done"' not in received:  # the first frame, which may come after the head
            piece = stream.recv(65536)
            assert piece, received
            received += piece
        assert received.startswith(b"HTTP/1.1 200")
        yield stream
    balancer.instances[1].hold.set()


def test_a_stream_that_the_client_leaves_is_estimated(front: Balancer) -> None:
    with held_stream(front, ALICE):
        pass
    found = front.gateway.row("held")
    assert (found["estimated"], found["status"]) == ("true", 200)
    assert 1 <= int(found["tokens_out"]) <= TOKENS + 1


def test_a_client_has_a_number_of_requests_at_once(tmp_path: Path) -> None:
    words = (Client("default", concurrency=1), Client("hostnames", concurrency=1), Client("tom", concurrency=1))
    clients = (Client("alice", concurrency=1), Client("bob"), *words)
    with balancing(tmp_path, replace(KEYED, clients=clients, keys=KEYED.keys[:2])) as balancer:
        with held_stream(balancer, ALICE):
            for path, shape in ((CHAT, "error"), ("/v1/messages", "error"), ("/api/chat", "error")):
                reply = balancer.post(path, {"model": "deepseek-r1:32b"})
                assert (reply.status, reply.headers["retry-after"]) == (429, "5")
                assert "too many requests" in message(reply)
                assert shape in reply.json
                assert "x-should-retry" not in reply.headers
            assert balancer.post(CHAT, {"model": "deepseek-r1:32b"}, key=BOB).status == 200
        deadline = time.monotonic() + 10
        while (reply := balancer.post(CHAT, {"model": "deepseek-r1:32b"})).status == 429:
            assert time.monotonic() < deadline, "the place of a client that left is free again"
        assert reply.status == 200


def test_a_client_has_a_number_of_requests_in_a_minute(tmp_path: Path) -> None:
    clients = (Client("alice", rate=6), Client("bob"), Client("volatile", rate=6))
    with balancing(tmp_path, replace(KEYED, clients=clients, keys=KEYED.keys[:2])) as balancer:
        statuses = [balancer.post(CHAT, {"model": "tiny"}).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429], "a burst of ten seconds, and the first request"
        assert balancer.post(CHAT, {"model": "tiny"}, key=BOB).status == 200


def test_a_day_of_tokens_is_used_up(tmp_path: Path) -> None:
    """The request that passes the bound is answered in full; only the next is refused."""
    clients = (Client("alice", tokens_per_day=PROMPT_TOKENS + TOKENS + 1), Client("bob"))
    with balancing(tmp_path, replace(KEYED, clients=clients, keys=KEYED.keys[:2])) as balancer:
        for _ in range(2):
            balancer.gateway.row(balancer.post("/api/chat", {"model": "tiny"}).mark)
        assert len(balancer.taken()) == 2
        reply = balancer.post(CHAT, {"model": "tiny"})
        assert (reply.status, reply.json["error"]["code"]) == (429, "insufficient_quota")
        assert reply.headers["x-should-retry"] == "false"
        assert 1 <= int(reply.headers["retry-after"]) <= 120
        assert balancer.ask("GET", "/v1/models").status == 200
        assert balancer.post(CHAT, {"model": "tiny"}, key=BOB).status == 200


def test_a_pool_without_an_instance_is_busy_in_the_shape_of_the_api(tmp_path: Path) -> None:
    ports = {name: [1] for name in ("ollama", "ollama_2", "line_2")}
    with running(packaged_nginx.unpacked(), tmp_path, OPEN, ports) as gateway:
        reply = gateway.ask("POST", "/v1/messages", {"model": "tiny"})
        assert (reply.status, reply.json["error"]["type"]) == (503, "overloaded_error")
        assert reply.headers["retry-after"] == "5"


def test_an_error_of_an_instance_passes_and_costs_nothing(front: Balancer) -> None:
    front.instances[1].status = 404
    try:
        reply = front.post("/api/chat", {"model": "tiny"})
    finally:
        front.instances[1].status = 200
    assert (reply.status, reply.json) == (404, {"error": "as told"})
    assert front.gateway.row(reply.mark)["tokens_out"] == "0"


def test_a_browser_may_ask_before_it_sends_a_key(front: Balancer) -> None:
    assert front.ask("OPTIONS", "/api/chat", {"model": "tiny", "keep_alive": 0}, key="").status == 200
    assert [body for _, body in front.taken()] == [None]
