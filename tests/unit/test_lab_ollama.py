"""The simulated Ollama server speaks the protocol of the real one, errors after status 200 included."""

import contextlib
import hashlib
import http.client
import itertools
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from provision.lab.simulated import ollama_api, ollama_cli, ollama_durations, ollama_lab, ollama_runner

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
    """A server with a card, quick pulls and quick tokens; the faults are files in `faults`."""
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
    """Return status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def frames(server, path, body):
    """Return the frames of a native stream."""
    status, headers, text = ask(server, "POST", path, body)
    assert status == 200
    assert headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in text.splitlines()]


def load(server, **body):
    """Return the document that says that a model is loaded or unloaded."""
    status, headers, text = ask(server, "POST", "/api/generate", {"model": MODEL, **body})
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    return json.loads(text)


@pytest.fixture
def pulled(server):
    """A server with the model."""
    assert frames(server, "/api/pull", {"model": MODEL})[-1] == {"status": "success"}
    return server


def test_the_server_says_that_it_runs_and_is_simulated(server):
    status, headers, text = ask(server, "GET", "/")
    assert (status, text) == (200, "Ollama is running")
    assert headers["X-Simulated"] == "provision-lab"
    assert json.loads(ask(server, "GET", "/api/version")[2]) == {"version": "0.34.4"}


def test_pulled_blobs_have_the_digests_in_their_names(pulled):
    manifest = json.loads((pulled.models / "manifests/registry.ollama.ai/library/deepseek-r1/1.5b").read_text())
    for part in [manifest["config"], *manifest["layers"]]:
        data = (pulled.models / "blobs" / part["digest"].replace(":", "-")).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == part["digest"]
        assert len(data) == part["size"]
    assert not list((pulled.models / "blobs").glob("*partial*"))


def test_the_listed_digest_is_the_digest_of_the_manifest(pulled):
    manifest = (pulled.models / "manifests/registry.ollama.ai/library/deepseek-r1/1.5b").read_bytes()
    (model,) = json.loads(ask(pulled, "GET", "/api/tags")[2])["models"]
    assert model["digest"] == hashlib.sha256(manifest).hexdigest()
    assert (model["name"], model["size"]) == (MODEL, 1117322599)


def test_a_pull_of_an_unknown_model_fails_after_status_200(server):
    assert frames(server, "/api/pull", {"model": "deepseek-r1:1.7b"}) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]


def test_a_pull_of_an_unknown_model_without_stream_answers_500(server):
    status, _, text = ask(server, "POST", "/api/pull", {"model": "nope", "stream": False})
    assert (status, json.loads(text)) == (500, {"error": "pull model manifest: file does not exist"})


def test_an_interrupted_pull_resumes(pulled):
    manifest = json.loads((pulled.models / "manifests/registry.ollama.ai/library/deepseek-r1/1.5b").read_text())
    blob = pulled.models / "blobs" / manifest["layers"][0]["digest"].replace(":", "-")
    data = blob.read_bytes()
    blob.unlink()
    half = len(data) // 2
    blob.with_name(f"{blob.name}-partial").write_bytes(data[:half])
    part = {"N": 0, "Offset": 0, "Size": len(data), "Completed": half}
    blob.with_name(f"{blob.name}-partial-0").write_text(json.dumps(part))
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"pull_seconds": 1}))
    said = [f for f in frames(pulled, "/api/pull", {"model": MODEL}) if f.get("digest") == blob.name.replace("-", ":")]
    assert said[0]["completed"] >= half
    assert blob.read_bytes() == data


@pytest.fixture
def slow(server):
    """A server that pulls a blob in a second, and starts a part over after half a second without bytes."""
    knobs = {"pull_seconds": 1, "stall_seconds": 0.5, "retry_seconds": 0.01}
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps(knobs))
    return server


def lines(server, body):
    """Yield the frames of a pull on arrival, until the caller stops."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/api/pull", json.dumps(body))
    with contextlib.closing(connection):
        for line in connection.getresponse():
            yield json.loads(line)


def saved(server) -> int:
    """How many bytes of a part are there for the next download."""
    (part,) = (server.models / "blobs").glob("*-partial-0")
    return json.loads(part.read_text())["Completed"]


def test_a_stalled_pull_sends_frames_and_starts_over_without_end(slow):
    (slow.faults / "ollama1.pull-stalls").touch()
    counts = []
    for frame in lines(slow, {"model": MODEL}):
        counts.append(frame.get("completed", 0))
        if counts.count(max(counts)) > 3 and sum(a > b for a, b in itertools.pairwise(counts)) >= 2:
            break
    assert max(counts) < 2 << 20
    (slow.faults / "ollama1.pull-stalls").unlink()
    assert frames(slow, "/api/pull", {"model": MODEL})[-1] == {"status": "success"}


def test_frames_before_the_first_byte_have_no_completed_count(slow):
    (slow.faults / "ollama1.pull-stalls").touch()
    for frame in lines(slow, {"model": MODEL}):
        if frame.get("status", "").startswith("pulling ") and "digest" in frame and "completed" not in frame:
            break
    assert frame["total"] == 2 << 20


def test_a_pull_waits_for_a_silent_library(slow):
    (slow.faults / "ollama1.pull-stalls").write_text("manifest")
    answer = lines(slow, {"model": MODEL})
    assert next(answer) == {"status": "pulling manifest"}
    (slow.faults / "ollama1.pull-stalls").unlink()
    assert [*answer][-1] == {"status": "success"}


def test_a_pull_tries_a_library_that_closes_connections_six_times_and_resumes_each_time(slow):
    (slow.faults / "ollama1.pull-closes").touch()
    said = frames(slow, "/api/pull", {"model": MODEL})
    assert said[-1] == {"error": "max retries exceeded: unexpected EOF"}
    assert saved(slow) >= 6 * (2 << 20) // 16


def test_two_clients_share_a_download_and_the_first_to_leave_does_not_end_the_download(slow):
    both = [lines(slow, {"model": MODEL}) for _ in range(2)]
    for one in both:
        while "completed" not in next(one):
            pass
    both[0].close()
    assert [*both[1]][-1] == {"status": "success"}


def test_clients_that_end_a_pull_at_once_all_succeed(pulled):
    def repeated(_):
        return [frames(pulled, "/api/pull", {"model": MODEL})[-1] for _ in range(5)]

    with ThreadPoolExecutor(8) as clients:
        ends = [end for each in clients.map(repeated, range(8)) for end in each]
    assert ends == [{"status": "success"}] * 40


def test_a_download_ends_with_its_last_client_and_the_next_client_resumes(slow):
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"pull_seconds": 30}))
    answer = lines(slow, {"model": MODEL})
    while "completed" not in next(answer):
        pass
    answer.close()
    while not saved(slow):
        time.sleep(0.02)
    there = saved(slow)
    assert there < 2 << 20
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"pull_seconds": 1}))
    first = next(frame["completed"] for frame in lines(slow, {"model": MODEL}) if frame.get("completed"))
    assert first >= there
    assert frames(slow, "/api/pull", {"model": MODEL})[-1] == {"status": "success"}


def test_preload_puts_the_whole_model_on_the_card(pulled):
    frame = load(pulled, keep_alive=-1)
    assert (frame["done"], frame["done_reason"]) == (True, "load")
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert running["size_vram"] == running["size"] > 1117322599
    assert json.loads(next(pulled.usage.iterdir()).read_text())[0]["uuid"] == "GPU-1"


def test_keep_alive_0_unloads_a_model(pulled):
    load(pulled)
    assert load(pulled, keep_alive=0)["done_reason"] == "unload"
    assert json.loads(ask(pulled, "GET", "/api/ps")[2]) == {"models": []}


def test_without_a_card_the_model_is_on_the_cpu(pulled, tmp_path):
    (tmp_path / "container.json").unlink()
    load(pulled)
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert running["size_vram"] == 0


def test_a_model_larger_than_the_card_is_split(pulled, monkeypatch):
    small = {**CARD, "memory_mib": 2000}
    (ollama_lab.LAB / "gpus.json").write_text(json.dumps({"driver_version": "590.48.01", "cards": [small]}))
    load(pulled)
    (running,) = json.loads(ask(pulled, "GET", "/api/ps")[2])["models"]
    assert 0 < running["size_vram"] < running["size"]


def test_chat_thinks_then_answers_and_says_that_it_is_simulated(pulled):
    answer = frames(pulled, "/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
    assert answer[0]["message"]["thinking"]
    assert "simulated" in "".join(frame["message"]["content"] for frame in answer)
    assert answer[-1]["done_reason"] == "stop"
    assert answer[-1]["eval_count"] == len(answer) - 1


def test_a_client_of_http_1_0_gets_no_chunks(pulled):
    body = json.dumps({"model": MODEL, "prompt": "x", "think": False, "options": {"num_predict": 2}})
    with socket.create_connection(("127.0.0.1", pulled.port), timeout=60) as connection:
        connection.sendall(f"POST /api/generate HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        head, _, said = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert [json.loads(line)["done"] for line in said.splitlines()] == [False, False, True]


def test_num_predict_bounds_the_answer(pulled):
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


def test_openai_errors_have_the_shape_of_openai(server):
    status, _, text = ask(server, "POST", "/v1/chat/completions", {"model": "nope", "messages": [{"role": "user"}]})
    assert status == 404
    assert json.loads(text)["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/generate", {"model": "nope"}, 404, "model 'nope' not found"),
        ("POST", "/api/generate", {}, 404, "model '' not found"),
        ("POST", "/api/chat", {}, 400, "model is required"),
        ("POST", "/api/generate", None, 400, "missing request body"),
        ("DELETE", "/api/delete", None, 400, "missing request body"),
        ("POST", "/api/show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("DELETE", "/api/delete", {"model": "nope"}, 404, "model 'nope' not found"),
        ("DELETE", "/api/delete", {"model": "../../x"}, 400, 'name "../../x" is invalid'),
    ],
)
def test_bad_requests_are_refused_with_the_words_of_ollama(server, method, path, body, status, error):
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
    assert load(pulled, model="mine")["done_reason"] == "load"


def weights(server):
    """Return the file with the weights."""
    (found,) = (blob for blob in (server.models / "blobs").iterdir() if blob.stat().st_size > 1 << 20)
    return found


LOAD = ("POST", "/api/generate", {"model": MODEL})


def test_a_pull_accepts_a_blob_with_a_damaged_head_and_the_load_fails(pulled):
    assert ask(pulled, *LOAD)[0] == 200
    load(pulled, keep_alive=0)
    weights(pulled).write_bytes(bytes(2 << 20))
    assert frames(pulled, "/api/pull", {"model": MODEL})[-1] == {"status": "success"}
    status, _, text = ask(pulled, *LOAD)
    assert (status, json.loads(text)) == (500, {"error": "invalid file magic"})


def test_a_server_remembers_a_damaged_head_until_it_restarts(pulled):
    blob = weights(pulled)
    data = blob.read_bytes()
    blob.write_bytes(bytes(len(data)))
    for _ in range(2):
        status, _, text = ask(pulled, *LOAD)
        assert (status, json.loads(text)) == (400, {"error": f'"{MODEL}" does not support generate'})
        blob.write_bytes(data)
    assert "completion" in json.loads(ask(pulled, "POST", "/api/show", {"model": MODEL})[2])["capabilities"]
    ollama_api.Handler.answers = ollama_api.Answers(ollama_api.Handler.scheduler)
    assert ask(pulled, *LOAD)[0] == 200


def test_a_truncated_blob_does_not_load_and_damage_in_the_middle_goes_unnoticed(pulled):
    blob = weights(pulled)
    data = blob.read_bytes()
    blob.write_bytes(data[: 1 << 20])
    status, _, text = ask(pulled, *LOAD)
    assert (status, "offset+size exceeds file size" in text) == (500, True)
    blob.write_bytes(data[:4096] + bytes(4096) + data[8192:])
    assert ask(pulled, *LOAD)[0] == 200


def test_only_embedding_models_embed(pulled):
    body = {"model": MODEL, "input": "hello"}
    for path in ("/api/embed", "/v1/embeddings"):
        status, _, text = ask(pulled, "POST", path, body)
        assert (status, "This server does not support embeddings" in text) == (501, True)
    assert json.loads(ask(pulled, "POST", "/api/embed", {"model": MODEL, "input": ""})[2])["embeddings"] == []
    frames(pulled, "/api/pull", {"model": "nomic-embed-text"})
    (vector,) = json.loads(ask(pulled, "POST", "/api/embed", {**body, "model": "nomic-embed-text"})[2])["embeddings"]
    assert len(vector) == 768
    status, _, text = ask(pulled, "POST", "/api/generate", {"model": "nomic-embed-text", "prompt": "hello"})
    assert (status, json.loads(text)) == (400, {"error": '"nomic-embed-text" does not support generate'})


def test_the_keep_alive_of_a_model_stays_until_a_request_changes_it(pulled, monkeypatch):
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "-1")
    body = {"model": MODEL, "prompt": "hi", "think": False, "options": {"num_predict": 1}}
    frames(pulled, "/api/generate", body)
    assert ollama_api.Handler.scheduler.running()[0].keep == ollama_durations.FOREVER
    for more in ({"keep_alive": "5m"}, {}):
        frames(pulled, "/api/generate", {**body, **more})
        assert ollama_api.Handler.scheduler.running()[0].keep == 300


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
    load(pulled)
    body = {"model": MODEL, "prompt": "hi", "think": False, "options": {"num_predict": 6}}
    threads = [threading.Thread(target=frames, args=(pulled, "/api/generate", body)) for _ in range(3)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 3 * 6 / 60


def test_slots_go_to_clients_in_order_and_skip_a_client_that_left():
    slots, got, here = ollama_runner.Slots(1), [], {1: True, 2: True, 3: True}

    def wait(number):
        try:
            slots.acquire(lambda: here[number])
            got.append(number)
        except ollama_runner.GoneError:
            got.append(-number)

    slots.acquire(lambda: True)
    waiting = [threading.Thread(target=wait, args=(number,)) for number in here]
    for place, thread in enumerate(waiting, 1):
        thread.start()
        while len(slots._queue) < place:
            time.sleep(0.01)
    here[1] = False
    waiting[0].join()
    slots.release()
    waiting[1].join()
    slots.release()
    waiting[2].join()
    assert got == [-1, 2, 3]


def test_the_log_has_the_begin_and_end_of_an_answer_and_not_the_prompt(pulled, capfd):
    frames(pulled, "/api/generate", {"model": MODEL, "prompt": "a private question"})
    name = hashlib.sha256(b"a private question").hexdigest()[:16]
    said = [line for line in capfd.readouterr().err.splitlines() if "generation" in line]
    assert [line.partition("msg=")[2] for line in said] == [
        f'"simulated: generation begins" prompt={name}',
        f'"simulated: generation ends" prompt={name}',
    ]


def test_a_client_that_leaves_during_a_load_aborts_the_load(pulled):
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps({"load_seconds": 600}))
    connection = http.client.HTTPConnection("127.0.0.1", pulled.port, timeout=60)
    connection.request("POST", "/api/generate", json.dumps({"model": MODEL}))
    while not (held := [*pulled.usage.iterdir()]) or not held[0].read_text():
        time.sleep(0.01)
    connection.close()
    while held[0].read_text():  # the memory of the card is free again after the load
        time.sleep(0.01)
    assert json.loads(ask(pulled, "GET", "/api/ps")[2]) == {"models": []}
    assert ollama_api.Handler.scheduler.running() == []


def test_a_load_ends_at_once_when_its_knob_says_so(pulled):
    knobs = ollama_lab.LAB / "knobs.json"
    knobs.write_text(json.dumps({"load_seconds": 600}))
    connection = http.client.HTTPConnection("127.0.0.1", pulled.port, timeout=60)
    connection.request("POST", "/api/generate", json.dumps({"model": MODEL}))
    while not [*pulled.usage.iterdir()]:
        time.sleep(0.01)
    assert ollama_api.Handler.scheduler.running() == []
    knobs.write_text(json.dumps({"load_seconds": 0}))
    assert json.loads(connection.getresponse().read())["done_reason"] == "load"
    connection.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (-1, ollama_durations.FOREVER),
        ("5m", 300),
        ("1h30m", 5400),
        ("-1m", ollama_durations.FOREVER),
    ],
)
def test_keep_alive(text, expected):
    assert ollama_durations.of_request(text) == expected


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
def test_the_program_first_asks_if_the_server_runs(pulled, monkeypatch, capfd, words, said):
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{pulled.port}")
    capfd.readouterr()
    assert ollama_cli.main(words) == 0
    out, log = capfd.readouterr()
    assert said in out
    until = time.monotonic() + 10
    while 'HEAD     "/"\n' not in log:  # a server logs a request after its answer
        assert time.monotonic() < until, log
        time.sleep(0.02)
        log += capfd.readouterr().err


def test_the_program_gives_up_if_the_server_fails_this_first_request(server, monkeypatch, capfd):
    (server.faults / "ollama1.answer-503").touch()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.port}")
    assert ollama_cli.main(["list"]) == 1
    assert "something went wrong, please see the ollama server logs for details" in capfd.readouterr().err


def test_keep_alive_refuses_nonsense():
    with pytest.raises(ValueError, match="invalid duration"):
        ollama_durations.of_request("soon")
