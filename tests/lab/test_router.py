"""The router by the body on the fleet: two models, clients with keys, and TLS. The model server is SIMULATED."""

import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from provision.inventory.client_file import ClientFile, Limits, save
from provision.steps.nginx.router import NETWORKS

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
MODEL, SECOND = "deepseek-r1:1.5b", "llama3.1:8b"
CONFIG = "/etc/provision/nginx"
EVERYWHERE = {"gpu-01/ollama1", "gpu-01/ollama2"}, {"gpu-02/ollama1", "gpu-02/ollama2"}


def ask(fleet: Any, path: str, body: Any = None, key: str = "") -> tuple[int, str, Any]:
    """Return status, instance and document of an answer; a body is sent as JSON."""
    authority = fleet.folder / "ca/ca.pem"
    scheme, trust = ("https", ssl.create_default_context(cafile=authority)) if authority.exists() else ("http", None)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"{scheme}://{fleet.address('lb-01')}:3008{path}", data, headers)  # noqa: S310 - the lab
    try:
        answer = urllib.request.urlopen(asked, timeout=60, context=trust)  # noqa: S310 - the lab
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers["X-Instance"] or "", json.loads(answer.read())


def generate(fleet: Any, model: str, key: str = "", path: str = "/api/generate", **more: Any) -> tuple[int, str]:
    """Return status and instance of an answer of one token."""
    body = {"model": model, "prompt": "question", "stream": False, "options": {"num_predict": 1}, **more}
    return ask(fleet, path, body, key)[:2]


def files(fleet: Any) -> dict[str, str]:
    """Return the files of the balancer's configuration, without the id of the generation."""
    names = [name for name in fleet.on("lb-01", "ls", CONFIG).split() if name != "generation.conf"]
    return {name: fleet.on("lb-01", "cat", f"{CONFIG}/{name}") for name in names}


def residency(fleet: Any, host: str) -> dict[str, tuple[int, bool]]:
    """Return model -> context, and whether the model stays for ever, of the first instance of a host."""
    listed = json.loads(fleet.on(host, "curl", "-s", f"http://{fleet.address(host)}:3001/api/ps"))["models"]
    return {model["name"]: (model["context_length"], model["expires_at"] > "2200") for model in listed}


def test_bodies_choose_the_instances_and_keys_admit_clients(scratch: Any) -> None:
    plain = files(scratch)
    scratch.hosts("gpu")["gpu-02"]["ollama"]["models"] = [SECOND]
    scratch.vars["balancer"] = {**scratch.vars.get("balancer", {}), "router": "njs"}
    assert not [text for text in scratch.plan().doc["warnings"] if "/models/NAME/" in text]
    scratch.deploy()
    assert not any(scratch.changes().values())
    verified = scratch.provision("verify", "--json")
    assert verified.code == 0, verified
    _bodies_choose(scratch)
    _residency_stays(scratch)
    _keys_admit(scratch)
    _drift_is_found(scratch)
    _pools_stay_apart(scratch)

    for name in ("router", "clients"):
        del scratch.vars["balancer"][name]
    del scratch.hosts("gpu")["gpu-02"]["ollama"]["models"]
    scratch.deploy()
    assert files(scratch) == plain
    assert generate(scratch, MODEL)[0] == 200

    scratch.vars["balancer"]["router"] = "njs"
    run = scratch.deploy().doc["run"]
    assert generate(scratch, MODEL, keep_alive=0)[0] == 200
    assert "gateway.js" in files(scratch)
    assert scratch.provision("rollback", run, "--yes", "--json").code == 0
    assert files(scratch) == plain
    assert generate(scratch, MODEL)[0] == 200


def _bodies_choose(fleet: Any) -> None:
    first, second = EVERYWHERE
    for path in ("/api/generate", "/models/{}/api/generate"):
        assert {generate(fleet, MODEL, path=path.format(MODEL)) for _ in range(8)} == {(200, name) for name in first}
        assert {generate(fleet, SECOND, path=path.format(SECOND)) for _ in range(8)} == {(200, name) for name in second}
    status, _, answer = ask(fleet, "/v1/chat/completions", {"model": "other", "messages": []})
    assert status == 404
    assert f"served: {MODEL}, {SECOND}" in answer["error"]["message"]
    assert [model["id"] for model in ask(fleet, "/v1/models")[2]["data"]] == [MODEL, SECOND]
    assert [model["name"] for model in ask(fleet, "/api/tags")[2]["models"]] == [MODEL, SECOND]
    workers = fleet.on("lb-01", "sh", "-c", "pgrep -fc 'nginx: worker process$'")
    assert int(workers) > 1, "the scripts run in several processes"


def _residency_stays(fleet: Any, key: str = "") -> None:
    before = {host: residency(fleet, host) for host in ("gpu-01", "gpu-02")}
    assert before["gpu-01"].keys() == {MODEL}
    for _ in range(4):
        options = {"num_ctx": 777, "num_predict": 1}
        assert generate(fleet, MODEL, key, keep_alive=0, Keep_Alive="1s", options=options)[0] == 200
        assert generate(fleet, SECOND, key, keep_alive=0, options=options)[0] == 200
        assert ask(fleet, "/v1/chat/completions", {"model": MODEL, "messages": [], "keep_alive": 0}, key)[0] in (
            200,
            400,
        )
    assert {host: residency(fleet, host) for host in before} == before


def _keys_admit(fleet: Any) -> None:
    now = int(time.time())
    known, alice = ClientFile().added("alice", Limits(), now)
    known, bob = known.added("bob", Limits(models=(SECOND,)), now)
    known, carol = known.added("carol", Limits(rate=1), now)
    save(fleet.folder / "clients.json", known)
    fleet.vars["balancer"]["clients"] = "clients.json"
    planned = fleet.plan()
    done = fleet.deploy("--tags", "balancer")
    seen = planned.out + planned.err + done.out + done.err + json.dumps(files(fleet))
    assert alice not in seen
    assert known.keys[0].sha256 not in planned.out + done.out + done.err
    assert fleet.on("lb-01", "stat", "-Lc", "%a %U", f"{CONFIG}/gateway_clients.json").split() == ["600", "root"]
    verified = fleet.provision("verify", "--json")
    assert verified.code == 0, verified

    assert [generate(fleet, MODEL, key)[0] for key in ("", "sk-prov-unknown", alice)] == [403, 403, 200]
    assert ask(fleet, "/v1/models")[0] == 401
    _networks_come_before_keys(fleet, alice)
    assert [generate(fleet, name, bob)[0] for name in (MODEL, SECOND)] == [403, 200]
    assert generate(fleet, MODEL, path=f"/models/{MODEL}/api/generate")[0] == 403
    assert generate(fleet, MODEL, bob, f"/models/{MODEL}/api/generate")[0] == 403
    row = json.loads(fleet.on("lb-01", "tail", "-n", "1", "/var/log/provision-nginx/access.log"))
    assert (row["name"], row["model"], row["status"]) == ("bob", "", 403)
    load = ("loadtest", "--duration", "3s", "--users", "2", "--max-tokens", "8", "--model", SECOND)
    loaded = fleet.provision(*load, "--json", "--api-key", "env:KEY", env={"KEY": bob})
    assert loaded.doc["overall"]["failed"] == 0, loaded

    _tls_hides_keys(fleet, alice, bob, carol)
    known = _a_network_needs_no_key(fleet, known)
    save(fleet.folder / "clients.json", known.revoked("bob", now).revoked("cli", now))
    fleet.vars["balancer"]["max_tokens"] = 1
    run = fleet.deploy("--tags", "balancer").doc["run"]
    assert [generate(fleet, SECOND, key)[0] for key in ("", bob, alice)] == [403, 403, 200]
    assert NETWORKS not in files(fleet)
    assert '"max_tokens": 1,' in files(fleet)["gateway.json"]
    assert fleet.provision("rollback", run, "--yes", "--json").code == 0
    assert '"max_tokens": 0,' in files(fleet)["gateway.json"]
    assert NETWORKS in files(fleet), "the files of that time, where no network is left"
    assert [generate(fleet, SECOND, key)[0] for key in ("", bob, alice)] == [403, 403, 200], "revoked stays revoked"
    del fleet.vars["balancer"]["max_tokens"]
    fleet.deploy("--tags", "balancer")


def _pools_stay_apart(fleet: Any) -> None:
    """An instance of the line alone, whose model a common instance serves too."""
    alice = fleet.provision("keys", "add", "dana").out.split()[0]
    own = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][1]
    own["pool"] = "line"
    key = fleet.provision("keys", "add", "line", "--pool", "line").out.split()[0]
    assert "gpu-01/ollama2: for clients of the pool line alone" in fleet.plan().out
    run = fleet.deploy().doc["run"]
    assert not any(fleet.changes().values())
    verified = fleet.provision("verify", "--json")
    assert verified.code == 0, verified
    for path in ("/api/generate", f"/models/{MODEL}/api/generate"):
        assert {generate(fleet, MODEL, alice, path) for _ in range(8)} == {(200, "gpu-01/ollama1")}
        assert {generate(fleet, MODEL, key, path) for _ in range(8)} == {(200, "gpu-01/ollama2")}
    assert generate(fleet, SECOND, key)[0] == 404
    assert [model["id"] for model in ask(fleet, "/v1/models", key=key)[2]["data"]] == [MODEL]
    assert [model["id"] for model in ask(fleet, "/v1/models", key=alice)[2]["data"]] == [MODEL, SECOND]
    assert ask(fleet, "/api/version", key=key)[1] == "gpu-01/ollama2"

    fleet.on("lb-01", "sed", "-i", "/# pool: line/d", f"{CONFIG}/upstream.conf")
    assert fleet.changes()["lb-01"] == ["config:balancer"]
    assert fleet.provision("verify", "--limit", "lb-01").code == 5
    fleet.on("gpu-01", "docker", "stop", "ollama2")
    for path in ("/api/generate", f"/models/{MODEL}/api/generate"):
        assert {generate(fleet, MODEL, key, path)[0] for _ in range(4)} == {503}, "no other pool steps in"
        assert {generate(fleet, MODEL, alice, path) for _ in range(4)} == {(200, "gpu-01/ollama1")}
    fleet.on("gpu-01", "docker", "start", "ollama2")
    fleet.deploy()
    assert generate(fleet, MODEL, key) == (200, "gpu-01/ollama2")
    assert not any(fleet.changes().values())

    assert fleet.provision("rollback", run, "--yes", "--json").code == 0
    assert {generate(fleet, MODEL, alice)[1] for _ in range(8)} == {"gpu-01/ollama1", "gpu-01/ollama2"}
    assert generate(fleet, MODEL, key)[0] == 404, "a client of a pool never gets the common pool"
    del own["pool"]
    assert fleet.provision("plan").code == 2, "a client has a pool without instances"


def _networks_come_before_keys(fleet: Any, key: str) -> None:
    fleet.vars["balancer"]["allow"] = [fleet.address("gpu-01")]
    fleet.deploy("--tags", "balancer")
    status, _, answer = ask(fleet, "/v1/models", key=key)
    assert (status, answer) == (403, {"error": "clients at your address may not use this balancer"})
    verified = fleet.provision("verify", "--json", "--limit", "lb-01")
    assert verified.code == 0, verified
    assert "refuses 127.0.0.2, which is outside of balancer.allow" in verified.out
    del fleet.vars["balancer"]["allow"]
    fleet.deploy("--tags", "balancer")
    assert ask(fleet, "/v1/models", key=key)[0] == 200


def _a_network_needs_no_key(fleet: Any, known: ClientFile) -> ClientFile:
    """A client of the address of this test, and of the balancer itself. Return the clients."""
    assert ask(fleet, "/v1/models")[0] == 401
    row = json.loads(fleet.on("lb-01", "tail", "-n", "1", "/var/log/provision-nginx/access.log"))
    limits = Limits(models=(SECOND,), networks=(f"{row['client']}/32", "127.0.0.1/32"))
    known = known.admitted("cli", limits)
    save(fleet.folder / "clients.json", known)
    assert "/32 need no key" in fleet.plan().out
    fleet.deploy("--tags", "balancer")
    assert [generate(fleet, name)[0] for name in (MODEL, SECOND)] == [403, 200]
    assert [model["id"] for model in ask(fleet, "/v1/models")[2]["data"]] == [SECOND]
    url = f"http://{fleet.address('lb-01')}:3008/v1/models"
    another = ("curl", "--noproxy", "*", "-s", "-o", "/dev/null", "-w", "%{http_code}", url)
    assert fleet.on("gpu-01", *another).strip() == "401"
    verified = fleet.provision("verify", "--json", "--limit", "lb-01")
    assert verified.code == 0, verified
    assert "answers 127.0.0.1 without a key, as a client of 127.0.0.1/32" in verified.out
    assert "refused without a key" in verified.out
    fleet.on("lb-01", "sed", "-i", "s|127.0.0.1/32|127.0.0.0/8|", f"{CONFIG}/{NETWORKS}")
    assert fleet.changes()["lb-01"] == ["config:balancer"]
    assert fleet.provision("verify", "--limit", "lb-01").code == 5
    return known


def _tls_hides_keys(fleet: Any, alice: str, bob: str, carol: str) -> None:
    """Two models, three keys and TLS together."""
    fleet.vars["balancer"]["tls"] = {"authority": "ca"}
    assert fleet.provision("ca", "init").code == 0
    fleet.deploy("--limit", "lb-01")
    verified = fleet.provision("verify", "--json")
    assert verified.code == 0, verified
    tried = [(name, key) for key in ("", alice, bob) for name in (MODEL, SECOND)]
    assert [generate(fleet, name, key)[0] for name, key in tried] == [403, 403, 200, 200, 403, 200]
    assert [generate(fleet, name, bob, f"/models/{name}/api/generate")[0] for name in (MODEL, SECOND)] == [403, 200]
    assert {generate(fleet, MODEL, carol)[0] for _ in range(4)} == {200, 429}, "a request in a minute, and a burst"
    _residency_stays(fleet, alice)
    del fleet.vars["balancer"]["tls"]
    fleet.deploy("--limit", "lb-01")
    shutil.rmtree(fleet.folder / "ca")
    assert generate(fleet, MODEL, alice)[0] == 200


def _drift_is_found(fleet: Any) -> None:
    for edit, name in (
        ('s/"revoked": true/"revoked": false/', "gateway_clients.json"),
        ("s/'pass'/'pass '/", "gateway.js"),
    ):
        fleet.on("lb-01", "sed", "-i", edit, f"{CONFIG}/{name}")
        assert fleet.changes()["lb-01"] == ["config:balancer"]
        assert fleet.provision("verify", "--limit", "lb-01").code == 5
    fleet.deploy("--tags", "balancer")
    assert not any(fleet.changes().values())
