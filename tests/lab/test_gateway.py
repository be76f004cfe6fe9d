"""The gateway on a real nginx with its JavaScript module: routing, refusals, bodies. The instances are SIMULATED."""

import json

import pytest

from provision.steps.engines import canonical
from tests.gateway.balancer import ALICE, BOB, CAP, CHAT, Balancer, message

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("asked", "upstream"),
    [
        ("tiny", "ollama_2"),
        ("tiny:latest", "ollama_2"),
        ("TINY:Latest", "ollama_2"),
        ("library/tiny", "ollama_2"),
        ("registry.ollama.ai/library/tiny:latest", "ollama_2"),
        ("deepseek-r1:32b", "ollama"),
        ("DeepSeek-R1:32B", "ollama"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
def test_a_request_reaches_an_instance_of_its_model(front: Balancer, path: str, asked: str, upstream: str) -> None:
    assert canonical(asked.lower()) in {"ollama": ("deepseek-r1:32b",), "ollama_2": ("tiny:latest",)}[upstream]
    assert front.post(path, {"model": asked, "messages": []}).status == 200
    assert [name for name, _ in front.taken()] == [upstream]


@pytest.mark.parametrize(
    "asked",
    [
        *("unknown", "deepseek-r1", "x/tiny", "registry.ollama.ai/x/tiny", "registry.ollama.ai/tiny"),
        *("library/library/tiny", "__proto__", "constructor", "tiny\r\nX: y", "m" * 9000),
    ],
)
def test_an_unknown_model_is_refused_and_the_refusal_names_what_is_served(front: Balancer, asked: str) -> None:
    for path in (CHAT, "/v1/messages", "/api/generate"):
        reply = front.post(path, {"model": asked})
        assert reply.status == 404
        assert "served: deepseek-r1:32b, tiny:latest" in message(reply)
    assert front.taken() == []


def test_a_refusal_has_the_shape_of_the_api(front: Balancer) -> None:
    openai = front.post(CHAT, {"model": "no"})
    assert openai.json["error"] == {
        "message": 'the model "no" is not served here; served: deepseek-r1:32b, tiny:latest',
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }
    anthropic = front.post("/v1/messages", {"model": "no"}).json
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "not_found_error"
    assert isinstance(front.post("/api/chat", {"model": "no"}).json["error"], str)
    assert openai.headers["content-type"] == "application/json"
    assert openai.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"model":1}',
        b'{"model":""}',
        b'{"Model":"tiny"}',
        b'{"model":"tiny","MODEL":"deepseek-r1:32b"}',
        b'{"model":"tiny","model":"deepseek-r1:32b"}',
        b'{"model":"tiny","mod\\u0065l":"deepseek-r1:32b"}',
        b'{"model":"tiny","\\u004dodel":"tiny"}',
        b'{"model":"tiny"}{"model":"deepseek-r1:32b"}',
        b'\xef\xbb\xbf{"model":"tiny"}',
    ],
)
def test_a_body_that_two_parsers_may_read_in_two_ways_is_refused(front: Balancer, body: bytes) -> None:
    for path in (CHAT, "/api/chat"):
        assert front.post(path, body).status == 400
    assert front.taken() == []


def test_a_nested_key_model_is_no_second_model(front: Balancer) -> None:
    schema = {"type": "object", "properties": {"model": {"type": "string"}, 'x"model': {"type": "string"}}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": '"model": "other"'}], "tools": [schema]}
    assert front.post(CHAT, body).status == 200
    assert front.post("/api/chat", body).status == 200
    assert [found for _, found in front.taken()] == [body, {**body, "model": "tiny:latest"}]


def test_the_program_ollama_names_the_model_of_show_by_name(front: Balancer) -> None:
    """Its body has `model` too, which is empty; of a real program in tests/real/test_clients.py."""
    sent = {"model": "", "system": "", "template": "", "verbose": False, "options": None, "name": "tiny"}
    assert front.post("/api/show", sent).status == 200
    assert front.post("/api/show", {**sent, "model": "tiny", "name": ""}).status == 200
    assert front.taken() == [("ollama_2", {"model": "tiny:latest", "verbose": False})] * 2
    for other in ({"name": ""}, {"Model": "deepseek-r1:32b"}, {"Name": "deepseek-r1:32b"}, {"name": 1}):
        assert front.post("/api/show", {**sent, **other}).status == 400
    assert front.post("/api/chat", sent).status == 400
    assert front.post("/api/show", {**sent, "name": "deepseek-r1:32b"}, key=BOB).status == 403
    assert front.taken() == []


def test_a_body_with_many_keys_model_is_written_anew(front: Balancer) -> None:
    """A search for every key would take seconds for a large body. The last of two equal keys wins, as in Go."""
    nested = b'"messages":[' + b",".join([b'{"model":"x"}'] * 9) + b"]"
    assert front.post(CHAT, b'{"model":"deepseek-r1:32b",' + nested + b',"model":"tiny"}').status == 200
    ((upstream, arrived),) = front.taken()
    assert (upstream, arrived["model"]) == ("ollama_2", "tiny")
    many = b'"prompt":"a","n":[' + b",".join([b"1"] * 20_000) + b"]"
    assert front.post(CHAT, b'{"x":{"model":1},"model":"deepseek-r1:32b",' + many + b',"model":"tiny"}').status == 200
    assert [upstream for upstream, _ in front.taken()] == ["ollama_2"]
    reply = front.post(CHAT, b'{"model":"deepseek-r1:32b","model":"tiny","messages":[{"model":"x"}]}')
    assert reply.status == 400


def test_a_body_with_too_many_keys_is_refused(front: Balancer) -> None:
    many = {f"key{number}": 1 for number in range(300)}
    for path in (CHAT, "/api/chat"):
        assert front.post(path, {"model": "tiny", **many}).status == 400
    assert front.taken() == []
    assert front.post("/api/chat", {"model": "tiny", "options": many}).headers["x-gateway-dropped"] == "options"
    assert front.taken() == [("ollama_2", {"model": "tiny:latest"})]


def test_a_body_with_too_many_objects_and_arrays_is_refused(front: Balancer) -> None:
    """Brackets in a text are no arrays."""
    for path in (CHAT, "/api/chat"):
        assert front.post(path, {"model": "tiny", "messages": [[]] * 25_000}).status == 400
        assert front.taken() == []
        assert front.post(path, {"model": "tiny", "messages": [{"content": "[{" * 25_000}] * 2}).status == 200
        assert len(front.taken()) == 1


def test_other_refusals_before_a_body_is_read(front: Balancer) -> None:
    assert front.ask("GET", CHAT).status == 405
    assert front.ask("DELETE", "/api/chat").status == 405
    assert front.ask("POST", "/api/tags", {}).status == 405
    for encoding in ("zstd", "gzip", "identity", "0"):
        reply = front.gateway.ask(
            "POST", CHAT, {"model": "tiny"}, Authorization=f"Bearer {ALICE}", Content_Encoding=encoding
        )
        assert (reply.status, reply.json["error"]["type"]) == (415, "invalid_request_error")
    for path in ("/api/pull", "/api/delete", "/v1/audio/transcriptions", "/v1/chat/completions/", "//api//pull"):
        assert front.post(path, {"model": "tiny"}).status == 403
    assert front.taken() == []


def test_a_body_over_the_cap_is_refused_in_the_shape_of_the_api(front: Balancer) -> None:
    large = {"model": "tiny", "prompt": "a" * CAP}
    native = front.post("/api/generate", large)
    assert native.status == 413
    assert str(CAP) in native.json["error"]
    assert front.post(CHAT, large).json["error"]["code"] == "request_too_large"
    assert front.post("/v1/messages", large).json["error"]["type"] == "request_too_large"
    data = json.dumps(large).encode()
    chunked = f"POST /api/generate HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nConnection: close\r\n"
    parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:9], data[9:]))
    request = f"{chunked}Transfer-Encoding: chunked\r\n\r\n".encode() + parts + b"0\r\n\r\n"
    assert front.gateway.send(request).status == 413
    assert front.taken() == []
    small = {"model": "tiny", "prompt": "a" * (CAP - 100)}
    assert front.post("/api/generate", small).status == 200
    assert [len(body["prompt"]) for _, body in front.taken()] == [CAP - 100]


def test_native_bodies_pass_by_an_allow_list(front: Balancer) -> None:
    body = {
        "model": "Tiny",
        "messages": [{"role": "user", "content": "a"}],
        "Stream": False,
        "keep_alive": 0,
        "KEEP_ALIVE": "0s",
        "\u212aeep_alive": 0,
        "\u017fhift": True,
        "unknown": 1,
        "__proto__": {"keep_alive": 0},
        "options": {"seed": 1, "Temperature": 0.5, "num_ctx": 4096, "NUM_GPU": 0, "num_\u212aeep": 3},
    }
    reply = front.post("/api/chat", body)
    assert reply.status == 200
    ((_, arrived),) = front.taken()
    wanted = {"model": "tiny:latest", "messages": body["messages"], "stream": False}
    assert arrived == {**wanted, "options": {"seed": 1, "temperature": 0.5, "num_keep": 3}}
    dropped = reply.headers["x-gateway-dropped"].split(",")
    assert {"keep_alive", "KEEP_ALIVE", "?eep_alive", "unknown", "options.num_ctx", "options.NUM_GPU"} <= set(dropped)
    row = front.gateway.row(reply.mark)
    assert "keep_alive" in row["dropped"]


def test_the_order_of_keys_survives(front: Balancer) -> None:
    """Generation follows the order of a schema's properties."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in ("zeta", "alpha", "mid", "beta")}}
    front.post("/api/chat", {"model": "tiny", "format": schema, "keep_alive": 0})
    ((_, arrived),) = front.taken()
    assert list(arrived["format"]["properties"]) == ["zeta", "alpha", "mid", "beta"]
    assert arrived["format"] == schema


def test_a_body_of_v1_passes_as_it_is(front: Balancer) -> None:
    exact = b'{ "seed": 9007199254740993, "model":"tiny", "temperature": 1.0, "user":"\\u00e9" }'
    assert front.post(CHAT, exact).status == 200
    (request,) = front.instances[1].take()
    assert request.body == exact
    reply = front.post(CHAT, {"model": "tiny", "keep_alive": 0, "Options": {"num_ctx": 1}, "user": "a"})
    ((_, arrived),) = front.taken()
    assert arrived == {"model": "tiny", "user": "a"}
    assert reply.headers["x-gateway-dropped"] == "keep_alive,Options"


def test_lists_of_models_answer_for_the_fleet_and_for_the_client(front: Balancer) -> None:
    assert [entry["id"] for entry in front.ask("GET", "/v1/models").json["data"]] == ["deepseek-r1:32b", "tiny:latest"]
    assert [entry["id"] for entry in front.ask("GET", "/v1/models", key=BOB).json["data"]] == ["tiny:latest"]
    tags = front.ask("GET", "/api/tags").json["models"]
    assert tags[0] == {"name": "deepseek-r1:32b", "model": "deepseek-r1:32b", "digest": "a" * 64, "size": 7}
    assert front.ask("GET", "/v1/models/tiny").json["id"] == "tiny:latest"
    assert front.ask("GET", "/v1/models/other").status == 404
    assert front.taken() == []
