"""A balancer in front of instances with different models: its replica sets, its refusals, and what plan says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.roles import balancer
from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.member_update import MemberUpdate
from tests.unit.balancer_fleet import config, host, state, texts
from tests.unit.nginx_config import find, parse

UPSTREAM = "upstream.conf"
READ = {"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12", "gpu-03": "10.1.0.13"}


def serving(*models: tuple[str, ...], own: bool = True, **settings: Any) -> Inventory:
    """Return an inventory with a gpu host for each tuple of models, with one instance, and a balancer of its own."""
    gpus = []
    for n, names in enumerate(models, 1):
        gpu = host(f"gpu-0{n}", "gpu", address=f"10.0.0.1{n}", count=1, **settings)
        instances = tuple(dataclasses.replace(instance, models=names) for instance in gpu.instances)
        gpus.append(dataclasses.replace(gpu, instances=instances))
    return Inventory(path="x", hosts=(*gpus, *((host("lb-01", "balancer", address="10.0.0.5", **settings),) * own)))


def groups(text: str) -> dict[str, list[tuple[str, bool]]]:
    """Return the host of every member of each group of servers, and whether the member is down."""
    places = {member.at: label.partition("/")[0] for label, member in upstream.members(text).items()}
    return {
        found.words[1]: [(places[one.words[1]], "down" in one.words) for one in find(found.block or (), "server")]
        for found in find(parse(text), "upstream")
    }


def routes(text: str) -> dict[str, str]:
    """Return the group of servers of each model, by the routes."""
    return {
        found.words[-1].split("/")[2]: find(found.block or (), "proxy_pass")[0].words[1].split("/")[2]
        for found in find(parse(text), "location")
        if found.words[-1].endswith("/v1/") and found.words[-1].startswith("/models/")
    }


def named(inventory: Inventory) -> list[str]:
    """Return the sentences about the models of the balancers."""
    return [text for each in inventory.hosts for text in balancer.warnings(each, inventory)]


# ---- by the inventory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "models",
    [
        (("a",), ("a",)),
        (("a",), ("a:latest",)),
        (("a",), ("A",)),
        (("a", "b"), ("b", "a")),
        ((), ()),
    ],
    ids=["the same", "a tag written out", "another case", "another order", "none"],
)
def test_instances_with_the_same_models_share_a_group_and_the_plan_has_no_sentence(models: Any) -> None:
    inventory = serving(*models)
    assert named(inventory) == []
    assert groups(texts(config(inventory), FleetState(READ))[UPSTREAM]) == {
        "ollama": [("gpu-01", False), ("gpu-02", False)]
    }


def test_each_set_of_models_has_a_group_and_the_root_has_the_first() -> None:
    files = texts(config(serving(("a",), ("b",), ("a",))), FleetState(READ))
    assert groups(files[UPSTREAM]) == {
        "ollama": [("gpu-01", False), ("gpu-03", False)],
        "ollama_2": [("gpu-02", False)],
    }
    assert routes(files["models.conf"]) == {
        "a:latest": "ollama",
        "a": "ollama",
        "b:latest": "ollama_2",
        "b": "ollama_2",
    }
    [root] = [one for one in find(parse(files["site.conf"]), "location") if one.words[1:] == ("/v1/",)]
    assert find(root.block or (), "proxy_pass")[0].words[1] == "http://ollama/v1/"


def test_the_plan_says_in_a_line_what_the_root_serves() -> None:
    [text] = named(serving(("a",), ("b",)))
    assert text == (
        "the root of the balancer serves a:latest only; clients reach b:latest at /models/NAME/"
        " (docs/runbooks/serve-two-models.md)"
    )


def test_the_line_names_the_host_that_balances_for_itself_and_few_models() -> None:
    gpu = host("gpu-01", "gpu", address="10.0.0.11", count=2)
    first, second = gpu.instances
    many = dataclasses.replace(first, models=tuple(f"m:{n}" for n in range(9)))
    instances = (many, dataclasses.replace(second, models=("x",)))
    inventory = Inventory(path="x", hosts=(dataclasses.replace(gpu, instances=instances),))
    [text] = named(inventory)
    assert text.startswith("gpu-01: the root of the balancer serves m:0, m:1, m:2, m:3, m:4 and 4 more only; clients")


def test_an_instance_without_models_gets_no_requests_beside_instances_with_models_and_the_line_says_so() -> None:
    inventory = serving((), ("a",))
    files = texts(config(inventory), FleetState(READ))
    assert groups(files[UPSTREAM]) == {"ollama": [("gpu-02", False)], "ollama_2": [("gpu-01", False)]}
    assert set(routes(files["models.conf"]).values()) == {"ollama"}
    [text] = named(inventory)
    assert "nothing is sent to gpu-01/ollama1, which has no models in the inventory" in text


def test_the_line_names_instances_whose_limit_is_divided() -> None:
    inventory = serving(("a", "e"), ("b", "e"))
    [text] = named(inventory)
    assert "the requests at once of gpu-01/ollama1, gpu-02/ollama1 are divided among its upstreams" in text
    lines = [line.split() for line in texts(config(inventory), FleetState(READ))[UPSTREAM].splitlines()]
    assert [(line[1], line[3]) for line in lines if line[:1] == ["server"]] == [
        ("10.1.0.11:3001", "max_conns=3"),
        ("10.1.0.11:3001", "max_conns=2"),
        ("10.1.0.12:3001", "max_conns=3"),
        ("10.1.0.12:3001", "max_conns=2"),
    ]


def test_loading_an_inventory_says_what_the_root_serves(tmp_path: Path) -> None:
    inventory = written(tmp_path, "{gpus: [0], models: [a]}, {gpus: [1], models: [b]}")
    [text] = [warning for warning in inventory.warnings if "/models/NAME/" in warning]
    assert text.startswith("gpu-01: the root of the balancer serves a:latest only; clients reach b:latest")


def test_a_limit_that_cannot_be_divided_is_refused_with_the_key(tmp_path: Path) -> None:
    instances = "{gpus: [0], models: [a, b]}, {gpus: [1], models: [b]}"
    with pytest.raises(InventoryError) as refused:
        written(tmp_path, instances, "balancer: {queue: 0}, ollama: {num_parallel: 1}")
    [problem] = refused.value.problems
    assert "balancer.queue: leaves gpu-01/ollama1 a limit of 1, and its models are in 2 upstreams" in str(problem)
    assert "Raise queue by 1, or give fewer models to the instance" in str(problem)
    assert written(tmp_path, instances, "balancer: {queue: 1}, ollama: {num_parallel: 1}").hosts


def written(folder: Path, instances: str, settings: str = "") -> Inventory:
    """Load an inventory file of a gpu host with some instances."""
    path = folder / "i.yaml"
    path.write_text(
        f"all: {{vars: {{nginx: {{accept_known_vulnerabilities: true}}, {settings}}}}}\n"
        f"gpu: {{hosts: {{gpu-01: {{ollama: {{instances: [{instances}]}}}}}}}}\n"
    )
    return role_interface.load(str(path))


# ---- with the state of the fleet -----------------------------------------------------------------------------------


def deployed(*models: tuple[str, ...]) -> tuple[Balancing, dict[str, Any]]:
    """Return the step of an inventory, and the state of its balancer after a deploy."""
    step = config(serving(*models))
    return step, state(step, **texts(step, FleetState(READ)))


@pytest.mark.parametrize("known", [FleetState(), FleetState(unaffected=frozenset(READ)), FleetState({"gpu-03": "x"})])
def test_a_host_that_the_run_did_not_finish_keeps_its_models(known: FleetState) -> None:
    """The roll halted before the host, or --limit excludes the host: its instance still serves the old model."""
    _, have = deployed(("a",), ("a",), ("a",))
    step = config(serving(("a",), ("b",), ("a",)))
    assert groups(texts(step, known, have)[UPSTREAM]) == {"ollama": [(name, False) for name in READ]}
    done = texts(step, FleetState(READ), have)
    assert groups(done[UPSTREAM]) == {
        "ollama": [("gpu-01", False), ("gpu-03", False)],
        "ollama_2": [("gpu-02", False)],
    }


def test_the_routes_of_a_host_that_was_not_finished_stay() -> None:
    _, have = deployed(("a",), ("b",))
    step = config(serving(("a",), ("a",)))
    kept = texts(step, FleetState({"gpu-01": READ["gpu-01"]}), have)
    assert routes(kept["models.conf"])["b"] == "ollama_2"
    gone = texts(step, FleetState(READ), have)
    assert set(routes(gone["models.conf"])) == {"a", "a:latest"}


def test_an_upstream_of_an_earlier_version_names_no_models_so_the_inventory_does() -> None:
    _, have = deployed(("a",), ("a",))
    step = config(serving(("a",), ("b",)))
    old = have["files"][UPSTREAM].data.decode().replace("    # model: a:latest\n", "")
    text = texts(step, FleetState(), state(step, **{UPSTREAM: old}))[UPSTREAM]
    assert list(groups(text)) == ["ollama", "ollama_2"]


def test_failed_hosts_do_not_take_the_last_members_of_a_model_out() -> None:
    """The balancer may well reach a host that we did not reach."""
    step, have = deployed(("a",), ("a",), ("b",))
    text = texts(step, FleetState(READ, failed=frozenset({"gpu-02", "gpu-03"})), have)[UPSTREAM]
    assert groups(text) == {"ollama": [("gpu-01", False), ("gpu-02", True)], "ollama_2": [("gpu-03", False)]}


def test_a_failed_test_takes_the_last_member_of_a_model_out() -> None:
    step, have = deployed(("a",), ("b",))
    text = texts(step, FleetState(READ, not_ready=frozenset({"gpu-02/ollama1"})), have)[UPSTREAM]
    assert groups(text) == {"ollama": [("gpu-01", False)], "ollama_2": [("gpu-02", True)]}
    lost = FleetState(READ, failed=frozenset({"gpu-02"}), not_ready=frozenset({"gpu-02/ollama1"}))
    assert groups(texts(step, lost, have)[UPSTREAM])["ollama_2"] == [("gpu-02", True)]


def test_a_drained_member_is_down_in_each_of_its_groups_and_stays_so_over_a_deploy() -> None:
    step, have = deployed(("a", "e"), ("b", "e"))
    written_now = upstream.Upstream.parse(have["files"][UPSTREAM].data.decode())
    assert written_now is not None
    wish = upstream.Drained("gpu-01/ollama1", "2026-12-01T00:00:00Z", "ops@desk", "a new fan")
    drained = state(step, **{UPSTREAM: written_now.updated(drain={wish.label: wish}).text})
    text = texts(step, FleetState(READ), drained)[UPSTREAM]
    assert [down for members in groups(text).values() for name, down in members if name == "gpu-01"] == [True, True]
    assert upstream.drained(text) == {wish.label: wish}


def test_the_configuration_of_a_settled_fleet_changes_no_more() -> None:
    for models in ((("a",), ("b",)), (("a", "e"), ("b", "e")), (("a",), ("a",)), ((), ("a",))):
        step, have = deployed(*models)
        for known in (FleetState(READ), FleetState(), FleetState({"gpu-02": READ["gpu-02"]})):
            assert texts(step, known, have) == texts(step, FleetState(READ), have), models


@pytest.mark.parametrize("file", ["upstream.conf", "models.conf"])
def test_an_edit_by_hand_is_a_change_of_the_plan(file: str) -> None:
    step, have = deployed(("a",), ("b",))
    text = have["files"][file].data.decode().replace("ollama_2", "ollama")
    edited = state(step, **{**{name: file.data.decode() for name, file in have["files"].items()}, file: text})
    want = step.in_fleet(FleetState(READ)).want(HostFacts(), edited)
    assert want is not None
    assert step.why(edited, want) == f"other text in {file}"


# ---- marks and rollbacks -------------------------------------------------------------------------------------------


def update(**marks: Any) -> MemberUpdate:
    return MemberUpdate(name="balancer", files={}, binary="/nginx", status_port=8080, **marks)


def test_a_mark_of_a_roll_changes_the_upstream_alone_and_is_taken_back_without_a_trace() -> None:
    step, have = deployed(("a", "e"), ("b", "e"))
    before = {name: file.data for name, file in have["files"].items()}
    marked = update(down=frozenset({"gpu-01/ollama1"})).rendered(HostFacts(), have)
    assert [name for name in before if name in marked and marked[name] != before[name]] == [UPSTREAM]
    text = bytes(marked[UPSTREAM]).decode() if isinstance(marked[UPSTREAM], bytes) else ""
    assert [down for members in groups(text).values() for name, down in members if name == "gpu-01"] == [True, True]
    again = state(step, **{**{name: data.decode() for name, data in before.items()}, UPSTREAM: text})
    assert update(up={"gpu-01/ollama1": ""}).rendered(HostFacts(), again)[UPSTREAM] == before[UPSTREAM]


def restored(now: tuple[tuple[str, ...], ...], then: tuple[tuple[str, ...], ...], known: FleetState) -> dict[str, str]:
    """Return the files after a rollback from the models of now to the models of then."""
    (step, have), (_, past) = deployed(*now), deployed(*then)
    want = step.in_fleet(known).restore(HostFacts(), have, past)
    assert want is not None
    return {name: file.data.decode() for name, file in want["files"].items() if name != "generation.conf"}


@pytest.mark.parametrize(
    ("now", "then"),
    [((("a", "b"), ("b", "a")), (("a",), ("b",))), ((("a", "e"), ("b", "e")), (("a",), ("b",)))],
    ids=["one set to two", "three sets to two"],
)
def test_a_rollback_restores_groups_and_routes_where_the_models_are_still_there(now: Any, then: Any) -> None:
    files = restored(now, then, FleetState(READ))
    _, past = deployed(*then)
    assert files["models.conf"] == past["files"]["models.conf"].data.decode()
    assert all(not down for members in groups(files[UPSTREAM]).values() for _, down in members)


def test_a_rollback_does_not_route_to_models_that_are_gone() -> None:
    with pytest.raises(RefusalError, match="gpu-02/ollama1: the balancer of that time had no route"):
        restored((("a",), ("b",)), (("a",), ("a",)), FleetState(READ))


def test_a_second_model_that_goes_leaves_no_trace() -> None:
    _, have = deployed(("a",), ("b",))
    step = config(serving(("a",)))
    files = texts(step, FleetState(READ), have)
    clean = texts(step, FleetState(READ))
    assert {name: text for name, text in files.items() if name != "generation.conf"} == {
        name: text for name, text in clean.items() if name != "generation.conf"
    }
