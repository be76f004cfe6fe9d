"""The simulated Ollama server's further APIs: of OpenAI and Anthropic, and the making of models."""

import base64
import hashlib
import http.client
import json
import struct

import pytest

from provision.lab.simulated import ollama_store
from tests.unit.test_lab_ollama import MODEL, ask, frames, load, pulled, server

__all__ = ["pulled", "server"]
EMBEDDING = "nomic-embed-text"


def post(server, path, **body):
    """Return status and document of an answer about the model."""
    status, _, text = ask(server, "POST", path, {"model": MODEL, **body})
    return status, json.loads(text)


def events(server, path, **body):
    """Return name and document of each event of a stream."""
    _, headers, text = ask(server, "POST", path, {"model": MODEL, "stream": True, **body})
    assert headers["Content-Type"] == "text/event-stream"
    pairs = [event.split("\n") for event in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


# -- Anthropic


def test_a_message_has_thoughts_and_text(pulled):
    _, said = post(pulled, "/v1/messages", messages=MESSAGES, max_tokens=8, system="be short")
    assert [part["type"] for part in said["content"]] == ["thinking", "text"]
    assert (said["stop_reason"], said["usage"]["output_tokens"]) == ("max_tokens", 8)


def test_a_streamed_message_opens_and_closes_its_blocks(pulled):
    names = [name for name, _ in events(pulled, "/v1/messages", messages=MESSAGES, max_tokens=8)]
    block = ["content_block_start", *["content_block_delta"] * 6, "content_block_stop"]
    second = ["content_block_start", *["content_block_delta"] * 2, "content_block_stop"]
    assert names == ["message_start", *block, *second, "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("lacks", "error"),
    [
        ("model", "model is required"),
        ("max_tokens", "max_tokens is required and must be positive"),
        ("messages", "messages is required"),
    ],
)
def test_a_message_without_what_is_required(server, lacks, error):
    status, said = post(server, "/v1/messages", **{"messages": MESSAGES, "max_tokens": 1, lacks: None})
    assert (status, said["type"], said["error"]["message"]) == (400, "error", error)


def test_a_streamed_message_that_fails_ends_with_an_error(pulled):
    (pulled.faults / "ollama1.stream-fails").touch()
    name, said = events(pulled, "/v1/messages", messages=MESSAGES, max_tokens=8)[-1]
    assert (name, said["error"]["type"]) == ("error", "api_error")


# -- OpenAI


def test_a_response_has_thoughts_and_a_message(pulled):
    _, said = post(pulled, "/v1/responses", input="hello", max_output_tokens=8, instructions="be short")
    assert [item["type"] for item in said["output"]] == ["reasoning", "message"]
    assert (said["status"], said["usage"]["output_tokens"], said["instructions"]) == ("completed", 8, "be short")


def test_a_streamed_response_is_numbered_and_ends_with_the_whole(pulled):
    found = events(pulled, "/v1/responses", input=MESSAGES, max_output_tokens=8)
    assert [said["sequence_number"] for _, said in found] == list(range(len(found)))
    assert [name for name, _ in found[:3]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
    ]
    name, last = found[-1]
    assert name == "response.completed"
    text = "".join(said["delta"] for name, said in found if name == "response.output_text.delta")
    assert last["response"]["output"][1]["content"][0]["text"] == text == "This answer"


def test_max_completion_tokens_is_ignored(pulled):
    _, said = post(pulled, "/v1/chat/completions", messages=MESSAGES, max_completion_tokens=4)
    assert (said["usage"]["completion_tokens"], said["choices"][0]["finish_reason"]) == (22, "stop")


def test_reasoning_can_be_switched_off(pulled):
    _, said = post(pulled, "/v1/chat/completions", messages=MESSAGES, max_tokens=2, reasoning_effort="none")
    assert said["choices"][0]["message"] == {"role": "assistant", "content": "This answer"}
    assert post(pulled, "/v1/chat/completions", messages=MESSAGES, reasoning_effort="odd")[0] == 400


def test_vectors_can_be_packed_and_shortened(server):
    frames(server, "/api/pull", {"model": EMBEDDING})
    plain, packed = (
        post(server, "/v1/embeddings", model=EMBEDDING, input="x", encoding_format=form, dimensions=4)[1]["data"][0]
        for form in ("float", "base64")
    )
    unpacked = struct.unpack("<4f", base64.b64decode(packed["embedding"]))
    assert plain["embedding"] == pytest.approx(unpacked)
    assert post(server, "/v1/embeddings", model=EMBEDDING, input="x", encoding_format="odd")[0] == 400


def test_the_old_form_of_embed(pulled):
    frames(pulled, "/api/pull", {"model": EMBEDDING})
    assert len(post(pulled, "/api/embeddings", model=EMBEDDING, prompt="x")[1]["embedding"]) == 768
    assert post(pulled, "/api/embeddings", model=EMBEDDING)[1] == {"embedding": []}
    assert post(pulled, "/api/embeddings", prompt="x")[0] == 500


# -- models


def test_a_model_is_made_from_another(pulled):
    given = {"model": "mine", "from": MODEL, "system": "be short", "parameters": {"temperature": 1}}
    assert frames(pulled, "/api/create", given)[-1] == {"status": "success"}
    _, shown = post(pulled, "/api/show", model="mine")
    assert (shown["system"], shown["parameters"].split()) == ("be short", ["temperature", "1"])
    assert load(pulled, model="mine")["done_reason"] == "load"
    assert post(pulled, "/api/create", model="mine", stream=False)[1] == {
        "error": "neither 'from' or 'files' was specified"
    }
    assert post(pulled, "/api/create", **{"model": "../x", "from": MODEL})[1] == {"error": "invalid model name"}


def test_a_model_is_made_from_uploaded_weights(server):
    manifest, blobs = ollama_store.published("qwen3:8b")
    digest = manifest["layers"][0]["digest"]
    assert ask(server, "HEAD", f"/api/blobs/{digest}")[0] == 404
    assert upload(server, digest, b"others") == 400
    assert [upload(server, digest, blobs[digest]) for _ in range(2)] == [201, 200]
    assert ask(server, "HEAD", f"/api/blobs/{digest}")[0] == 200
    frames(server, "/api/create", {"model": "mine", "files": {"model.gguf": digest}})
    assert "tools" in post(server, "/api/show", model="mine")[1]["capabilities"]


def test_other_uploads_are_no_weights(server):
    digest = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    assert post(server, "/api/create", files={"x": digest}, stream=False)[0] == 404
    upload(server, digest, b"x")
    assert post(server, "/api/create", files={"x": digest}, stream=False) == (500, {"error": "invalid file magic"})


def upload(server, digest: str, data: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", f"/api/blobs/{digest}", data)
    return connection.getresponse().status


def test_a_model_is_shown_with_tensors_and_sizes(pulled):
    _, shown = post(pulled, "/api/show")
    assert len(shown["tensors"]) == 28 * 9 + 2
    assert "context_length" not in shown["details"]
    (listed,) = json.loads(ask(pulled, "GET", "/api/tags")[2])["models"]
    assert (listed["details"]["context_length"], listed["details"]["embedding_length"]) == (131072, 1536)


@pytest.mark.parametrize(
    ("value", "cloud"), [("1", {"disabled": True, "source": "env"}), ("", {"disabled": False, "source": "none"})]
)
def test_the_status_says_whether_the_cloud_is_off(server, monkeypatch, value, cloud):
    monkeypatch.setenv("OLLAMA_NO_CLOUD", value)
    assert json.loads(ask(server, "GET", "/api/status")[2]) == {"cloud": cloud}
