"""The router of a balancer: its settings, the clients' file, the build with the module, and the proofs of verify."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.inventory.client_file import ClientFile, Limits, save
from provision.plan import role_interface
from provision.roles import nginx
from provision.roles.balancer_gateway import CLIENTS as HASHES
from provision.roles.balancer_gateway import MODES
from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.build import Build
from provision.steps.system.file_scan import Content
from tests.unit.balancer_fleet import config, texts

INVENTORY = """
all:
  vars:
    nginx: {{accept_known_vulnerabilities: true}}
    balancer: {{{balancer}}}
  children:
    gpu:
      hosts:
        gpu-01: {{ansible_host: 10.0.0.11, ollama: {{models: {models}, instances: [{{gpus: [0]}}]}}}}
        gpu-02: {{ansible_host: 10.0.0.12, ollama: {{models: ["b:1b"], instances: [{{gpus: [0]}}]}}}}
    balancer: {{hosts: {{lb-01: {{ansible_host: 10.0.0.5}}}}}}
"""
KNOWN = FleetState({"gpu-01": "10.0.0.11", "gpu-02": "10.0.0.12"})
CLIENTS = "router: njs, clients: clients.json"


def load(folder: Path, settings: str, models: str = '["A:1b"]') -> Inventory:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.format(balancer=settings, models=models))
    return role_interface.load(str(path))


def refused(folder: Path, settings: str, models: str = '["A:1b"]') -> str:
    with pytest.raises(InventoryError) as error:
        load(folder, settings, models)
    return "\n".join(map(str, error.value.problems))


def data(inventory: Inventory) -> Any:
    return json.loads(texts(config(inventory), KNOWN)["gateway.json"])


def known(folder: Path, **limits: Any) -> str:
    """Write a file with a client, and return the client's key."""
    clients, key = ClientFile().added("alice", Limits(**limits), 100)
    save(folder / "clients.json", clients)
    return key


@pytest.mark.parametrize(
    "setting", ["api: openai", "clients: a.json", "cap: 1m", "max_tokens: 5", "count_tokens: false"]
)
def test_a_setting_of_the_router_needs_the_router(tmp_path: Path, setting: str) -> None:
    assert f"balancer.{setting.partition(':')[0]}: needs router: njs" in refused(tmp_path, setting)


@pytest.mark.parametrize("cap", ["1", "65m"])
def test_a_cap_has_bounds(tmp_path: Path, cap: str) -> None:
    assert "balancer.cap: must be between 1k and 64m" in refused(tmp_path, f"router: njs, cap: {cap}")


def test_a_router_needs_a_model(tmp_path: Path) -> None:
    text = INVENTORY.replace('["b:1b"]', "[]").format(balancer="router: njs", models="[]")
    (tmp_path / "inventory.yaml").write_text(text)
    with pytest.raises(InventoryError, match="no model to route to"):
        role_interface.load(str(tmp_path / "inventory.yaml"))


def test_each_model_leads_to_its_upstream_and_nothing_is_said_of_the_root(tmp_path: Path) -> None:
    inventory = load(tmp_path, "router: njs, cap: 3m, max_tokens: 9, retry_after: 7")
    assert inventory.warnings == ()
    found = data(inventory)
    assert {name: model["pools"] for name, model in found["models"].items()} == {
        "a:1b": {"": "gateway_ollama"},
        "b:1b": {"": "gateway_ollama_2"},
    }
    assert (found["cap"], found["max_tokens"], found["retry_after"], found["auth"]) == (3 << 20, 9, 7, "none")
    assert data(load(tmp_path, "router: njs, retry_after: 600"))["retry_after"] == 120, "SDKs ignore a longer wait"
    assert len(found["models"]["a:1b"]["details"]["digest"]) == 64, "`ollama list` cuts a digest"
    assert found["models"]["b:1b"]["details"].keys() >= {"size", "details", "expires_at", "modified_at", "size_vram"}


def test_without_a_router_the_files_are_those_of_the_paths(tmp_path: Path) -> None:
    plain, routed = (texts(config(load(tmp_path, text)), KNOWN) for text in ("router: none", "router: njs"))
    assert plain.keys() == {"generation.conf", "models.conf", "nginx.conf", "site.conf", "status.conf", "upstream.conf"}
    assert "js_" not in "".join(plain.values())
    assert "models.conf" not in routed
    assert plain["upstream.conf"] == routed["upstream.conf"]
    assert config(load(tmp_path, "router: none")).modes == {}


def test_the_clients_of_the_file_are_in_the_data_which_nobody_else_reads(tmp_path: Path) -> None:
    key = known(tmp_path, models=("b:1b",), concurrency=3, rate=60, tokens_per_day=5)
    inventory = load(tmp_path, CLIENTS)
    step = config(inventory).in_fleet(KNOWN)
    found = json.loads(texts(config(inventory), KNOWN)["gateway_clients.json"])
    assert found["clients"]["alice"] == {"models": {"b:1b": True}, "pool": "", "tokens_per_day": 5}
    assert data(inventory)["auth"] == "keys"
    assert [entry["client"] for entry in found["keys"].values()] == ["alice"]
    want = step.want(HostFacts(), None)
    assert want is not None
    assert want["odd"] == dict.fromkeys(("gateway.json", "gateway_clients.json"), "file 0600 root:root")
    stored = next(iter(found["keys"]))
    public = [content.data.decode() for name, content in want["files"].items() if name != "gateway_clients.json"]
    assert all(stored not in text and key not in text for text in (*public, repr(step), *step.diff(None, want)))
    assert key not in found
    assert "for the keys of clients.json" in step.impact(None, want)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("{", 0o600, "is no JSON"),
        ('{"clients": {}, "keys": []}', 0o644, "others may read the file"),
        ('{"clients": {"alice": {"pool": "Line"}}, "keys": []}', 0o600, "pool must be a name, or empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_problem_of_its_key(tmp_path: Path, content: str, mode: int, said: str) -> None:
    file = tmp_path / "clients.json"
    file.write_text(content)
    file.chmod(mode)
    problem = refused(tmp_path, CLIENTS)
    assert "balancer.clients: " in problem
    assert said in problem


def test_tokens_of_a_day_need_counted_tokens(tmp_path: Path) -> None:
    known(tmp_path, tokens_per_day=5)
    assert "alice has tokens_per_day" in refused(tmp_path, f"{CLIENTS}, count_tokens: false")
    known(tmp_path)
    assert not data(load(tmp_path, f"{CLIENTS}, count_tokens: false"))["count"]


def test_clients_that_nobody_can_serve_are_named(tmp_path: Path) -> None:
    (said,) = load(tmp_path, CLIENTS).warnings
    assert said == "clients.json has no key in use, so the balancer refuses every request"
    known(tmp_path, models=("b:1b", "c:1b"))
    (said,) = load(tmp_path, CLIENTS).warnings
    assert said == "alice may use c:1b by clients.json, which no instance serves"


def test_a_changed_file_of_clients_is_found_and_its_data_stay_hidden(tmp_path: Path) -> None:
    known(tmp_path)
    before = config(load(tmp_path, CLIENTS)).in_fleet(KNOWN)
    have = before.want(HostFacts(), None)
    assert have is not None
    closed = {name: str(text) if name in MODES else text for name, text in have["files"].items()}
    present = {**have, "files": closed, "exe": "", "loaded": "", "touched": []}
    known(tmp_path, rate=1)
    after = config(load(tmp_path, CLIENTS)).in_fleet(KNOWN)
    want = after.want(HostFacts(), present)
    assert want is not None
    assert after.why(present, want) == "other text in gateway_clients.json, gateway_http.conf, gateway_server.conf"
    assert not [line for line in after.diff(present, want) if "alice" in line and "gateway_clients.json" in line]
    assert isinstance(want["files"]["gateway_clients.json"], Content)


def on_host(step: Balancing) -> dict[str, Any]:
    """Return the state of a host with the configuration and a running nginx: of closed files only the hash."""
    want = step.want(HostFacts(), None)
    assert want is not None
    files = {name: str(content) if name in MODES else content for name, content in want["files"].items()}
    return {**want, "files": files, "exe": step.binary, "loaded": want["id"], "touched": []}


def test_a_revoked_key_stays_revoked_after_a_rollback(tmp_path: Path) -> None:
    known(tmp_path)
    past = on_host(config(load(tmp_path, f"{CLIENTS}, max_tokens: 7")).in_fleet(KNOWN))
    clients, _ = ClientFile().added("alice", Limits(), 100)
    save(tmp_path / "clients.json", clients.revoked("alice", 200))
    after = config(load(tmp_path, CLIENTS)).in_fleet(KNOWN)
    want = after.restore(HostFacts(), on_host(after), past)
    assert want is not None
    assert want["files"]["gateway.json"] == past["files"]["gateway.json"], "the other settings are those of the past"
    assert [key["revoked"] for key in json.loads(want["files"][HASHES].data)["keys"].values()] == [True]
    assert want["odd"] == past["odd"], "the hashes are for root alone"
    nobody = config(load(tmp_path, "router: njs")).in_fleet(KNOWN)
    undone = nobody.restore(HostFacts(), on_host(nobody), past)
    assert undone is not None
    assert undone["files"][HASHES] == past["files"][HASHES], "an inventory without clients has no word about keys"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("router: none", "router: njs", "the model of a request's body decides about the instances"),
        ("router: njs", "router: njs, cap: 1m", ""),
        ("router: njs", CLIENTS, "clients without a key are refused"),
        (CLIENTS, f"{CLIENTS}, api: openai", "/api is closed to clients"),
        (CLIENTS, "router: njs", "clients need no key any more"),
        (f"{CLIENTS}, api: openai", "router: none", "clients need no key any more"),
    ],
)
def test_a_plan_says_what_a_change_means_for_clients(tmp_path: Path, before: str, after: str, said: str) -> None:
    known(tmp_path)
    have = config(load(tmp_path, before)).in_fleet(KNOWN).want(HostFacts(), None)
    assert have is not None
    step = config(load(tmp_path, after)).in_fleet(KNOWN)
    present = {**have, "exe": step.binary, "loaded": have["id"], "touched": []}
    told = step.impact(present, step.want(HostFacts(), present))
    assert told == "; ".join(filter(None, ("reloads nginx (open streams finish)", said)))


def build(inventory: Inventory) -> Build:
    host = inventory.host("lb-01")
    return next(step for step in nginx.steps(host, inventory) if isinstance(step, Build))


def test_a_router_changes_the_build_and_its_absence_does_not(tmp_path: Path) -> None:
    plain, routed = (build(load(tmp_path, text)).source for text in ("router: none", "router: njs"))
    assert plain.recipe == nginx.Settings().built(njs=False).recipe
    assert plain.recipe != routed.recipe
    assert "--with-compat" not in plain.configure
    assert "--with-compat" in routed.configure
    assert config(load(tmp_path, "router: njs")).binary == routed.binary
    assert f"load_module {routed.module};" in texts(config(load(tmp_path, "router: njs")), KNOWN)["nginx.conf"]


@pytest.mark.parametrize(("version", "release"), [("1.28.3", "13"), ("1.26.3", "12")])
def test_a_host_without_a_package_for_the_version_is_refused_and_the_ways_out_are_named(
    version: str, release: str
) -> None:
    facts = HostFacts(distribution="debian", version=release, architecture="amd64")
    settings = nginx.Settings(version=version)
    assert Build(source=settings.built(njs=False)).want(facts, None)
    with pytest.raises(RefusalError, match=r"known: 1.26.3 on debian 13.*nginx\.njs.*/models/NAME/"):
        Build(source=settings.built(njs=True)).want(facts, None)
    njs = nginx.NjsSource(url="https://mirror.example/njs.tar.gz", sha256="c" * 64)
    source = nginx.Settings(version=version, njs=njs).built(njs=True)
    assert Build(source=source).want(facts, None)
    assert (source.module, source.configure[-1]) == ("", "--add-module=../njs/nginx")
    assert source.parts == ("njs:https://mirror.example/njs.tar.gz", "c" * 64)


def test_the_addresses_of_a_management_network_have_the_status_and_no_models(tmp_path: Path) -> None:
    inside = "router: njs, status_listen: [10.9.0.5], status_allow: [10.9.0.0/24]"
    text = texts(config(load(tmp_path, inside)), KNOWN)["status.conf"]
    own, further = text.split("server {")[1:]
    assert "listen 127.0.0.1:8080;" in own
    assert "include gateway_server.conf;" in own
    assert "listen 10.9.0.5:8080;" in further
    assert "gateway" not in further
    assert "if ($refused_status)" in further


def test_a_proof_of_networks_needs_an_answer_without_a_key(tmp_path: Path) -> None:
    known(tmp_path)
    assert len(config(load(tmp_path, "router: njs, allow: [10.0.0.0/8]")).doors) == 1
    [keyed] = config(load(tmp_path, f"{CLIENTS}, allow: [10.0.0.0/8]")).doors
    assert (keyed.urls[0].endswith("/v1/models"), keyed.answers) == (True, ("401", "200"))


class Live:
    """A balancer that answers every question with the same status, and whose upstream is given."""

    def __init__(self, upstream: str, status: str) -> None:
        self.upstream, self.status, self.asked, self.stdout, self.rc = upstream, status, [""], "", 0

    def run(self, words: str, *arguments: str) -> "Live":
        urls = [word for word in arguments if "http://" in word]
        self.asked += urls
        self.stdout = self.upstream if words.startswith("cat ") else f"{self.status}\n" * len(urls)
        return self


def test_verify_asks_the_status_port_where_clients_need_keys(tmp_path: Path) -> None:
    known(tmp_path)
    step = config(load(tmp_path, CLIENTS)).in_fleet(KNOWN)
    live = Live(texts(step, KNOWN)["upstream.conf"], "401")
    checks = {check.name: check.passed for check in step.check(live)}
    assert checks["refused without a key"]
    assert not checks["GET / through the balancer"], "the status port has to answer"
    outside = [url for url in live.asked if "127.0.0.1:3008" in url]
    assert sorted(outside) == sorted(
        [
            *(f"GET http://127.0.0.1:3008{path}" for path in ("/api/ps", "/api/tags", "/v1/models")),
            "POST http://127.0.0.1:3008/models/-/v1/chat/completions",
        ]
    )
    open_to_all = Live(texts(step, KNOWN)["upstream.conf"], "200")
    assert not {check.name: check.passed for check in step.check(open_to_all)}["refused without a key"]
