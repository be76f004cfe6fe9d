"""The gateway on a real nginx: paths below the name of a model, and the status port. The instances are SIMULATED."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gateway.balancer import ALICE, BOB, CAROL, KEYED, Balancer, balancing, message
from tests.gateway.running import free_port

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("name", ["tiny", "tiny:latest", "TINY", "library/tiny", "registry.ollama.ai/library/tiny"])
def test_a_path_with_the_name_of_a_model_obeys_the_same_rules(front: Balancer, name: str) -> None:
    below = f"/models/{name}"
    reply = front.post(f"{below}/api/chat", {"model": "tiny", "messages": [], "keep_alive": 0})
    assert (reply.status, reply.headers["x-gateway-dropped"]) == (200, "keep_alive")
    assert front.post(f"{below}/v1/messages", {"model": "Tiny:latest"}).status == 200
    assert front.taken() == [
        ("ollama_2", {"model": "tiny:latest", "messages": []}),
        ("ollama_2", {"model": "Tiny:latest"}),
    ]
    assert [entry["id"] for entry in front.ask("GET", f"{below}/v1/models").json["data"]] == [
        "deepseek-r1:32b",
        "tiny:latest",
    ]
    assert front.ask("GET", f"{below}/v1/models/tiny").json["id"] == "tiny:latest"
    for path in ("/", "/api/version"):
        assert front.ask("GET", f"{below}{path}").status == 200
    assert [upstream for upstream, _ in front.taken()] == ["ollama_2", "ollama_2"]


def test_a_key_and_its_models_count_below_the_name_of_a_model(front: Balancer) -> None:
    chat = "/models/deepseek-r1:32b/v1/chat/completions"
    assert front.post(chat, {"model": "deepseek-r1:32b"}, key="").status == 401
    assert front.post("/models/tiny/api/chat", {"model": "tiny"}, key="").status == 403
    reply = front.post(chat, {"model": "deepseek-r1:32b"}, key=BOB)
    assert (reply.status, reply.json["error"]["code"]) == (403, "model_not_allowed")
    assert front.post(chat, {"model": "deepseek-r1:32b"}, key=CAROL).status == 404
    assert front.taken() == []
    reply = front.post("/models/tiny/v1/chat/completions", {"model": "tiny"}, key=CAROL)
    assert (reply.status, front.gateway.row(reply.mark)["model"]) == (200, "tiny:latest")
    assert [upstream for upstream, _ in front.taken()] == ["line_2"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_body_with_another_model_than_its_path_is_refused(front: Balancer, path: str) -> None:
    reply = front.post(f"/models/tiny{path}", {"model": "deepseek-r1:32b"})
    assert reply.status == 400
    assert 'the body has the model "deepseek-r1:32b", and the path "tiny"' in message(reply)
    assert front.taken() == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/models/tiny/api/pull", 403),
        ("DELETE", "/models/tiny/api/delete", 403),
        ("OPTIONS", "/models/tiny/api/pull", 403),
        ("POST", "/models/tiny/v1/../api/pull", 403),
        ("POST", "/models/tiny/v1/%2e%2e/api/pull", 403),
        ("POST", "/models/tiny/v1/audio/transcriptions", 403),
        ("POST", "/models/other/api/chat", 404),
        ("POST", "/models/-/v1/chat/completions", 404),
        ("POST", "/models//api/chat", 405),
        ("GET", "/models/", 404),
        ("GET", "/models/__proto__/", 404),
        ("GET", "/models/tiny/api/chat", 405),
        ("GET", "/models", 403),
    ],
)
def test_other_paths_below_a_name_are_closed(front: Balancer, method: str, path: str, status: int) -> None:
    reply = front.ask(method, path, {"model": "tiny"})
    assert reply.status == status
    assert isinstance(reply.json["error"], str) == (not path.endswith(("completions", "transcriptions")))
    assert front.taken() == []


def test_a_question_of_a_browser_never_carries_the_clients_path(front: Balancer) -> None:
    paths = ("/v1/chat/completions", "/models/tiny/api/chat", "/models/tiny/v1/models/a%0d%0ab", "/models/tiny/")
    assert {front.ask("OPTIONS", path, key="").status for path in paths} <= {200, 204, 404, 405, 501}
    arrived = [request.target for instance in front.instances for request in instance.take()]
    assert arrived == ["/v1/chat/completions", "/api/chat", "/v1/models", "/"]


def test_the_paths_without_a_model_are_answered_by_the_pool_of_the_client(front: Balancer) -> None:
    for key, instance in ((ALICE, "ollama"), (CAROL, "line_2")):
        for path in ("/", "/api/version"):
            assert front.ask("GET", path, key=key).status == 200
        assert front.taken() == [(instance, None)] * 2


def test_the_status_port_needs_no_key_and_has_both_apis(tmp_path: Path) -> None:
    port = free_port()
    with balancing(tmp_path, replace(KEYED, api="openai", status_port=port)) as balancer:
        inside = balancer.gateway.at(port)
        reply = inside.ask("POST", "/api/chat", {"model": "tiny", "keep_alive": 0})
        assert (reply.status, balancer.gateway.row(reply.mark)["name"]) == (200, "_provision_pools")
        assert inside.ask("POST", "/models/tiny/api/chat", {"model": "tiny"}).status == 200
        assert [body for _, body in balancer.taken()] == [{"model": "tiny:latest"}] * 2
        assert inside.ask("POST", "/api/pull", {"model": "tiny"}).status == 403
        assert inside.ask("POST", "/api/chat", {"model": "tiny"}, x_api_key="unknown").status == 403
        outside = balancer.gateway
        assert outside.ask("POST", "/api/chat", {"model": "tiny"}).status == 403
        assert balancer.post("/models/tiny/api/chat", {"model": "tiny"}, key=ALICE).status == 403
        assert balancer.post("/models/tiny/v1/chat/completions", {"model": "tiny"}, key=ALICE).status == 200


def test_the_tokens_of_answers_may_stay_uncounted(tmp_path: Path) -> None:
    with balancing(tmp_path, replace(KEYED, count=False), workers=2) as balancer:
        reply = balancer.post("/api/chat", {"model": "tiny"})
        row = balancer.gateway.row(reply.mark)
        assert (row["name"], row["tokens_in"], row["tokens_out"], row["estimated"]) == ("alice", "", "", "false")
