"""Sites: `ollama.site` and `balancer.site`, from the inventory to the balancer, the rolls and the proofs."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.rollout.replicas import Replicas
from provision.steps.base import NOT_ASKED
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import balancer_checks, upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.replica_sets import ReplicaSet, sites_of
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
        gpu-01:
          ansible_host: 10.0.0.11
          ollama: {{models: ["a:1b"], {east} instances: [{{gpus: [0]}}, {{gpus: [1]}}]}}
        gpu-02: {{ansible_host: 10.0.0.12, ollama: {{models: ["a:1b", "b:1b"], {west} instances: [{{gpus: [0]}}]}}}}
    balancer:
      hosts:
        lb-01: {{ansible_host: 10.0.0.5, balancer: {{{first}}}}}
        lb-02: {{ansible_host: 10.0.0.6, balancer: {{{second}}}}}
"""
SITED = {
    "balancer": "router: njs",
    "east": "site: east,",
    "west": "site: west,",
    "first": "site: east",
    "second": "site: west",
}
NONE = {"balancer": "router: njs", "east": "", "west": "", "first": "", "second": ""}
BOTH = FleetState({"gpu-01": "10.0.0.11", "gpu-02": "10.0.0.12"})
FIRST = FleetState({"gpu-01": "10.0.0.11"})


def load(folder: Path, values: dict[str, str] = SITED, **changes: str) -> Inventory:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.format(**{**values, **changes}))
    return role_interface.load(str(path))


def refused(folder: Path, **changes: str) -> str:
    with pytest.raises(InventoryError) as error:
        load(folder, **changes)
    return "\n".join(map(str, error.value.problems))


def sets_of(step: Balancing, fleet: FleetState, have: Any = None) -> tuple[ReplicaSet, ...]:
    want = step.in_fleet(fleet).want(HostFacts(), have)
    return upstream.sets(upstream.text_of(want))


def part(text: str, begin: str) -> list[str]:
    """Return the words of a location."""
    _, _, rest = text.partition(f"location {begin} {{\n")
    return rest.partition("\n}\n")[0].split()


def test_the_own_site_comes_first_and_the_other_site_serves_what_the_own_cannot(tmp_path: Path) -> None:
    step = config(load(tmp_path))
    files = texts(step, BOTH)
    assert (
        sets_of(step, BOTH)
        == step.in_fleet(BOTH).sets
        == (
            ReplicaSet(("a:1b",), ("gpu-01/ollama1", "gpu-01/ollama2")),
            ReplicaSet(("a:1b", "b:1b"), ("gpu-02/ollama1",), site="west"),
        )
    )
    models = json.loads(files["gateway.json"])["models"]
    assert {name: model["pools"] for name, model in models.items()} == {
        "a:1b": {"": "gateway_ollama_then_ollama_2"},
        "b:1b": {"": "gateway_ollama_2"},
    }
    server = files["gateway_server.conf"]
    home, other = part(server, "@gateway_ollama_then_ollama_2"), part(server, "@gateway_ollama_2")
    assert " ".join(home).startswith("set $gateway_site east;")
    assert "error_page 502 503 504 = @gateway_ollama_2;" in " ".join(home)
    assert " ".join(other).startswith("set $gateway_site west;")
    assert "error_page" not in other
    assert "error_page 502 503 504 = @gateway_first_1;" in " ".join(part(server, "= /api/version"))
    assert "proxy_pass http://ollama_2$uri;" in " ".join(part(server, "@gateway_first_1"))
    assert '"site":"$gateway_site"' in files["gateway_http.conf"]


def test_each_balancer_prefers_its_own_site(tmp_path: Path) -> None:
    files = texts(config(load(tmp_path), "lb-02"), BOTH)
    assert [line.split()[-1] for line in files["upstream.conf"].splitlines() if "# site: " in line] == ["east"]
    assert "set $gateway_site west;" in files["gateway_server.conf"].split("location @gateway_ollama_then")[1]


def test_without_sites_the_files_know_nothing_of_sites(tmp_path: Path) -> None:
    files = texts(config(load(tmp_path, NONE)), BOTH)
    assert [name for name, text in files.items() if "gateway_site" in text or "# site" in text] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"west": ""}, "balancer.site: does not go with hosts without a site (gpu-02)"),
        ({"second": ""}, "balancer.site: does not go with hosts without a site (lb-02)"),
        ({"balancer": ""}, "balancer.site: needs `router: njs`"),
        ({"balancer": "router: njs, vip: {address: 10.0.0.9}"}, "balancer.vip: is not for balancers of different"),
        ({"first": 'site: "a b"'}, "must be a site such as east"),
        ({"west": 'site: "; return 200",'}, "must be a site such as east"),
    ],
)
def test_sites_that_only_some_hosts_have_or_that_no_balancer_can_serve_are_refused(
    tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    assert said in refused(tmp_path, **changes)


def test_a_host_of_both_groups_needs_both_sites(tmp_path: Path) -> None:
    text = INVENTORY.format(**{**SITED, "east": ""}).replace("lb-01: {ansible_host: 10.0.0.5,", "gpu-01: {")
    (tmp_path / "inventory.yaml").write_text(text)
    with pytest.raises(InventoryError) as error:
        role_interface.load(str(tmp_path / "inventory.yaml"))
    assert "does not go with hosts without a site (gpu-01)" in "\n".join(map(str, error.value.problems))


def test_a_machine_that_balances_its_own_instances_has_no_site(tmp_path: Path) -> None:
    text = INVENTORY.format(**SITED).split("    balancer:\n")[0]
    (tmp_path / "inventory.yaml").write_text(text)
    with pytest.raises(InventoryError, match="needs a group balancer"):
        role_interface.load(str(tmp_path / "inventory.yaml"))


def test_the_plan_says_which_instances_serve_only_in_need(tmp_path: Path) -> None:
    inventory = load(tmp_path)
    assert [text for text in inventory.warnings if "gpu-02/ollama1 of the site west serve only where no" in text]
    sited, plain = (config(load(tmp_path, values)).in_fleet(BOTH) for values in (SITED, NONE))
    before, after = on_host(plain), on_host(sited)
    said = sited.impact(before, sited.want(HostFacts(), before))
    assert "gpu-02/ollama1 of the site west: only where no instance of this balancer's site can serve" in said
    assert "gpu-02/ollama1: of this balancer's site" in plain.impact(after, plain.want(HostFacts(), after))


def test_the_inventory_decides_about_the_site_of_a_host_that_a_run_does_not_visit(tmp_path: Path) -> None:
    sited, plain = (config(load(tmp_path, values)) for values in (SITED, NONE))
    before, after = on_host(plain.in_fleet(BOTH)), on_host(sited.in_fleet(BOTH))
    for known in (FIRST, BOTH):
        assert sites_of(sets_of(sited, known, before))["gpu-02/ollama1"] == "west"
        assert set(sites_of(sets_of(plain, known, after)).values()) == {""}
        files = texts(plain, known, after)
        assert "gateway_site" not in files["gateway_server.conf"]
    moved = config(load(tmp_path, first="site: west", second="site: west"))
    assert sites_of(sets_of(moved, FIRST, after)) == {
        "gpu-01/ollama1": "east",
        "gpu-01/ollama2": "east",
        "gpu-02/ollama1": "",
    }


def test_a_rollback_brings_the_sites_of_the_past_and_a_drain_keeps_them(tmp_path: Path) -> None:
    sited, plain = (config(load(tmp_path, values)).in_fleet(BOTH) for values in (SITED, NONE))
    before, after = on_host(plain), on_host(sited)
    undone = upstream.sets(upstream.text_of(sited.restore(HostFacts(), after, before)))
    assert undone == upstream.sets(upstream.text_of(before))
    redone = upstream.sets(upstream.text_of(plain.restore(HostFacts(), before, after)))
    assert redone == upstream.sets(upstream.text_of(after))
    parsed = Upstream.parse(upstream.text_of(after))
    assert parsed is not None
    assert parsed.text == upstream.text_of(after)
    assert Upstream.parse(parsed.updated(down=["gpu-02/ollama1"]).text).sets == parsed.sets  # type: ignore[union-attr]


def test_a_site_is_a_budget_of_its_own(tmp_path: Path) -> None:
    inventory = load(tmp_path)
    replicas = Replicas(inventory)
    first, second = inventory.host("gpu-01"), inventory.host("gpu-02")
    assert not replicas.stand_in(first, second, "a:1b")
    assert replicas.models_of(second) == {"a:1b at the site west", "b:1b at the site west"}


def test_verify_compares_the_sites_and_names_the_answers_that_nobody_asks(tmp_path: Path) -> None:
    step = config(load(tmp_path)).in_fleet(BOTH)
    text = texts(step, BOTH)["upstream.conf"]
    [good] = balancer_checks.sites(Live(text, "200"), step.sets)
    assert good.passed
    [bad] = balancer_checks.sites(Live(text.replace("# site: west", ""), "200"), step.sets)
    assert not bad.passed
    unasked = f"{NOT_ASKED}a streamed answer of a:1b, b:1b from the site west"
    assert balancer_checks.not_asked(step.sets[1]).name.startswith(unasked)


@pytest.mark.parametrize(
    ("serving", "labels"),
    [
        ({"gpu-01/ollama2", "gpu-02/ollama1"}, ("gpu-01/ollama1", "gpu-01/ollama2")),
        ({"gpu-02/ollama1"}, ("gpu-02/ollama1",)),
        (set(), ("gpu-01/ollama1", "gpu-01/ollama2")),
    ],
)
def test_an_answer_comes_from_the_first_site_that_can_serve(
    tmp_path: Path, serving: set[str], labels: tuple[str, ...]
) -> None:
    sets = config(load(tmp_path)).in_fleet(BOTH).sets
    assert balancer_checks.reachable("a:1b", sets, serving) == labels
