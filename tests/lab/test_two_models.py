"""Routes by model on the real nginx: one set of models on the fleet as it is, and two sets side by side."""

import collections
import json
import socket

import pytest

from tests.unit.nginx_config import find, parse
from tests.unit.nginx_locations import reply

from .conftest import UPSTREAM
from .test_serve import request

pytestmark = pytest.mark.lab
MODEL, SECOND = "deepseek-r1:1.5b", "llama3.1:8b"
ROUTES = "/etc/provision/nginx/models.conf"
SITE = "/etc/provision/nginx/site.conf"
# Paths as a client sends them, without any change by a library.
RAW = (
    f"/models/{MODEL}/v1/models",
    "/models/deepseek-r1%3A1.5b/api/version",
    f"/models/{MODEL}/v1/../api/pull",
    f"/models/{MODEL}/v1/%2e%2e/api/pull",
    f"/models/{MODEL}//api/pull",
    f"/models/{MODEL}/v1",
    "/models/DeepSeek-R1:1.5b/v1/models",
    "/models/../v1/models",
    "/%6dodels/-/api/chat",
    "/models/-/v1/messages",
    "/models/(a+)+$/v1/models",
    "/models/$uri/api/chat",
    "/models/%00/api/chat",
    "/models/%0d%0aX:1/v1/models",
    "/models/..%2f..%2fapi/pull",
    f"/models/{'x' * 3000}/v1/models",
)


def raw(fleet, path: str) -> tuple[int, str, bytes]:
    """The status, the instance and the body of an answer to a path that no library changes."""
    line = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((fleet.address("lb-01"), 3008), timeout=60) as connection:
        connection.sendall(line.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    instances = [line.partition(": ")[2] for line in lines if line.startswith("X-Instance: ")]
    return int(lines[0].split()[1]), "".join(instances), body


def locations(fleet):
    """The locations of the balancer, as its files have them."""
    (server,) = find(parse(fleet.on("lb-01", "cat", SITE)), "server")
    return (*(server.block or ()), *parse(fleet.on("lb-01", "cat", ROUTES)))


def ask(fleet, base: str, model: str, number: int = 0) -> str:
    """The instance that answers a question to a model below a path."""
    body = {"model": model, "prompt": f"question {number}", "options": {"num_predict": 1}, "stream": False}
    with request(fleet, f"{base}/api/generate", body) as answer:
        assert (answer.status, json.loads(answer.read())["done"]) == (200, True)
        return answer.headers["X-Instance"]


def test_the_path_of_the_only_model_leads_to_every_instance(fleet):
    served = collections.Counter(ask(fleet, f"/models/{MODEL}", MODEL, number) for number in range(12))
    assert set(served) == {f"gpu-0{host}/ollama{number}" for host in (1, 2) for number in (1, 2)}
    listed = json.loads(request(fleet, "/api/tags").read())["models"]
    assert [(model["name"], model["size"] > 0) for model in listed] == [(MODEL, True)], "an instance answers the list"


def test_nginx_answers_paths_as_the_rules_of_the_unit_tests_say(fleet):
    known = locations(fleet)
    for path in RAW:
        wanted, (status, instance, body) = reply(known, path.encode()), raw(fleet, path)
        if wanted.status in (403, 404):
            assert (status, instance, body.decode()) == (wanted.status, "", wanted.body), path
        elif wanted.status:
            assert (status, instance) == (wanted.status, ""), path
        else:
            assert instance.startswith("gpu-0"), (path, status)


@pytest.mark.matrix
def test_two_models_are_served_side_by_side(scratch):
    scratch.hosts("gpu")["gpu-02"]["ollama"]["models"] = [SECOND]
    plan = scratch.plan()
    (said,) = [text for text in plan.doc["warnings"] if "/models/NAME/" in text]
    assert said.startswith(f"the root of the balancer serves {MODEL} only; clients reach {SECOND} at /models/NAME/")
    scratch.deploy()
    assert not any(scratch.changes().values())
    verified = scratch.provision("verify", "--json")
    assert verified.code == 0, verified
    assert {ask(scratch, f"/models/{SECOND}", SECOND, number) for number in range(8)} == {
        "gpu-02/ollama1",
        "gpu-02/ollama2",
    }
    assert {ask(scratch, "", MODEL, number) for number in range(8)} == {"gpu-01/ollama1", "gpu-01/ollama2"}
    listed = json.loads(request(scratch, "/v1/models").read())["data"]
    assert [model["id"] for model in listed] == [MODEL, SECOND]

    scratch.on("lb-01", "sed", "-i", "s/ollama_2/ollama/", ROUTES)
    assert scratch.changes()["lb-01"] == ["config:balancer"]
    assert scratch.provision("verify", "--limit", "lb-01").code == 5
    scratch.deploy("--tags", "balancer")

    assert scratch.provision("drain", "gpu-02", "--json").code == 7, "the last instances of a model"
    assert scratch.provision("drain", "gpu-02/ollama1", "--json").code == 0
    assert {ask(scratch, f"/models/{SECOND}", SECOND, number) for number in range(4)} == {"gpu-02/ollama2"}
    assert scratch.provision("undrain", "gpu-02/ollama1", "--json").code == 0

    before = scratch.on("lb-01", "cat", UPSTREAM)
    scratch.vars["ollama"]["log_max_file"] = 4
    rolled = scratch.deploy()
    assert "container:ollama1" in rolled.host("gpu-02")["changed"]
    assert scratch.on("lb-01", "cat", UPSTREAM) == before
    assert scratch.provision("rollback", rolled.doc["run"], "--yes", "--json").code == 0
    assert scratch.on("lb-01", "cat", UPSTREAM) == before
    del scratch.vars["ollama"]["log_max_file"]

    del scratch.hosts("gpu")["gpu-02"]["ollama"]["models"]
    scratch.deploy()
    assert "upstream ollama_2" not in scratch.on("lb-01", "cat", UPSTREAM)
    assert raw(scratch, f"/models/{SECOND}/v1/models")[0] == 404


NAME = "chat:latest"
ALIAS = [f"alias:ollama{number}/{NAME}" for number in (1, 2)]


def counted(fleet, count: int) -> dict[str, int]:
    """How many of some requests for the public name each host answers."""
    instances = [ask(fleet, "", "chat", number) for number in range(count)]
    return dict(collections.Counter(instance.partition("/")[0] for instance in instances))


def api(fleet, host: str, instance: str, path: str, body: dict, method: str = "POST") -> str:
    """The answer of an instance itself."""
    command = 'curl -sf -X "$1" -d "$2" "http://$(docker port "$3" 11434)$4"'
    return fleet.on(host, "sh", "-euc", command, "sh", method, json.dumps(body), instance, path)


def listed(fleet, host: str, instance: str, path: str) -> set[str]:
    """The names of the models on an instance, or of the loaded models."""
    return {model["name"] for model in json.loads(api(fleet, host, instance, path, {}, "GET"))["models"]}


@pytest.mark.matrix
def test_the_versions_of_a_public_name_have_their_shares(scratch):
    scratch.hosts("gpu")["gpu-02"]["ollama"]["models"] = [SECOND]
    scratch.vars["ollama"]["traffic"] = {NAME: {MODEL: 75, SECOND: 25}}
    plan = scratch.plan()
    (said,) = [text for text in plan.doc["warnings"] if "/models/NAME/" in text]
    assert f"requests for {NAME} go to {MODEL} (75 %), {SECOND} (25 %)" in said
    impacts = {change["step"]: change["impact"] for change in plan.host("gpu-01")["changes"]}
    assert {impacts[step] for step in ALIAS} == {f"serves {MODEL} as {NAME}"}
    scratch.deploy()
    assert not any(scratch.changes().values())
    verified = scratch.provision("verify", "--json")
    assert verified.code == 0, verified
    assert counted(scratch, 40) == {"gpu-01": 30, "gpu-02": 10}
    assert ask(scratch, f"/models/{SECOND}", SECOND).startswith("gpu-02/")

    before = scratch.on("lb-01", "cat", UPSTREAM)
    scratch.vars["ollama"]["traffic"] = {NAME: {MODEL: 50, SECOND: 50}}
    changed = scratch.deploy()
    assert [step for host in changed.doc["hosts"] for step in host["changed"]] == ["config:balancer"]
    assert counted(scratch, 20) == {"gpu-01": 10, "gpu-02": 10}
    assert scratch.provision("rollback", changed.doc["run"], "--yes", "--json").code == 0
    assert scratch.on("lb-01", "cat", UPSTREAM) == before
    assert counted(scratch, 40) == {"gpu-01": 30, "gpu-02": 10}
    scratch.vars["ollama"]["traffic"] = {NAME: {MODEL: 75, SECOND: 25}}

    api(scratch, "gpu-01", "ollama1", "/api/delete", {"model": NAME}, "DELETE")
    api(scratch, "gpu-02", "ollama1", "/api/pull", {"model": MODEL, "stream": False})
    api(scratch, "gpu-02", "ollama1", "/api/copy", {"source": MODEL, "destination": NAME})
    assert scratch.changes() == {"gpu-01": ALIAS[:1], "gpu-02": ALIAS[:1], "lb-01": []}
    assert scratch.provision("verify", "--limit", "gpu").code == 5
    scratch.deploy()
    assert counted(scratch, 8) == {"gpu-01": 6, "gpu-02": 2}

    api(scratch, "gpu-02", "ollama2", "/api/generate", {"model": SECOND, "keep_alive": 0, "stream": False})
    api(scratch, "gpu-02", "ollama2", "/api/generate", {"model": NAME, "keep_alive": -1, "stream": False})
    assert listed(scratch, "gpu-02", "ollama2", "/api/ps") == {NAME}, "the name that came first"
    assert not any(scratch.changes().values()), "the version is loaded under its other name"
    verified = scratch.provision("verify", "--json")
    assert verified.code == 0, verified

    api(scratch, "gpu-01", "ollama2", "/api/copy", {"source": MODEL, "destination": "by-hand"})
    del scratch.vars["ollama"]["traffic"]
    removed = scratch.deploy()
    assert sorted(removed.host("gpu-01")["changed"]) == ALIAS
    assert listed(scratch, "gpu-01", "ollama2", "/api/tags") == {MODEL, "by-hand:latest"}
    assert raw(scratch, "/models/chat/v1/models")[0] == 404
    assert "# share" not in scratch.on("lb-01", "cat", UPSTREAM)
