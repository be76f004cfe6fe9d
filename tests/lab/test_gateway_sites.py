"""Sites on a real nginx with its JavaScript module: who serves, and when nobody is asked twice. Instances are
SIMULATED."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from provision.roles.balancer_gateway import Client, Gateway, Key, Served
from tests.gateway import packaged_nginx, stub_instance
from tests.gateway.balancer import ALICE, CHAT, Balancer, hashed, message
from tests.gateway.running import free_port, running

pytestmark = pytest.mark.lab

NAMES = ("ollama", "ollama_2", "ollama_3")
GATEWAY = Gateway(
    models={
        "big:1": Served({"": "ollama"}, elsewhere={"": ("ollama_2", "ollama_3")}),
        "small:1": Served({"": "ollama"}, elsewhere={"": ("ollama_3",)}),
        "far:1": Served({"": "ollama_3"}),
    },
    sites={"ollama": "east", "ollama_2": "west", "ollama_3": "north"},
)
BIG = {"model": "big:1", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Balancer]:
    with ExitStack() as stack:
        instances = [stack.enter_context(stub_instance.serving(name)) for name in NAMES]
        ports = {instance.name: [instance.port] for instance in instances}
        started = stack.enter_context(running(packaged_nginx.unpacked(), tmp_path, GATEWAY, ports))
        yield Balancer(started, instances)


def test_the_own_site_serves_and_is_named(front: Balancer) -> None:
    reply = front.post(CHAT, BIG)
    assert (reply.status, reply.headers["x-site"]) == (200, "east")
    assert [name for name, _ in front.taken()] == ["ollama"]
    assert front.gateway.row(reply.mark)["site"] == "east"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_the_next_site_serves_where_the_own_site_cannot(front: Balancer, status: int) -> None:
    front.instances[0].status = status
    reply = front.post(CHAT, BIG)
    assert (reply.status, reply.headers["x-site"]) == (200, "west")
    assert [(name, body["model"]) for name, body in front.taken()] == [("ollama", "big:1"), ("ollama_2", "big:1")]
    assert front.gateway.row(reply.mark)["site"] == "west"
    front.instances[1].status = status
    assert front.post(CHAT, BIG).headers["x-site"] == "north"


def test_each_model_goes_to_the_sites_that_have_it(front: Balancer) -> None:
    front.instances[0].status = 503
    reply = front.post(CHAT, {**BIG, "model": "small:1"})
    assert (reply.status, reply.headers["x-site"]) == (200, "north")
    reply = front.post(CHAT, {**BIG, "model": "far:1"})
    assert (reply.status, reply.headers["x-site"]) == (200, "north")


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_answer_of_the_own_site_stays_an_answer(front: Balancer, status: int) -> None:
    front.instances[0].status = status
    reply = front.post(CHAT, BIG)
    assert (reply.status, reply.json, reply.headers["x-site"]) == (status, {"error": "as told"}, "east")
    assert [name for name, _ in front.taken()] == ["ollama"]


def test_where_no_site_can_serve_the_client_gets_the_usual_refusal(tmp_path: Path) -> None:
    ports = {name: [free_port()] for name in NAMES}
    with running(packaged_nginx.unpacked(), tmp_path, GATEWAY, ports) as gateway:
        reply = gateway.ask("POST", CHAT, BIG)
        assert reply.status == 503
        assert "no instance can take this request now" in reply.json["error"]["message"]
        assert "x-site" not in reply.headers
        assert reply.headers["retry-after"] == "5"
        assert gateway.ask("GET", "/").status == 503


def test_the_paths_without_a_model_are_answered_by_another_site_too(tmp_path: Path) -> None:
    with stub_instance.serving("ollama_2") as west:
        ports = {"ollama": [free_port()], "ollama_2": [west.port], "ollama_3": [free_port()]}
        with running(packaged_nginx.unpacked(), tmp_path, GATEWAY, ports) as gateway:
            for path in ("/", "/api/version"):
                reply = gateway.ask("GET", f"{path}?x=/../api/delete")
                assert (reply.status, reply.headers["x-site"]) == (200, "west")
            assert [request.target for request in west.take()] == ["/", "/api/version"]
            assert gateway.ask("OPTIONS", CHAT, Origin="https://a.example").headers["x-site"] == "west"


def test_a_refusal_of_the_gateway_itself_is_the_usual_one_and_names_no_site(tmp_path: Path) -> None:
    limited = replace(GATEWAY, clients=(Client("alice", rate=1),), keys=(Key(hashed(ALICE), "alice"),))
    with stub_instance.serving("ollama") as east:
        ports = {"ollama": [east.port], "ollama_2": [free_port()], "ollama_3": [free_port()]}
        with running(packaged_nginx.unpacked(), tmp_path, limited, ports) as gateway:
            key = {"Authorization": f"Bearer {ALICE}"}
            for path, method, body in (("/", "GET", None), (CHAT, "POST", BIG)):
                replies = [gateway.ask(method, path, body, **key) for _ in range(4)]
                refused = [reply for reply in replies if reply.status == 429]
                assert refused, path
                assert all("too many requests" in message(reply) for reply in refused)
                assert all("x-site" not in reply.headers for reply in refused)


def test_a_stream_that_breaks_behind_its_first_byte_is_not_asked_again(tmp_path: Path) -> None:
    begin = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n"
    with stub_instance.serving("ollama_2") as west, closing(socket.create_server(("127.0.0.1", 0))) as breaking:

        def answer() -> None:
            connection, _ = breaking.accept()
            with closing(connection):
                connection.recv(65536)
                connection.sendall(begin)

        thread = threading.Thread(target=answer)
        thread.start()
        ports = {"ollama": [breaking.getsockname()[1]], "ollama_2": [west.port], "ollama_3": [free_port()]}
        with running(packaged_nginx.unpacked(), tmp_path, GATEWAY, ports) as gateway:
            reply = gateway.ask("POST", CHAT, {**BIG, "stream": True})
        thread.join()
    assert (reply.status, reply.headers["x-site"], reply.body) == (200, "east", b"data: ")
    assert west.take() == []
