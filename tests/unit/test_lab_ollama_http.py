"""The simulated Ollama server at the level of HTTP and JSON, where the recordings of the real server have no case."""

import http.client
import json
import re
import socket

import pytest

from provision.lab.simulated import ollama_durations, ollama_json, ollama_names, ollama_origins
from tests.unit.test_lab_ollama import MODEL, ask, pulled, server

__all__ = ["pulled", "server"]


def raw(server, text: str) -> str:
    """Return everything that the server says to a text, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(text.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


# -- requests


def test_a_body_in_chunks_is_read(pulled):
    connection = http.client.HTTPConnection("127.0.0.1", pulled.port, timeout=60)
    body = json.dumps({"model": MODEL}).encode()
    pieces = iter([body[:5], body[5:]])
    connection.request("POST", "/api/generate", pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert json.loads(connection.getresponse().read())["done_reason"] == "load"
    connection.request("GET", "/api/version")
    assert connection.getresponse().status == 200, "the connection lives on"


@pytest.mark.parametrize(
    "header",
    [
        "Content-Length: x",
        "Content-Length: -1",
        "Transfer-Encoding: chunked\r\n\r\nzz",
        "Transfer-Encoding: chunked\r\n\r\n-1",
    ],
)
def test_a_body_without_a_right_length_is_refused(server, header):
    said = raw(server, f"POST /api/show HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n")
    assert said.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert said.endswith("\r\n\r\n400 Bad Request")


def test_what_is_no_http_is_refused_without_html(server):
    said = raw(server, "hello you there now\r\n\r\n")
    assert "400 " in said
    assert "<" not in said


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("PUT", "/api/tags", 405, "HEAD, GET"),
        ("BREW", "/api/chat", 405, "POST"),
        ("GET", "/api/blobs/sha256:0", 405, "HEAD, POST"),
        ("PATCH", "/nothing", 404, None),
        ("GET", "/debug/pprof/", 404, None),
        ("GET", "/v1/models/", 301, None),
    ],
)
def test_a_method_or_path_without_an_endpoint(server, method, path, status, allowed):
    found, headers, _ = ask(server, method, path)
    assert (found, headers.get("Allow")) == (status, allowed)


@pytest.mark.parametrize(
    ("method", "path", "status", "target"),
    [
        ("GET", "/api/tags/?a=1", 301, "/api/tags?a=1"),
        ("POST", "/api/show/", 307, "/api/show"),
        ("POST", "//api//show", 307, "/api/show"),
        ("GET", "/api/../api/tags", 307, "/api/tags"),
    ],
)
def test_slashes_too_many_are_redirected(server, method, path, status, target):
    found, headers, _ = ask(server, method, path)
    assert (found, headers["Location"]) == (status, target)


def test_a_server_behind_any_address_answers_to_every_host():
    assert ollama_origins.answers_to("evil.example", "0.0.0.0")  # noqa: S104
    assert not ollama_origins.answers_to("evil.example", "127.0.0.1")
    assert ollama_origins.answers_to("ollama.internal:3008", "127.0.0.1")


def test_origins_of_the_environment(monkeypatch):
    monkeypatch.setenv("OLLAMA_ORIGINS", "https://*.example, https://one.test")
    assert ollama_origins.answer("https://a.example", "x", "GET")
    assert ollama_origins.answer("https://one.test", "x", "GET")
    assert ollama_origins.answer("https://two.test", "x", "GET") is None
    monkeypatch.setenv("OLLAMA_ORIGINS", "*")
    assert ollama_origins.answer("https://two.test", "x", "GET") == [("Access-Control-Allow-Origin", "*")]


# -- JSON, durations, names


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"model":', "unexpected EOF"),
        ('{"model', "unexpected EOF"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 2}', "invalid character '2' after object key:value pair"),
        ('{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        ('{"a":"\n"}', "invalid character '\\n' in string literal"),
        ("[" * 100000, "exceeded max depth"),
    ],
)
def test_bad_json_has_the_error_of_go(server, text, error):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/api/generate", text)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (400, {"error": error})


def test_json_is_written_with_the_escapes_of_go():
    assert ollama_json.encode({"a": "<b>&\u2028é\ud800"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028é?"}'.encode()


HOSTILE = [None, True, 5, 1.5, "x", "\ud800", [], [1], {}, {"a": [None]}, [None], [[]], [{}], -1, 10**30]
FIELDS = {
    "/api/show": ("model", "name", "verbose"),
    "/api/copy": ("source", "destination"),
    "/api/create": ("model", "from", "files", "parameters", "system"),
    "/api/pull": ("model", "name", "stream"),
    "/api/delete": ("model", "name"),
    "/api/generate": ("prompt", "options", "keep_alive", "think", "stream", "suffix", "raw", "context"),
    "/api/chat": ("messages", "tools"),
    "/api/embed": ("input", "dimensions", "truncate"),
    "/api/embeddings": ("prompt",),
    "/v1/chat/completions": ("messages", "stream_options", "reasoning_effort"),
    "/v1/completions": ("prompt", "max_tokens"),
    "/v1/embeddings": ("input", "encoding_format"),
    "/v1/messages": ("messages", "system", "thinking", "max_tokens"),
    "/v1/responses": ("input", "instructions", "max_output_tokens", "stream"),
}


@pytest.mark.parametrize("path", FIELDS)
def test_values_of_every_type_have_an_answer(server, path):
    """No model of the request exists, so only the request itself counts."""
    full = {"model": "nope", "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    for field in FIELDS[path]:
        for value in HOSTILE:
            method = "DELETE" if path == "/api/delete" else "POST"
            status, _, text = ask(server, method, path, {**full, "max_tokens": 1, field: value})
            assert status in {200, 400, 404, 500}, (field, value, text)


@pytest.mark.parametrize("option", ["num_ctx", "num_predict", "temperature", "stop"])
def test_options_of_every_type_have_an_answer(pulled, option):
    for value in HOSTILE:
        body = {"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1, option: value}}
        status, _, text = ask(pulled, "POST", "/api/generate", body)
        fits = value is None or (isinstance(value, list) if option == "stop" else type(value) in {int, float})
        assert (status, "must be of type" in text) == ((200, False) if fits else (500, True)), (value, text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("5m", 300), ("1h30m", 5400), ("-1.5s", -1.5), ("1µs", 1e-6), (".5s", 0.5)]
)
def test_durations(text, seconds):
    assert ollama_durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("soon", 'time: invalid duration "soon"'),
        ("300", 'time: missing unit in duration "300"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
    ],
)
def test_bad_durations_have_the_error_of_go(text, error):
    with pytest.raises(ValueError, match="^" + re.escape(error) + "$"):
        ollama_durations.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("-1", ollama_durations.FOREVER), ("90", 90), ("1h", 3600), ("soon", 300)]
)
def test_the_keep_alive_of_the_environment_may_lack_a_unit(text, seconds):
    assert ollama_durations.of_environment(text) == seconds


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a", "registry.ollama.ai/library/a:latest"),
        ("A/b:C", "registry.ollama.ai/A/b:C"),
        ("h:5000/a/b:c", "h:5000/a/b:c"),
        ("http://h:5000/a/b", "h:5000/a/b:latest"),
        ("registry.ollama.ai/library/a", "registry.ollama.ai/library/a:latest"),
    ],
)
def test_names(name, whole):
    assert ollama_names.is_valid(name)
    assert ollama_names.whole_name(name) == whole


@pytest.mark.parametrize("name", ["", "a b", "../x", "a:b:c", "a:", "-a", "a/b/c/d", "a.b/c", "x" * 81, "a\n", "é"])
def test_bad_names(name):
    assert not ollama_names.is_valid(name)
