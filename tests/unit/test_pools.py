"""Pools of instances: `ollama.pool`, from the inventory to the balancer, the rolls and the proofs."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision import actions, testing
from provision.actions import keys
from provision.errors import InventoryError, UsageError
from provision.inventory import Inventory, client_file
from provision.inventory.client_file import ClientFile, Limits, save
from provision.plan import role_interface
from provision.rollout.replicas import Replicas
from provision.steps.base import NOT_ASKED, RefusalError
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import balancer_checks, upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.replica_sets import ReplicaSet, pools_of, replica_sets
from provision.steps.nginx.upstream import Upstream
from tests.unit.balancer_fleet import config, texts
from tests.unit.test_balancer_router import Live, on_host

INVENTORY = """
all:
  vars:
    nginx: {{accept_known_vulnerabilities: true}}
    balancer: {{{balancer}}}
  children:
    gpu:
      hosts:
        gpu-01: {{ansible_host: 10.0.0.11, ollama: {{models: ["a:1b"], instances: [{{gpus: [0]}}, {{gpus: [1]}}]}}}}
        gpu-02: {{ansible_host: 10.0.0.12, ollama: {{models: ["a:1b", "b:1b"], {second}}}}}
    balancer: {{hosts: {{lb-01: {{ansible_host: 10.0.0.5}}}}}}
"""
KEYED = "router: njs, clients: clients.json"
SHARED, POOLED = "instances: [{gpus: [0]}]", "pool: line, instances: [{gpus: [0]}]"
BOTH = FleetState({"gpu-01": "10.0.0.11", "gpu-02": "10.0.0.12"})
FIRST = FleetState({"gpu-01": "10.0.0.11"})


def load(folder: Path, second: str = POOLED, settings: str = KEYED, **pools: str) -> Inventory:
    """Return the inventory, with some clients and their pools."""
    usual = {"alice": "line", "bob": ""} if second == POOLED else {"bob": ""}
    clients = ClientFile()
    for name, pool in (pools or usual).items():
        clients, _ = clients.added(name, Limits(pool=pool), 100)
    save(folder / "clients.json", clients)
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.format(balancer=settings, second=second))
    return role_interface.load(str(path))


def refused(folder: Path, *words: str, **pools: str) -> str:
    with pytest.raises(InventoryError) as error:
        load(folder, *words, **pools)
    return "\n".join(map(str, error.value.problems))


def sets_of(step: Balancing, fleet: FleetState, have: Any = None) -> tuple[ReplicaSet, ...]:
    want = step.in_fleet(fleet).want(HostFacts(), have)
    return upstream.sets(upstream.text_of(want))


def test_a_pool_has_upstreams_of_its_own_and_the_common_ones_leave_its_instances_out(tmp_path: Path) -> None:
    step = config(load(tmp_path))
    files = texts(step, BOTH)
    assert (
        sets_of(step, BOTH)
        == step.in_fleet(BOTH).sets
        == (
            ReplicaSet(("a:1b",), ("gpu-01/ollama1", "gpu-01/ollama2")),
            ReplicaSet(("a:1b", "b:1b"), ("gpu-02/ollama1",), pool="line"),
        )
    )
    assert files["upstream.conf"].count("    # pool: line\n") == 1
    models = json.loads(files["gateway.json"])["models"]
    assert {name: model["pools"] for name, model in models.items()} == {
        "a:1b": {"": "gateway_ollama", "line": "gateway_ollama_2", "_provision_pools": "gateway_ollama"},
        "b:1b": {"line": "gateway_ollama_2", "_provision_pools": "gateway_ollama_2"},
    }
    clients = json.loads(files["gateway_clients.json"])["clients"]
    assert {name: client["pool"] for name, client in clients.items()} == {
        "alice": "line",
        "bob": "",
        "_provision": "",
        "_provision_pools": "_provision_pools",
    }
    assert json.loads(files["gateway.json"])["manager"] == "_provision_pools"
    [roots] = [
        part for part in files["gateway_http.conf"].split("map ") if part.startswith("$gateway_client $gateway_r")
    ]
    assert roots.split("{")[1].split("}")[0].split() == [
        *("default", "ollama;", r"\\alice", "ollama_2;", r"\\_provision_pools", "ollama;")
    ]
    assert "proxy_pass http://$gateway_root/api/version;" in files["gateway_server.conf"]


def test_without_pools_the_files_know_nothing_of_pools(tmp_path: Path) -> None:
    files = texts(config(load(tmp_path, SHARED, bob="")), BOTH)
    assert [name for name, text in files.items() if "_provision_pools" in text or "gateway_root" in text] == []
    assert "# pool" not in files["upstream.conf"]


def test_nobody_answers_a_client_without_a_pool_where_every_instance_has_one(tmp_path: Path) -> None:
    text = INVENTORY.replace('{{models: ["a:1b"],', '{{pool: other, models: ["a:1b"],')
    load(tmp_path)
    (tmp_path / "inventory.yaml").write_text(text.format(balancer=KEYED, second=POOLED))
    inventory = role_interface.load(str(tmp_path / "inventory.yaml"))
    assert [text for text in inventory.warnings if "bob of clients.json have no pool" in text]
    files = texts(config(inventory), BOTH)
    assert "    default 127.0.0.1:1;\n" in files["gateway_http.conf"]
    assert json.loads(files["gateway.json"])["models"]["b:1b"]["pools"].keys() == {"line", "_provision_pools"}


def test_an_instance_has_the_pool_of_its_host_or_its_own(tmp_path: Path) -> None:
    inventory = load(
        tmp_path, 'pool: line, instances: [{gpus: [0]}, {gpus: [1], pool: ""}, {gpus: [2], pool: b}]', carol="b"
    )
    assert [instance.pool for instance in inventory.host("gpu-02").instances] == ["line", "", "b"]
    assert [instance.pool for instance in inventory.host("gpu-01").instances] == ["", ""]


@pytest.mark.parametrize("pool", ["Line", "-a", "a b", '"a\\nb"', "a" * 64, "_provision", '"1"'])
def test_a_pool_has_a_plain_name(tmp_path: Path, pool: str) -> None:
    assert "ollama.pool: must be a pool such as" in refused(tmp_path, f"pool: {pool}, instances: [{{gpus: [0]}}]")


@pytest.mark.parametrize("settings", ["router: none", "router: njs"])
def test_a_pool_needs_keys(tmp_path: Path, settings: str) -> None:
    said = refused(tmp_path, POOLED, settings)
    assert "balancer.clients: is needed with `router: njs`: gpu-02/ollama1 belong to a pool" in said


def test_a_machine_that_balances_its_own_instances_needs_keys_too(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    host = "{ansible_host: 10.0.0.11, ollama: {models: ['a:1b'], pool: line, instances: [{gpus: [0]}]}}"
    path.write_text(f"all: {{children: {{gpu: {{hosts: {{gpu-01: {host}}}}}}}}}\n")
    with pytest.raises(InventoryError, match="gpu-01/ollama1 belong to a pool"):
        role_interface.load(str(path))


def test_a_client_needs_instances_of_its_pool_and_a_pool_a_client(tmp_path: Path) -> None:
    said = refused(tmp_path, SHARED, KEYED, alice="line")
    assert "gives alice the pool line, and no instance behind lb-01 belongs to the pool" in said
    warnings = load(tmp_path, POOLED, KEYED, bob="").warnings
    assert [text for text in warnings if "no client of clients.json has the pool: `provision keys add NAME" in text]
    assert [text for text in load(tmp_path).warnings if "gpu-02/ollama1 serve clients of the pool line alone" in text]


def test_a_client_of_a_network_needs_instances_of_its_pool_too(tmp_path: Path) -> None:
    load(tmp_path, SHARED, bob="")
    clients = client_file.load(tmp_path / "clients.json")
    save(tmp_path / "clients.json", clients.admitted("cli", Limits(pool="line", networks=("10.0.0.0/8",))))
    with pytest.raises(InventoryError, match="gives cli the pool line"):
        role_interface.load(str(tmp_path / "inventory.yaml"))


def test_the_words_of_a_refused_pool_lead_out(tmp_path: Path) -> None:
    """No command reads a refused inventory, `keys revoke` neither, so the way out names the file."""
    said = refused(tmp_path, SHARED, KEYED, alice="line", bob="")
    assert "or type `provision keys revoke alice --clients FILE` with this file" in said
    request = actions.Request(str(tmp_path / "inventory.yaml"), setup=testing.setup(tmp_path))
    with pytest.raises(InventoryError):
        keys.revoke(request, "alice")
    keys.revoke(request, "alice", file=str(tmp_path / "clients.json"))
    role_interface.load(request.inventory)


def test_a_client_without_a_usable_key_needs_no_instances(tmp_path: Path) -> None:
    load(tmp_path, POOLED)
    clients, _ = ClientFile().added("alice", Limits(pool="line"), 100)
    clients, _ = clients.added("bob", Limits(), 100)
    text = INVENTORY.format(balancer=KEYED, second=SHARED)
    (tmp_path / "inventory.yaml").write_text(text)
    save(tmp_path / "clients.json", clients.revoked("alice", 200))
    files = texts(config(role_interface.load(str(tmp_path / "inventory.yaml"))), BOTH)
    assert json.loads(files["gateway_clients.json"])["clients"]["alice"]["pool"] == "line", "never the common pool"
    assert json.loads(files["gateway.json"])["models"]["a:1b"]["pools"].keys() == {""}


def test_a_model_of_a_client_has_to_be_in_the_pool(tmp_path: Path) -> None:
    load(tmp_path)
    clients, _ = ClientFile().added("alice", Limits(models=("b:1b",)), 100)
    clients, _ = clients.added("carol", Limits(models=("b:1b",), pool="line"), 100)
    save(tmp_path / "clients.json", clients)
    warnings = role_interface.load(str(tmp_path / "inventory.yaml")).warnings
    assert "alice may use b:1b by clients.json, which no instance serves" in warnings
    assert not [text for text in warnings if text.startswith("carol")]


def test_a_host_that_a_run_does_not_visit_keeps_its_pool(tmp_path: Path) -> None:
    shared, pooled = (config(load(tmp_path, second)) for second in (SHARED, POOLED))
    before, after = on_host(shared.in_fleet(BOTH)), on_host(pooled.in_fleet(BOTH))
    assert set(pools_of(sets_of(pooled, FIRST, before)).values()) == {""}
    assert pools_of(sets_of(pooled, BOTH, before))["gpu-02/ollama1"] == "line"
    assert pools_of(sets_of(shared, FIRST, after))["gpu-02/ollama1"] == "line"
    assert set(pools_of(sets_of(shared, BOTH, after)).values()) == {""}


def test_a_balancer_without_keys_refuses_a_pool_that_its_host_still_has(tmp_path: Path) -> None:
    after = on_host(config(load(tmp_path)).in_fleet(BOTH))
    keyless = config(load(tmp_path, SHARED, "router: none"))
    with pytest.raises(RefusalError, match="deploy gpu-02 in the same run"):
        keyless.in_fleet(FIRST).want(HostFacts(), after)
    assert keyless.in_fleet(BOTH).want(HostFacts(), after)


def test_a_plan_names_the_instances_that_change_their_pool(tmp_path: Path) -> None:
    shared, pooled = (config(load(tmp_path, second)).in_fleet(BOTH) for second in (SHARED, POOLED))
    before, after = on_host(shared), on_host(pooled)
    assert "gpu-02/ollama1: for clients of the pool line alone" in pooled.impact(
        before, pooled.want(HostFacts(), before)
    )
    assert "gpu-02/ollama1: for all clients without a pool" in shared.impact(after, shared.want(HostFacts(), after))
    assert "pool" not in pooled.impact(after, after)


def test_a_rollback_brings_the_pools_of_the_past_and_a_drain_keeps_them(tmp_path: Path) -> None:
    shared, pooled = (config(load(tmp_path, second)).in_fleet(BOTH) for second in (SHARED, POOLED))
    before, after = on_host(shared), on_host(pooled)
    undone = upstream.sets(upstream.text_of(pooled.restore(HostFacts(), after, before)))
    assert undone == upstream.sets(upstream.text_of(before))
    redone = upstream.sets(upstream.text_of(shared.restore(HostFacts(), before, after)))
    assert redone == upstream.sets(upstream.text_of(after))
    parsed = Upstream.parse(upstream.text_of(after))
    assert parsed is not None
    assert parsed.text == upstream.text_of(after)
    assert Upstream.parse(parsed.updated(down=["gpu-02/ollama1"]).text).sets == parsed.sets  # type: ignore[union-attr]


@pytest.mark.parametrize("second", [SHARED, POOLED])
def test_a_rollback_keeps_the_client_of_the_status_port_where_no_client_has_a_pool(tmp_path: Path, second: str) -> None:
    """The status port asks as `_provision_pools` there, which the present clients need not have."""
    past = on_host(config(load(tmp_path, bob="")).in_fleet(BOTH))
    step = config(load(tmp_path, second, bob="")).in_fleet(BOTH)
    want = step.restore(HostFacts(), on_host(step), past)
    assert want is not None
    assert "_provision_pools" in json.loads(want["files"]["gateway_clients.json"].data)["clients"]
    before = on_host(config(load(tmp_path, SHARED, bob="")).in_fleet(BOTH))
    want = step.restore(HostFacts(), on_host(step), before)
    assert want is not None
    assert json.loads(want["files"]["gateway_clients.json"].data)["clients"].keys() == {"bob", "_provision"}


def test_a_pool_is_a_budget_of_its_own(tmp_path: Path) -> None:
    inventory = load(tmp_path)
    replicas = Replicas(inventory)
    first, second = inventory.host("gpu-01"), inventory.host("gpu-02")
    assert not replicas.stand_in(first, second, "a:1b")
    assert replicas.count(first, "a:1b") == 2
    assert replicas.models_of(second) == {"a:1b of the pool line", "b:1b of the pool line"}
    labels = ["gpu-01/ollama1", "gpu-01/ollama2", "gpu-02/ollama1"]
    assert replicas.serving("a:1b of the pool line", labels) == {"gpu-02/ollama1"}


def test_verify_compares_the_pools_and_names_the_answers_that_nobody_asks(tmp_path: Path) -> None:
    step = config(load(tmp_path)).in_fleet(BOTH)
    text = texts(step, BOTH)["upstream.conf"]
    [good] = balancer_checks.pools(Live(text, "200"), step.sets)
    assert good.passed
    [bad] = balancer_checks.pools(Live(text.replace("# pool: line", ""), "200"), step.sets)
    assert not bad.passed
    unasked = f"{NOT_ASKED}a streamed answer of a:1b through the pool line"
    assert not [check for check in step.check(Live(text, "200")) if check.name.startswith(unasked)], "b:1b is asked"
    both = config(load(tmp_path, "pool: line, instances: [{gpus: [0], models: ['a:1b']}]")).in_fleet(BOTH)
    text = texts(both, BOTH)["upstream.conf"]
    assert len([check for check in both.check(Live(text, "200")) if check.name.startswith(unasked)]) == 1


def test_shares_of_a_public_name_hold_in_each_pool() -> None:
    served = {f"h/{n}": ("p:1", version) for n, version in enumerate(("x:1", "y:1", "x:1", "y:1", "y:1"))}
    pools = {"h/3": "line", "h/4": "line"}
    found = replica_sets(served, {"p:1": {"x:1": 90, "y:1": 10}}, pools=pools)
    shared = {replicas.pool: replicas for replicas in found if replicas.shares}
    assert shared[""].labels == ("h/0", "h/1", "h/2")
    assert shared[""].weights == (9, 2, 9)
    assert shared["line"].labels == ("h/3", "h/4")
    assert shared["line"].weights == (1, 1)


def test_a_version_without_instances_in_a_pool_is_not_said_to_get_requests(tmp_path: Path) -> None:
    traffic = 'traffic: {{"p:1": {{"a:1b": 90, "b:1b": 10}}}}'
    text = INVENTORY.replace('models: ["a:1b"],', f'models: ["a:1b"], {traffic},')
    text = text.replace('models: ["a:1b", "b:1b"],', f'models: ["b:1b"], {traffic},')
    load(tmp_path)
    (tmp_path / "inventory.yaml").write_text(text.format(balancer=KEYED, second=POOLED))
    [said] = [text for text in role_interface.load(str(tmp_path / "inventory.yaml")).warnings if "p:1" in text]
    assert "requests for p:1 go to a:1b (100 %); requests for p:1 in the pool line go to b:1b (100 %);" in said


def test_a_key_for_a_pool_needs_instances_of_the_pool(tmp_path: Path) -> None:
    load(tmp_path, bob="")
    request = actions.Request(str(tmp_path / "inventory.yaml"), setup=testing.setup(tmp_path))
    made = keys.add(request, "dana", Limits(models=("a:1b",), pool="line"))
    assert made.remarks == []
    assert client_file.load(made.file).clients["dana"].pool == "line"
    assert keys.add(request, "eve", Limits(models=("b:1b",))).remarks == ["no instance of the inventory serves b:1b"]
    before = made.file.read_bytes()
    with pytest.raises(UsageError, match="no instance of the inventory belongs to the pool other"):
        keys.add(request, "finn", Limits(pool="other"))
    assert made.file.read_bytes() == before
