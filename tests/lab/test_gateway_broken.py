"""The gateway on a real nginx with its JavaScript module: a broken script refuses. The instances are SIMULATED."""

from pathlib import Path

import pytest

from tests.gateway.balancer import ALICE, CHAT, KEYED, balancing

pytestmark = pytest.mark.lab


BREAKAGES = {
    "the judge throws": ("gateway.js", b"function judged(r) {", b"function judged(r) { throw new Error('broken');"),
    "the judge answers nonsense": (
        "gateway.js",
        b"return refusal === null ? 'pass'",
        b"return refusal === null ? true",
    ),
    "the keys throw": ("gateway_keys.js", b"function found(r) {", b"function found(r) { null.x;"),
    "the parser throws": ("gateway_body.js", b"function read(r, path) {", b"function read(r, path) { null.x;"),
    "the rebuilding throws": (
        "gateway_body.js",
        b"function forPool(",
        b"function forPool(a) { null.x; } function unused(",
    ),
    "the search throws": ("gateway_names.js", b"function find(who, asked) {", b"function find(who, asked) { null.x;"),
    "the pool has no location": ("gateway.json", b'"": "gateway_ollama_2"', b'"": "gateway_missing"'),
    "nobody is known": ("gateway_clients.json", b'"clients"', b'"clients_"'),
    "no key is known": ("gateway_clients.json", b'"keys"', b'"keys_"'),
    "the data has no kind of authentication": ("gateway.json", b'"auth": "keys"', b'"auth": "other"'),
    "the data has no models": ("gateway.json", b'"models": {\n  "deep', b'"other": {\n  "deep'),
    "the data has no paths": ("gateway.json", b'"paths"', b'"paths_"'),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_gateway_refuses(tmp_path: Path, name: str) -> None:
    file, sound, broken = BREAKAGES[name]
    content = KEYED.files[file]
    assert content.count(sound) == 1, "the breakage is in the script"
    with balancing(tmp_path, KEYED, changed={file: content.replace(sound, broken)}) as balancer:
        for path in (CHAT, "/api/chat", "/v1/messages"):
            for key in (ALICE, "", "unknown"):
                reply = balancer.post(path, {"model": "tiny"}, key=key)
                assert reply.status in {401, 403, 404, 500}, reply
        assert balancer.post(CHAT, {"model": "tiny"}).status in {404, 500}
        assert balancer.taken() == []


def test_a_mistake_in_counting_cuts_no_answer(tmp_path: Path) -> None:
    usage = KEYED.files["gateway_usage.js"].replace(
        b"function counted(r, shape) {", b"function counted(r, shape) { null.x;"
    )
    usage = usage.replace(b"        if (data.length) {", b"        null.x; if (data.length) {")
    with balancing(tmp_path, KEYED, changed={"gateway_usage.js": usage}) as balancer:
        assert balancer.post("/api/chat", {"model": "tiny"}).body.endswith(b'"eval_count":5}\n')
