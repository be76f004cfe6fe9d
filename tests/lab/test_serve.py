"""The purpose of it all: streamed answers through the balancer, from every instance, unbuffered, and nothing else."""

import collections
import concurrent.futures
import json
import time
import urllib.error
import urllib.request

import pytest

from provision.lab.shell import LabError

pytestmark = pytest.mark.lab
MODEL = "deepseek-r1:1.5b"


def request(fleet, path, body=None, method=None):
    url = f"http://{fleet.address('lb-01')}:3008{path}"
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        return urllib.request.urlopen(asked, timeout=60)  # noqa: S310 - the lab
    except urllib.error.HTTPError as error:
        return error


def generate(fleet, number, tokens=5):
    """One streamed answer: its instance, and when its first and last line came."""
    body = {"model": MODEL, "prompt": f"question {number}", "options": {"num_predict": tokens}}
    begun = time.monotonic()
    with request(fleet, "/api/generate", body) as answer:
        assert answer.status == 200
        times, last = [], {}
        for line in answer:
            times.append(time.monotonic() - begun)
            last = json.loads(line)
        assert last.get("done"), last
        return answer.headers["X-Instance"], times[0], times[-1]


def test_two_hundred_streams_reach_every_instance_in_equal_shares(fleet):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        served = collections.Counter(name for name, _, _ in pool.map(lambda n: generate(fleet, n), range(200)))
    assert set(served) == {f"gpu-0{host}/ollama{number}" for host in (1, 2) for number in (1, 2)}
    assert sum(served.values()) == 200
    assert all(20 <= count <= 80 for count in served.values()), served


@pytest.mark.matrix
def test_weights_are_honoured(scratch):
    for number, instance in enumerate(scratch.hosts("gpu")["gpu-01"]["ollama"]["instances"]):
        instance["weight"] = 3 if number == 0 else 1
    scratch.vars["balancer"] = {"method": "round_robin"}
    done = scratch.deploy()
    assert {host["host"]: host["changed"] for host in done.doc["hosts"]} == {
        "gpu-01": [],
        "gpu-02": [],
        "lb-01": ["config:balancer"],
    }
    served = collections.Counter(generate(scratch, n, tokens=1)[0] for n in range(60))
    assert served == {"gpu-01/ollama1": 30, "gpu-01/ollama2": 10, "gpu-02/ollama1": 10, "gpu-02/ollama2": 10}


def test_the_first_token_comes_long_before_the_last(fleet):
    _, first, last = generate(fleet, 0, tokens=200)
    assert first < last / 2


def test_each_container_has_exactly_the_card_it_was_given(fleet):
    for host in ("gpu-01", "gpu-02"):
        cards = fleet.on(host, "nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader").split()
        for number in (1, 2):
            inside = fleet.on(host, "docker", "exec", f"ollama{number}", "nvidia-smi", "-L")
            assert [card for card in cards if card in inside] == [cards[number - 1]]
            assert inside.count("GPU ") == 1


@pytest.mark.parametrize("path", ["pull", "push", "create", "copy", "delete", "blobs/sha256:0", "me"])
def test_paths_that_change_models_are_refused(fleet, path):
    for method in ("POST", "DELETE"):
        with request(fleet, f"/api/{path}", {"model": MODEL}, method) as answer:
            assert answer.status in (403, 405)
            assert "error" in json.loads(answer.read())


def test_pprof_and_unknown_paths_are_refused(fleet):
    for path in ("/debug/pprof/", "/api/../debug/pprof/", "/x", "/api/generate/../pull"):
        with request(fleet, path) as answer:
            assert answer.status in (400, 403)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_health_probe_is_answered_as_by_ollama(fleet, method):
    with request(fleet, "/", method=method) as answer:
        assert answer.status == 200
        assert answer.read() == (b"Ollama is running" if method == "GET" else b"")


def test_the_ollama_program_works_and_may_not_change_models(fleet):
    """In a container of a gpu host, with the balancer as its server."""
    url = f"http://{fleet.address('lb-01')}:3008"
    ollama = ("docker", "exec", "-e", f"OLLAMA_HOST={url}", "ollama1", "ollama")
    try:
        assert MODEL in fleet.on("gpu-01", *ollama, "list")
        assert MODEL in fleet.on("gpu-01", *ollama, "ps")
        assert fleet.on("gpu-01", *ollama, "show", MODEL)
        assert fleet.on("gpu-01", *ollama, "run", MODEL, "hello").strip()
        fleet.on("gpu-01", *ollama, "stop", MODEL)
    finally:
        fleet.deploy()  # loads the model again that was stopped on an instance
    with pytest.raises(LabError, match="this path is not open here"):
        fleet.on("gpu-01", *ollama, "pull", "qwen3:8b")


def test_openai_clients_work(fleet):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 5}
    with request(fleet, "/v1/chat/completions", body) as answer:
        assert answer.read().rstrip().endswith(b"data: [DONE]")


def test_an_instance_that_is_gone_is_not_seen_by_clients(fleet):
    fleet.on("gpu-01", "docker", "stop", "-t", "1", "ollama1")
    try:
        served = {generate(fleet, n)[0] for n in range(12)}
    finally:
        fleet.deploy()
    # A request that was first tried there names both addresses.
    assert {name for name in served if "," not in name} == {"gpu-01/ollama2", "gpu-02/ollama1", "gpu-02/ollama2"}


@pytest.mark.matrix
def test_a_full_fleet_says_so_in_json_with_a_time_to_come_back(scratch):
    scratch.vars["balancer"] = {"queue": 0}
    scratch.deploy()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        body = {"model": MODEL, "prompt": "x", "options": {"num_predict": 60}}

        def ask(_):
            with request(scratch, "/api/generate", body) as answer:
                return answer.status, answer.headers.get("Retry-After"), answer.read()

        answers = list(pool.map(ask, range(12)))
    full = [answer for answer in answers if answer[0] == 503]
    assert full, [answer[0] for answer in answers]
    assert all(after and "error" in json.loads(body) for _, after, body in full)


def test_instances_are_out_of_reach_for_everybody_but_the_balancer(fleet, lab):
    port = f"{fleet.address('gpu-01')}:3001"
    words = f"curl -sf --connect-timeout 3 --max-time 60 -o /dev/null http://{port}/api/version".split()
    assert lab.host("lb-01").run(words, check=False).returncode == 0
    assert lab.host("gpu-02").run(words, check=False).returncode != 0
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        urllib.request.urlopen(f"http://{port}/api/version", timeout=3)
