"""The input of a load test: profiles, targets, keys, and wrong words on the command line."""

import json
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from provision.cli import execute
from provision.errors import ProvisionError, UsageError
from provision.inventory import LoadTest, Secret, Targets, load
from provision.loadtest import files, profile, target
from provision.loadtest.measure import UNNAMED, Tally
from provision.loadtest.record import Record
from provision.plan import role_interface

KEY = "zq7canary-key"


class Fake(BaseHTTPRequestHandler):
    """Answers a path with the status and the body in `answers`."""

    answers: ClassVar[dict] = {}
    keys: ClassVar[list] = []
    simulated = False

    def do_GET(self):
        self.keys.append(self.headers.get("Authorization"))
        status, body = self.answers.get(self.path, (404, "{}"))
        self.send_response(status)
        self.send_header("Location", "http://127.0.0.1:1/")
        if self.simulated:
            self.send_header("X-Simulated", "provision-lab")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Serve answers on loopback; returns the URL."""
    servers = []

    def start(answers):
        handler = type("Handler", (Fake,), {"answers": answers, "keys": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ollama(*models, loaded=()):
    listed = {"models": [{"name": name} for name in models]}
    running = {"models": [{"name": name} for name in loaded]}
    return {
        "/api/version": (200, '{"version":"0.34.4"}'),
        "/api/tags": (200, json.dumps(listed)),
        "/api/ps": (200, json.dumps(running)),
    }


def ask(url, model="m:1b", key=None):
    return target.probe(target.of_url(url), model, key)


def test_an_endpoint_with_the_model_is_accepted(serve):
    url, handler = serve(ollama("m:1b", "x:latest", loaded=["m:1b"]))
    found = ask(url, key=Secret(KEY))
    assert (found.notes, found.version, found.simulated) == ([], "0.34.4", False)
    assert set(handler.keys) == {f"Bearer {KEY}"}
    assert ["not loaded" in note for note in ask(url, "x").notes] == [True]


def test_a_simulated_server_is_called_simulated(serve):
    url, handler = serve(ollama("m:1b", loaded=["m:1b"]))
    handler.simulated = True
    found = ask(url)
    assert (found.simulated, ["simulated by the provision lab" in note for note in found.notes]) == (True, [True])


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "no Ollama endpoint.*404"),
        ({**ollama("m:1b"), "/api/tags": (401, "")}, "wants a key"),
        ({"/api/version": (200, "<html>")}, "no Ollama endpoint"),
        ({"/api/version": (200, '{"version":7}')}, "has no version"),
        ({"/api/version": (200, "[" * 9000)}, "no Ollama endpoint"),
        ({"/api/version": (302, "")}, "302"),
        ({"/api/version": (401, "")}, "wants a key"),
        ({"/api/version": (403, "")}, "wants a key, or takes no requests from this machine"),
        ({"/api/version": (503, "")}, "answers HTTP 503"),
        ({**ollama(), "/api/tags": (200, '{"models":[3,{"name":4}]}')}, "has no model m:1b"),
        (ollama("m:2b"), "has no model m:1b"),
    ],
)
def test_a_wrong_endpoint_is_reported_before_the_load(serve, answers, said):
    url, _ = serve(answers)
    with pytest.raises(ProvisionError, match=said):
        ask(url)


def test_a_refused_key_is_reported_without_the_key(serve):
    url, _ = serve({"/api/version": (401, "")})
    with pytest.raises(UsageError, match="refuses this key") as caught:
        ask(url, key=Secret(KEY))
    assert KEY not in str(caught.value) + caught.value.hint


def test_a_closed_port_and_another_protocol_are_reported():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def greet():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_10\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(UsageError, match="does not speak HTTP"):
            ask(f"http://127.0.0.1:{port}")
        thread.join()
    with pytest.raises(ProvisionError, match=r"cannot be reached.*refused"):
        ask(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "url", ["", "10.0.0.5:3008", "ftp://x", "http://", "http://u:p@x", "http://x:99999", "http://x/?q=1", "http://x\n"]
)
def test_malformed_urls_are_refused(url):
    with pytest.raises(UsageError, match="must be a URL"):
        target.of_url(url)


@pytest.mark.parametrize("name", profile.PATHS)
def test_our_prompts_differ_from_the_first_word_on(name):
    bodies = profile.load(name, "m", 64).bodies()
    asked = [next(bodies) for _ in range(50)]
    assert {path for path, _ in asked} == {profile.PATHS[name]}
    starts = {json.dumps(body.get("prompt") or body["messages"]).split("]")[0] for _, body in asked}
    assert len(starts) == 50
    for _, body in asked:
        assert (body["model"], body["stream"]) == ("m", True)
        assert body.get("max_tokens", body.get("options", {}).get("num_predict")) == 64
        assert "num_ctx" not in body.get("options", {})


def test_a_profile_may_be_a_file_of_requests(tmp_path):
    file = tmp_path / "asked.jsonl"
    lines = [
        {"prompt": "why?", "options": {"num_predict": 5000, "temperature": 0}},
        {"messages": [{"role": "user", "content": "how?"}], "options": {"num_predict": 9}},
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    bodies = profile.load(str(file), "m", 64).bodies()
    asked = dict(next(bodies) for _ in range(60))
    assert asked["/api/generate"]["prompt"].endswith("] why?")
    assert asked["/api/generate"]["options"] == {"num_predict": 64, "temperature": 0}
    assert asked["/api/chat"]["options"] == {"num_predict": 9}
    assert [one["role"] for one in asked["/api/chat"]["messages"]] == ["user"]
    assert asked["/api/chat"]["messages"][0]["content"].endswith("] how?")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "asked.jsonl:1: no JSON"),
        ("[]", "either prompt or messages"),
        ('{"prompt":"a","messages":[]}', "either prompt or messages"),
        ('{"prompt":3}', "prompt must be text"),
        ('{"messages":[]}', "list of objects"),
        ('{"prompt":"a","options":{"num_predict":-1}}', "num_predict"),
        ('{"prompt":"a","options":{"num_ctx":9}}', "load the model anew"),
        ('{"prompt":"a","options":{"num_gpu":0}}', "load the model anew"),
        ('{"prompt":"a","keep_alive":0}', "unload"),
        ("", "holds 0 requests"),
        (f'{{"prompt":{"[" * 5000}', "no JSON"),
    ],
)
def test_a_profile_with_wrong_requests_is_refused(tmp_path, line, said):
    file = tmp_path / "asked.jsonl"
    file.write_text(line)
    with pytest.raises(UsageError) as caught:
        profile.load(str(file), "m", 64)
    assert said in caught.value.message


def loadtest(capsys, *words):
    code = execute(["loadtest", *words])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--users", "0"], "0 is not in the range"),
        (["--duration", "soon"], "--duration must be a duration"),
        (["--duration", "25h"], "between 1s and 24h"),
        (["--stop-at-failures", "much"], "--stop-at-failures must be a share"),
        (["--max-fail", "150%"], "--max-fail: must be at most 100%"),
        (["--max-ttft-p95", "2 sec"], "--max-ttft-p95: must be a duration"),
        (["--min-tokens-per-second", "-1"], "--min-tokens-per-second: "),
        (["--min-tokens-per-second", "much"], "--min-tokens-per-second: "),
        (["--max-queued", "often"], "--max-queued: must be a share"),
        (["--users-wanted", "10"], "--users-wanted needs --find-capacity"),
        (["--api-key", KEY], "takes env:NAME or file:PATH"),
        (["--api-key", "env:NOT_SET_ANYWHERE"], "holds no key"),
        (["--api-key", "file:/nonexistent"], "cannot be read"),
        (["--profile", "/nonexistent"], "the profile /nonexistent cannot be read"),
        (["--baseline", "/nonexistent"], "the baseline /nonexistent cannot be read"),
        (["--html", "/nonexistent/report.html"], "/nonexistent/report.html cannot be written"),
        (["--csv", "/"], "/ cannot be written"),
        (["--csv", "/" + "x" * 300], "cannot be written"),
        (["--csv", "/tmp/same", "--html", "/tmp/../tmp/same"], "same file"),
        (["--margin", "much"], "--margin must be a share"),
        (["--baseline", "x", "--find-capacity"], "do not go together"),
        (["--web", "--find-capacity"], "do not go together"),
        (["--web", "--web-host", "everywhere"], "must be an IP address"),
        (["--limit", "gpu-01"], "none of these hosts is a balancer"),
        (["--target", "http://10.9.9.9:3008"], "say --yes"),
    ],
)
def test_wrong_options_are_refused_before_any_request(capsys, words, said):
    code, err = loadtest(capsys, "-i", "inventory/example.yaml", "--model", "m", *words)
    assert code == 2, err
    assert said in err
    assert KEY not in err
    assert "Traceback" not in err


def test_the_help_tells_the_default_targets(capsys):
    execute(["loadtest", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for field, value in Targets().model_dump(exclude_none=True).items():
        option = said.partition(f" --{field.replace('_', '-')} ")[2].partition(" --")[0]
        assert f"[default: the inventory's, else {value}]" in option


def test_an_inventory_sets_targets_and_switches_targets_off(tmp_path):
    path = tmp_path / "prod.yaml"
    path.write_text("all: {vars: {loadtest: {targets: {max_ttft_p95: off, max_queued: 30%}}}}\ngpu: {hosts: {box: }}\n")
    (host,) = load(path, roles={"loadtest": LoadTest}).hosts
    ours = host.of(LoadTest).targets
    assert (ours.max_ttft_p95, ours.max_queued, ours.max_fail) == (None, "30%", "1%")
    assert [ours.is_default(name) for name in ("max_ttft_p95", "max_queued", "max_fail")] == [False, False, True]


def test_a_foreign_target_needs_a_model_and_no_inventory(capsys):
    code, err = loadtest(capsys, "-i", "/nonexistent", "--target", "http://127.0.0.1:9", "--yes")
    assert (code, "give --model" in err) == (2, True)
    code, err = loadtest(capsys, "-i", "/nonexistent", "--target", "http://127.0.0.1:9", "--yes", "--model", "m")
    assert (code, "cannot be reached" in err) == (4, True)


def test_a_target_replaces_a_balancer_that_this_machine_cannot_reach(capsys, tmp_path):
    settings = "ollama: {instances: [{gpus: [0]}]}, balancer: {listen: [127.0.0.1]}"
    (tmp_path / "prod.yaml").write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        f"gpu: {{hosts: {{box: {{ansible_host: 10.0.0.1, {settings}}}}}}}"
    )
    words = ["-i", str(tmp_path / "prod.yaml"), "--model", "m"]
    assert "listens on 127.0.0.1 only" in loadtest(capsys, *words)[1]
    assert "cannot be reached" in loadtest(capsys, *words, "--target", "http://127.0.0.1:9", "--yes")[1]


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    old = tmp_path / "r.csv"
    old.write_text("as it was")
    files.check(str(old))
    assert old.read_text() == "as it was"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    files.check(str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    files.write_csv(str(old), Tally())
    assert old.read_text().startswith("at,target")
    with pytest.raises(ProvisionError, match="cannot be written"):
        files.write_csv("/dev/null/r.csv", Tally())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "r.csv"]


def test_a_spreadsheet_sees_no_formula(tmp_path):
    tally = Tally()
    tally.add(Record(1.0, "http://t", "=cmd|' /C calc'!A0", status=500, problem="HTTP 500", detail="@SUM(1)\n2"))
    files.write_csv(str(tmp_path / "r.csv"), tally)
    row = (tmp_path / "r.csv").read_text().splitlines()[1]
    assert "'=cmd" in row
    assert "'@SUM(1) 2" in row


TWO_MODELS = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts:
    a: {ansible_host: 10.0.0.1, ollama: {instances: [{gpus: [0], models: [m:1b, E]}]}}
    b: {ansible_host: 10.0.0.2, ollama: {instances: [{gpus: [0], models: [n:1b, e:latest], weight: 2}]}}
"""


def endpoint_of(tmp_path, text):
    """Return the endpoint of an inventory."""
    path = tmp_path / "i.yaml"
    path.write_text(text)
    inventory = role_interface.load(str(path))
    return target.of_inventory(inventory, inventory.hosts)


def test_a_model_of_some_instances_is_asked_for_at_its_path(tmp_path):
    behind = endpoint_of(tmp_path, TWO_MODELS + "balancer: {hosts: {lb: {ansible_host: 10.0.0.5}}}\n")
    assert behind.models == ("E",)
    assert target.of_model(behind, "e").urls == ("http://10.0.0.5:3008/models/e:latest",), "the root is that of m:1b"
    assert target.of_model(behind, "e").weights == behind.weights
    narrow = target.of_model(behind, "N:1B")
    assert narrow.urls == ("http://10.0.0.5:3008/models/n:1b",)
    assert ([one.name for one in narrow.members], narrow.weights) == (["b/ollama1"], {"b/ollama1": 2.0})
    assert target.of_model(behind, "unknown") == behind, "the probe tells which models are there"


def test_the_root_is_asked_for_the_models_of_its_instances(tmp_path):
    inventory = TWO_MODELS + "balancer: {hosts: {lb: {ansible_host: 10.0.0.5}}}\n"
    alike = endpoint_of(tmp_path, inventory.replace("n:1b", "m:1b"))
    assert target.of_model(alike, "e") == target.of_model(alike, "m:1b") == alike
    first = endpoint_of(tmp_path, inventory.replace("m:1b, E", "E, m:1b"))
    assert target.of_model(first, "e") == first


def test_a_model_with_the_defaults_of_ollama_in_its_name_has_the_path_of_the_short_name(tmp_path):
    inventory = TWO_MODELS.replace("n:1b", "registry.ollama.ai/library/N") + "balancer: {hosts: {lb: {}}}\n"
    (url,) = target.of_model(endpoint_of(tmp_path, inventory), "library/n").urls
    assert url.endswith("/models/n:latest")


def test_a_balancer_without_the_model_gets_no_load(tmp_path):
    each = endpoint_of(tmp_path, TWO_MODELS)
    assert target.of_model(each, "m:1b").urls == ("http://10.0.0.1:3008",)
    other = replace(each, urls=("http://10.0.0.2:3008",))
    with pytest.raises(UsageError, match="has no instance with m:1b"):
        target.of_model(other, "m:1b")


def test_without_a_common_model_the_models_are_named(tmp_path):
    with pytest.raises(UsageError) as refused:
        target.chosen_model(endpoint_of(tmp_path, TWO_MODELS.replace(", E]", "]").replace(", e:latest]", "]")), "")
    assert "m:1b, n:1b" in refused.value.hint


@pytest.mark.parametrize("name", ["ollama", "ollama_2", "ollama_17"])
def test_a_group_without_a_free_instance_is_no_instance(name):
    tally = Tally(known=frozenset({"a/ollama1"}))
    tally.add(Record(1.0, "http://t", f"a/ollama1, {name}", status=503, problem="HTTP 503"))
    assert tally.records[0].instance == UNNAMED
