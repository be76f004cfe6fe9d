"""The simulated Ollama server speaks the protocol of the real one, errors after status 200 included."""

import hashlib
import http.client
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from provision.lab.simulated import ollama_api, ollama_cli, ollama_lab, ollama_runner

CARD = {
    "uuid": "GPU-1",
    "name": "card",
    "pci_bus_id": "00000000:01:00.0",
    "memory_mib": 49140,
    "reserved_mib": 512,
    "compute_cap": "8.6",
}
MODEL = "deepseek-r1:1.5b"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server with one card, quick pulls and quick tokens; its faults are files in `faults`."""
    faults = tmp_path / "lab/faults"
    faults.mkdir(parents=True)
    (tmp_path / "lab/gpus.json").write_text(json.dumps({"driver_version": "590.48.01", "cards": [CARD]}))
    (tmp_path / "container.json").write_text(json.dumps({"visible": ["GPU-1"], "name": "ollama1"}))
    knobs = {"pull_seconds": 0.1, "load_seconds": 0.05, "tokens_per_second": 2000}
    (tmp_path / "lab/knobs.json").write_text(json.dumps(knobs))
    (tmp_path / "usage").mkdir()
    monkeypatch.setattr(ollama_lab, "LAB", tmp_path / "lab")
    monkeypatch.setattr(ollama_lab, "CONTAINER", tmp_path / "container.json")
    monkeypatch.setattr(ollama_lab, "USAGE", tmp_path / "usage")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    (tmp_path / "models/blobs").mkdir(parents=True)
    web = ollama_api.listen("127.0.0.1", 0, "0.34.4")
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    yield SimpleNamespace(port=web.server_port, faults=faults, models=tmp_path / "models", usage=tmp_path / "usage")
    web.shutdown()
    web.server_close()


def ask(server, method, path, body=None):
    """Status, headers and text of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def frames(server, path, body):
    """The lines of a native stream."""
    status, headers, text = ask(server, "POST", path, body)
    assert status == 200
    assert headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def pulled(server):
    """A server that has the model."""
    assert frames(server, "/api/pull", {"model": MODEL})[-1] == {"status": "success"}
    return server


def test_says_it_runs_and_that_it_is_simulated(server):
    status, headers, text = ask(server, "GET", "/")
    assert (status, text) == (200, "Ollama is running")
    assert headers["X-Simulated"] == "provision-lab"
    assert json.loads(ask(server, "GET", "/api/version")[2]) == {"version": "0.34.4"}


def test_pulls_blobs_that_are_what_their_names_say(pulled):
    manifest = json.loads((pulled.models / "manifests/registry.ollama.ai/library/deepseek-r1/1.5b").read_text())
    for part in [manifest["config"], *manifest["layers"]]:
        data = (pulled.models / "blobs" / part["digest"].replace(":", "-")).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == part["digest"]
        assert len(data) == part["size"]
    assert not list((pulled.models / "blobs").glob("*partial*"))


def test_listed_digest_is_that_of_the_manifest(pulled):
    manifest = (pulled.models / "manifests/registry.ollama.ai/library/deepseek-r1/1.5b").read_bytes()
    (model,) = json.loads(ask(pulled, "GET", "/api/tags")[2])["models"]
    assert model["digest"] == hashlib.sha256(manifest).hexdigest()
    assert (model["name"], model["size"]) == (MODEL, 1117322599)


def test_unknown_model_fails_after_status_200(server):
    assert frames(server, "/api/pull", {"model": "deepseek-r1:1.7b"}) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]


def test_unknown_model_without_stream_is_500(server):
    status, _, text = ask(server, "POST", "/api/pull", {"model": "nope", "stream": False})
    assert (status, json.loads(text)) == (500, {"error": "pull model manifest: file does not exist"})


def test_a_pull_that_was_interrupted_goes_on_where_it_was(pulled):
    manifest = json.loads((pulled.models / "manifests/registry.ollama.ai/library/deepseek-r1/1.5b").read_text())
    blob = pulled.models / "blobs" / manifest["layers"][0]["digest"].replace(":", "-")
    data = blob.read_bytes()
    blob.unlink()
    half = len(data) // 2
    blob.with_name(f"{blob.name}-partial").write_bytes(data[:half])
    first = next(
        f for f in frames(pulled, "/api/pull", {"model": MODEL}) if blob.name.endswith(f.get("digest", "-")[7:] or "-")
    )
    assert first["completed"] > half
    assert blob.read_bytes() == data


def test_preload_puts_the_whole_model_on_the_card(pulled):
    (frame,) = frames(pulled, "/api/generate", {"model": MODEL, "keep_alive": -1})
    assert (frame["done"], frame["done_reason"]) == (True, "load")
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert running["size_vram"] == running["size"] > 1117322599
    assert json.loads(next(pulled.usage.iterdir()).read_text())[0]["uuid"] == "GPU-1"


def test_unload(pulled):
    frames(pulled, "/api/generate", {"model": MODEL})
    (frame,) = frames(pulled, "/api/generate", {"model": MODEL, "keep_alive": 0})
    assert frame["done_reason"] == "unload"
    assert json.loads(ask(pulled, "GET", "/api/ps")[2]) == {"models": []}


def test_without_a_card_the_model_is_on_the_cpu(pulled, monkeypatch, tmp_path):
    monkeypatch.setattr(ollama_lab, "CONTAINER", tmp_path / "none.json")
    frames(pulled, "/api/generate", {"model": MODEL})
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert running["size_vram"] == 0


def test_a_model_larger_than_the_card_is_split(pulled, monkeypatch):
    small = {**CARD, "memory_mib": 2000}
    (ollama_lab.LAB / "gpus.json").write_text(json.dumps({"driver_version": "590.48.01", "cards": [small]}))
    frames(pulled, "/api/generate", {"model": MODEL})
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert 0 < running["size_vram"] < running["size"]


def test_chat_thinks_then_answers_and_says_what_it_is(pulled):
    answer = frames(pulled, "/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    assert answer[0]["message"]["thinking"]
    assert "simulated" in "".join(frame["message"]["content"] for frame in answer)
    assert answer[-1]["done_reason"] == "stop"
    assert answer[-1]["eval_count"] == len(answer) - 1


def test_a_client_of_http_1_0_gets_no_chunks(pulled):
    body = json.dumps({"model": MODEL, "prompt": "x", "think": False, "options": {"num_predict": 2}})
    with socket.create_connection(("127.0.0.1", pulled.port), timeout=20) as connection:
        connection.sendall(f"POST /api/generate HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        head, _, said = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert [json.loads(line)["done"] for line in said.splitlines()] == [False, False, True]


def test_num_predict_cuts(pulled):
    body = {"model": MODEL, "prompt": "hi", "think": False, "options": {"num_predict": 3}}
    answer = frames(pulled, "/api/generate", body)
    assert (len(answer), answer[-1]["done_reason"]) == (4, "length")


def test_openai_stream_ends_with_usage_and_done(pulled):
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": MODEL, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    status, headers, text = ask(pulled, "POST", "/v1/chat/completions", body)
    events = [event.removeprefix("data: ") for event in text.strip().split("\n\n")]
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] > 0
    assert json.loads(events[0])["choices"][0]["delta"]["reasoning"]


def test_openai_errors_have_their_own_shape(server):
    status, _, text = ask(server, "POST", "/v1/chat/completions", {"model": "nope", "messages": []})
    assert status == 404
    assert json.loads(text)["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/generate", {"model": "nope"}, 404, "model 'nope' not found"),
        ("POST", "/api/generate", {}, 400, "model is required"),
        ("POST", "/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
        ("DELETE", "/api/delete", {"model": "nope"}, 404, "model 'nope' not found"),
        ("DELETE", "/api/delete", {"model": "../../x"}, 404, "model '../../x' not found"),
    ],
)
def test_refusals(server, method, path, body, status, error):
    found, _, text = ask(server, method, path, body)
    assert (found, json.loads(text)) == (status, {"error": error})


def test_head_of_ps_is_405(server):
    assert ask(server, "HEAD", "/api/ps")[0] == 405
    assert ask(server, "HEAD", "/api/version")[0] == 200
    assert ask(server, "GET", "/api/nothing")[0] == 404


def test_copy_and_delete_keep_shared_blobs(pulled):
    assert ask(pulled, "POST", "/api/copy", {"source": MODEL, "destination": "mine"})[0] == 200
    assert ask(pulled, "DELETE", "/api/delete", {"model": MODEL})[0] == 200
    (model,) = json.loads(ask(pulled, "GET", "/api/tags")[2])["models"]
    assert model["name"] == "mine:latest"
    assert frames(pulled, "/api/generate", {"model": "mine"})[-1]["done_reason"] == "load"


def test_a_damaged_blob_pulls_well_and_does_not_load(pulled):
    for blob in (pulled.models / "blobs").iterdir():
        if blob.stat().st_size > 1 << 20:
            blob.write_bytes(bytes(blob.stat().st_size))
    assert frames(pulled, "/api/pull", {"model": MODEL})[-1] == {"status": "success"}
    assert ask(pulled, "POST", "/api/generate", {"model": MODEL})[0] == 500


def test_fault_503(pulled):
    (pulled.faults / "ollama1.answer-503").touch()
    assert ask(pulled, "GET", "/api/version")[0] == 503
    (pulled.faults / "ollama1.answer-503").unlink()
    assert ask(pulled, "GET", "/api/version")[0] == 200


def test_fault_pull_fails(server):
    (server.faults / "ollama1.pull-fails").touch()
    assert "no such host" in frames(server, "/api/pull", {"model": MODEL})[-1]["error"]


def test_fault_stream_fails_after_status_200(pulled):
    (pulled.faults / "ollama1.stream-fails").touch()
    answer = frames(pulled, "/api/generate", {"model": MODEL, "prompt": "hi"})
    assert set(answer[-1]) == {"error"}


def test_requests_beyond_num_parallel_wait_for_each_other(pulled, monkeypatch):
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"tokens_per_second": 60, "load_seconds": 0}))
    frames(pulled, "/api/generate", {"model": MODEL})
    body = {"model": MODEL, "prompt": "hi", "think": False, "options": {"num_predict": 6}}
    threads = [threading.Thread(target=frames, args=(pulled, "/api/generate", body)) for _ in range(3)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 3 * 6 / 60


def test_places_are_given_in_the_order_of_asking_and_a_client_that_left_is_passed_over():
    slots, got, here = ollama_runner.Slots(1), [], {1: True, 2: True, 3: True}

    def wait(number):
        try:
            slots.acquire(lambda: here[number])
            got.append(number)
        except ollama_runner.GoneError:
            got.append(-number)

    slots.acquire(lambda: True)
    waiting = [threading.Thread(target=wait, args=(number,)) for number in here]
    for thread in waiting:
        thread.start()
        time.sleep(0.02)
    here[1] = False
    waiting[0].join()
    slots.release()
    waiting[1].join()
    slots.release()
    waiting[2].join()
    assert got == [-1, 2, 3]


def test_the_log_says_when_an_answer_begins_and_ends_and_not_what_was_asked(pulled, capfd):
    frames(pulled, "/api/generate", {"model": MODEL, "prompt": "a private question"})
    name = hashlib.sha256(b"a private question").hexdigest()[:16]
    said = [line for line in capfd.readouterr().err.splitlines() if "generation" in line]
    assert [line.partition("msg=")[2] for line in said] == [
        f'"simulated: generation begins" prompt={name}',
        f'"simulated: generation ends" prompt={name}',
    ]


def test_a_client_that_leaves_a_load_aborts_it(pulled):
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"load_seconds": 5}))
    connection = http.client.HTTPConnection("127.0.0.1", pulled.port, timeout=20)
    connection.request("POST", "/api/generate", json.dumps({"model": MODEL}))
    time.sleep(0.2)
    connection.close()
    time.sleep(0.3)
    assert json.loads(ask(pulled, "GET", "/api/ps")[2]) == {"models": []}
    assert ollama_api.Handler.scheduler.running() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (-1, float("inf")),
        ("-1", float("inf")),
        ("300", 300),
        ("5m", 300),
        ("1h30m", 5400),
        ("-1m", float("inf")),
    ],
)
def test_keep_alive(text, expected):
    assert ollama_runner.seconds(text) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list"], MODEL),
        (["ps"], "PROCESSOR"),
        (["show", MODEL], "model_info"),
        (["run", MODEL, "hello"], "\n"),
        (["stop", MODEL], ""),
    ],
)
def test_the_program_asks_first_whether_the_server_runs(pulled, monkeypatch, capfd, words, said):
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{pulled.port}")
    capfd.readouterr()
    assert ollama_cli.main(words) == 0
    out, log = capfd.readouterr()
    assert said in out
    assert next(line for line in log.splitlines() if "[GIN]" in line).endswith('HEAD "/"')


def test_the_program_gives_up_where_a_server_refuses_to_say_whether_it_runs(server, monkeypatch, capfd):
    (server.faults / "ollama1.answer-503").touch()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.port}")
    assert ollama_cli.main(["list"]) == 1
    assert "something went wrong, please see the ollama server logs for details" in capfd.readouterr().err


def test_keep_alive_refuses_nonsense():
    with pytest.raises(ValueError, match="invalid duration"):
        ollama_runner.seconds("soon")
