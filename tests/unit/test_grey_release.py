"""A public name for several models: checks of the inventory, names on instances, and shares at a balancer."""

import base64
import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.loadtest import target
from provision.plan import role_interface
from provision.roles import balancer
from provision.rollout.replicas import Replicas
from provision.steps.base import RefusalError, converged
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import balancer_checks, upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.member_update import MemberUpdate
from provision.steps.nginx.replica_sets import replica_sets
from provision.steps.nginx.traffic_shares import MOST, weights
from provision.steps.nginx.upstream import Upstream
from provision.steps.ollama import marked, server_state, stream_proof
from provision.steps.ollama.model import Model
from provision.steps.ollama.server_state import Server, Servers
from tests.unit.balancer_fleet import config, state, texts
from tests.unit.nginx_config import find, parse

UPSTREAM = "upstream.conf"
READ = {f"gpu-0{n}": f"10.0.0.1{n}" for n in (1, 2, 3)}
SPLIT = "{a: {a: 90, b: 10}}"


def fleet(folder: Path, *models: str, traffic: str = "{}", more: str = "") -> Inventory:
    """Load an inventory of a gpu host for each list of models, with one instance, and a balancer."""
    path = folder / "i.yaml"
    hosts = ", ".join(
        f"gpu-0{n}: {{ansible_host: 10.0.0.1{n}, ollama: {{instances: [{{gpus: [0], models: [{names}]}}]}}}}"
        for n, names in enumerate(models, 1)
    )
    ollama = f"ollama: {{traffic: {traffic}}}"
    path.write_text(
        f"all: {{vars: {{nginx: {{accept_known_vulnerabilities: true}}, {ollama}{more}}}}}\n"
        f"gpu: {{hosts: {{{hosts}}}}}\n"
        "balancer: {hosts: {lb-01: {ansible_host: 10.0.0.5}}}\n"
    )
    return role_interface.load(str(path))


def steps(inventory: Inventory, host: str, kind: str) -> list[Any]:
    entries = role_interface.steps(inventory.host(host), inventory)
    return [entry.step for entry in entries if entry.step.id.startswith(f"{kind}:")]


# ---- the inventory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "traffic", "key", "words"),
    [
        (("a", "b"), "{c: {a: 90, b: 20}}", "c", "has shares of 110 together, and they must be 100"),
        (("a", "b"), "{c: {a: 99}}", "c", "has shares of 99 together"),
        (("a", "b"), "{c: {a: 100, b: 0}}", "c.b", "must be at least 1, not 0"),
        (("a", "b"), "{c: {a: 50.0, b: 50}}", "c.a", "must be a whole number"),
        (("a", "b"), "{c: {}}", "c", "at least 1"),
        (("a", "b"), "{'c x': {a: 100}}", '"c x"', "must be a model"),
        (("a", "b"), "{c: {'a;b': 100}}", 'c."a;b"', "must be a model"),
        (("a", "b"), "{c: {a: 100}, 'C:latest': {b: 100}}", '"C:latest"', "is the name c in another spelling"),
        (("a", "b"), "{c: {a: 50, 'A:latest': 50}}", 'c."A:latest"', "is the version a in another spelling"),
        (("a", "b"), "{c: {a: 50, d: 50}, d: {b: 100}}", "c.d", "is a public name itself"),
        (("a", "b"), "{c: {a: 50, x: 50}}", "c.x", "is a model of no instance behind lb-01"),
        (("'a', 'b'", "b"), "{c: {a: 50, b: 50}}", "c", "stands for one model of an instance, and ollama1 has a and b"),
        (("a, c", "b"), "{c: {a: 50, b: 50}}", "c", "is a model of ollama1 too, and carries the name for a"),
        (("c", "a", "b"), "{c: {a: 50, b: 50}}", "c", "is a model of ollama1 too, and is no version"),
    ],
)
def test_a_wrong_share_or_name_is_refused_with_its_key(
    tmp_path: Path, models: tuple[str, ...], traffic: str, key: str, words: str
) -> None:
    with pytest.raises(InventoryError) as refused:
        fleet(tmp_path, *models, traffic=traffic)
    said = [str(problem) for problem in refused.value.problems]
    assert any(f"ollama.traffic.{key}" in text and words in text for text in said), said


def test_hosts_behind_a_balancer_must_agree(tmp_path: Path) -> None:
    fleet(tmp_path, "a", "b", traffic=SPLIT)
    path = tmp_path / "i.yaml"
    text = path.read_text().replace("models: [b]}]", "models: [b]}], traffic: {a: {a: 80, b: 20}}")
    path.write_text(text)
    with pytest.raises(InventoryError) as refused:
        role_interface.load(str(path))
    [problem] = refused.value.problems
    assert "ollama.traffic: differs from ollama.traffic of gpu-01, and both are behind lb-01" in str(problem)


def test_a_key_of_the_balancer_alone_is_refused(tmp_path: Path) -> None:
    fleet(tmp_path, "a", "b")
    path = tmp_path / "i.yaml"
    path.write_text(path.read_text().replace("10.0.0.5}", f"10.0.0.5, ollama: {{traffic: {SPLIT}}}}}"))
    with pytest.raises(InventoryError, match="has no effect on lb-01, which has no instances"):
        role_interface.load(str(path))


def test_without_a_balancer_of_its_own_a_host_needs_every_version(tmp_path: Path) -> None:
    path = tmp_path / "i.yaml"
    fleet(tmp_path, "a", "b", traffic=SPLIT)
    path.write_text(path.read_text().rpartition("balancer: {hosts")[0])
    with pytest.raises(InventoryError) as refused:
        role_interface.load(str(path))
    said = [str(problem).partition("ollama.traffic.")[2] for problem in refused.value.problems]
    assert sorted(text.partition("; ")[0] for text in said) == [
        "a.a: is a model of no instance behind gpu-02",
        "a.b: is a model of no instance behind gpu-01",
    ]


def test_each_instance_carries_the_name_of_its_version(tmp_path: Path) -> None:
    inventory = fleet(tmp_path, "a", "b", traffic=SPLIT)
    assert steps(inventory, "gpu-01", "alias") == [], "the old version has the name itself"
    [alias] = steps(inventory, "gpu-02", "alias")
    assert (alias.id, alias.source, alias.compared_as) == ("alias:ollama1/a", "b", "model:b")
    assert [step.id for step in steps(inventory, "gpu-02", "model")] == ["model:ollama1/b"], (
        "nothing is pulled for a name"
    )
    [resident] = steps(inventory, "gpu-02", "resident")
    assert resident.models == ("b",)
    assert alias.id not in resident.after, "a name loads nothing"


def test_a_version_from_a_mirror_has_its_own_name_and_then_the_public_name(tmp_path: Path) -> None:
    digest = "d" * 64
    more = f", mirrors: {{model_registry: 'm.test'}}, models: {{digests: {{b: {digest}, c: {'e' * 64}}}}}"
    inventory = fleet(tmp_path, "a", "b", traffic="{c: {a: 50, b: 50}}", more=more)
    own, public = steps(inventory, "gpu-02", "alias")
    assert (own.source, public.source, public.name) == ("m.test/library/b:latest", "b", "c")
    assert (own.compared_as, public.compared_as) == ("model:b", "model:b")
    assert public.digest == digest, "that of the version"
    assert {own.id, "model:ollama1/m.test/library/b:latest"} <= set(public.after)


def test_the_mark_of_a_public_name_tells_what_a_pull_would_not_bring(tmp_path: Path) -> None:
    [alias] = steps(fleet(tmp_path, "a", "b", traffic=SPLIT), "gpu-02", "alias")
    [copy] = alias.commands(None, {"same": True})
    assert copy.words[-1] == server_state.PUBLIC


# ---- shares ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 1000)), min_size=1, max_size=40),
    st.tuples(st.integers(1, 98), st.integers(1, 98), st.integers(1, 98)),
)
def test_weights_divide_the_requests_as_the_shares_say(members: list[tuple[str, int]], percents: Any) -> None:
    shares = dict(zip("abc", percents, strict=True))
    got = weights(members, shares)
    assert len(got) == len(members)
    assert all(1 <= weight <= MOST for weight in got)
    totals: Counter[str] = Counter()
    for (version, _), weight in zip(members, got, strict=True):
        totals[version] += weight
    there = sum(shares[version] for version in totals)
    for version, weight in totals.items():
        slack = len(members) / sum(got)  # each weight is rounded to a whole number, and is never 0
        assert math.isclose(weight / sum(got), shares[version] / there, abs_tol=slack)


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ([("a", 1), ("b", 1)], (9, 1)),
        ([("a", 1)] * 9 + [("b", 1)], (1,) * 10),
        ([("a", 2), ("a", 1), ("b", 1)], (6, 3, 1)),
        ([("a", 1)] * 3 + [("b", 1)] * 2, (6, 6, 6, 1, 1)),
        ([("b", 7)], (1,)),
        ([], ()),
    ],
)
def test_weights_are_the_least_whole_numbers(members: list[tuple[str, int]], wanted: tuple[int, ...]) -> None:
    assert weights(members, {"a": 90, "b": 10}) == wanted


@pytest.mark.parametrize("count", [61, 201, 1601])
def test_nginx_has_few_points_to_hash_and_the_shares_stay(count: int) -> None:
    """nginx sorts 160 points for each unit of weight at each check and reload: without a limit, millions."""
    served = {f"h/{number}": ("p", "ab"[number % 2]) for number in range(count)}
    shares = {"a": 51, "b": 49}
    hashed, exact = (
        replica_sets(served, {"p": shares}, balancing=method)[0] for method in ("hash $uri consistent", "")
    )
    assert sum(hashed.weights) <= max(20_000, 50 * count)
    for replicas, slack in ((hashed, 0.011), (exact, 0.0001)):
        of_a = sum(
            weight for label, weight in zip(replicas.labels, replicas.weights, strict=True) if "a" in served[label]
        )
        assert math.isclose(of_a / sum(replicas.weights), 0.51, abs_tol=slack)


def blocks(text: str) -> dict[str, dict[str, int]]:
    """Return the weight of every member of each block, by the host."""
    hosts = {member.at: label.partition("/")[0] for label, member in upstream.members(text).items()}
    return {
        found.words[1]: {hosts[line.words[1]]: weight(line.words) for line in find(found.block or (), "server")}
        for found in find(parse(text), "upstream")
    }


def weight(words: tuple[str, ...]) -> int:
    return next(int(word.removeprefix("weight=")) for word in words if word.startswith("weight="))


def test_the_upstream_of_a_public_name_has_all_versions_in_round_robin(tmp_path: Path) -> None:
    text = texts(config(fleet(tmp_path, "a", "b", traffic=SPLIT)), FleetState(READ))[UPSTREAM]
    assert blocks(text) == {"ollama": {"gpu-01": 9, "gpu-02": 1}, "ollama_2": {"gpu-02": 1}}
    public, plain = find(parse(text), "upstream")
    assert find(public.block or (), "least_conn") == []
    assert len(find(plain.block or (), "least_conn")) == 1
    found = Upstream.parse(text)
    assert found is not None
    assert (found.text, found.method) == (text, "least_conn")
    assert found.sets[0].shares == (("a:latest", 90), ("b:latest", 10))


def test_a_single_version_keeps_the_method_and_the_weights_of_its_instances(tmp_path: Path) -> None:
    text = texts(config(fleet(tmp_path, "a", "b", "b", traffic="{c: {b: 100}}")), FleetState(READ))[UPSTREAM]
    assert blocks(text)["ollama_2"] == {"gpu-02": 1, "gpu-03": 1}
    assert text.count("least_conn;") == len(find(parse(text), "upstream"))
    assert Upstream.parse(text) is not None


def test_other_methods_than_least_conn_stay(tmp_path: Path) -> None:
    more = ", balancer: {method: hash}"
    text = texts(config(fleet(tmp_path, "a", "b", traffic=SPLIT, more=more)), FleetState(READ))[UPSTREAM]
    assert text.count("hash $http_x_session_id consistent;") == 2


def test_the_plan_says_which_share_goes_where(tmp_path: Path) -> None:
    inventory = fleet(tmp_path, "a", "b", traffic=SPLIT)
    [said] = balancer.warnings(inventory.host("lb-01"), inventory)
    assert "the root of the balancer serves a:latest only; clients reach b:latest at /models/NAME/" in said
    assert "requests for a:latest go to a:latest (90 %), b:latest (10 %)" in said
    assert said.endswith("(docs/runbooks/grey-release.md)")


def test_a_public_name_counts_as_a_model_for_max_unavailable_and_for_load_tests(tmp_path: Path) -> None:
    inventory = fleet(tmp_path, "a", "b", traffic=SPLIT)
    assert Replicas(inventory).models_of(inventory.host("gpu-02")) == {"a", "b"}
    assert Replicas(inventory).count(inventory.host("gpu-02"), "a") == 2
    endpoint = target.of_model(target.of_inventory(inventory, inventory.hosts), "a")
    assert endpoint.weights == {"gpu-01/ollama1": 9.0, "gpu-02/ollama1": 1.0}
    assert target.of_model(endpoint, "b").weights == {"gpu-02/ollama1": 1.0}


# ---- with the state of the fleet -------------------------------------------------------------------------------------


def deployed(inventory: Inventory) -> tuple[Balancing, dict[str, Any]]:
    step = config(inventory)
    return step, state(step, **texts(step, FleetState(READ)))


def test_new_shares_reach_a_balancer_without_a_look_at_the_instances(tmp_path: Path) -> None:
    _, have = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    step = config(fleet(tmp_path, "a", "b", traffic="{a: {a: 50, b: 50}}"))
    assert blocks(texts(step, FleetState(), have)[UPSTREAM])["ollama"] == {"gpu-01": 1, "gpu-02": 1}


def test_an_instance_gets_no_requests_for_a_name_before_its_host_has_the_name(tmp_path: Path) -> None:
    _, have = deployed(fleet(tmp_path, "a", "b"))
    step = config(fleet(tmp_path, "a", "b", traffic=SPLIT))
    known = FleetState({"gpu-01": READ["gpu-01"]})
    assert blocks(texts(step, known, have)[UPSTREAM])["ollama"] == {"gpu-01": 1}


def test_marks_leave_the_shares_alone(tmp_path: Path) -> None:
    _, have = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    update = MemberUpdate(
        name="balancer", files={}, binary="/nginx", status_port=8080, down=frozenset({"gpu-01/ollama1"})
    )
    text = bytes(update.rendered(HostFacts(), have)[UPSTREAM]).decode()  # type: ignore[arg-type]
    assert blocks(text) == blocks(have["files"][UPSTREAM].data.decode())
    assert [line.split()[1] for line in text.splitlines() if " down;" in line] == ["10.0.0.11:3001"]


def restored(now: tuple[Balancing, dict[str, Any]], past: dict[str, Any]) -> str:
    step, have = now
    want = step.in_fleet(FleetState(READ)).restore(HostFacts(), have, past)
    assert want is not None
    return str(want["files"][UPSTREAM].data.decode())


def test_a_rollback_restores_the_shares(tmp_path: Path) -> None:
    _, past = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    now = deployed(fleet(tmp_path, "a", "b", traffic="{a: {a: 50, b: 50}}"))
    assert restored(now, past) == past["files"][UPSTREAM].data.decode()


def test_a_rollback_over_the_begin_sends_the_name_to_its_own_model_alone(tmp_path: Path) -> None:
    """The public name is still on gpu-02, where it means another model."""
    _, past = deployed(fleet(tmp_path, "a", "b"))
    now = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    assert blocks(restored(now, past)) == {"ollama": {"gpu-01": 1}, "ollama_2": {"gpu-02": 1}}


@pytest.mark.parametrize(
    ("models", "traffic"),
    [(("a", "b"), "{}"), (("a", "a"), "{}"), (("a", "a", "b"), SPLIT)],
    ids=["the name is gone", "the version is gone", "on another host"],
)
def test_a_rollback_to_other_versions_is_refused(tmp_path: Path, models: tuple[str, ...], traffic: str) -> None:
    _, past = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    now = deployed(fleet(tmp_path, *models, traffic=traffic))
    with pytest.raises(RefusalError, match="write the shares and models of that time into the inventory and deploy"):
        restored(now, past)


def test_a_removed_key_leaves_no_trace_at_the_balancer(tmp_path: Path) -> None:
    _, have = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    step, clean = deployed(fleet(tmp_path, "a", "b"))
    assert texts(step, FleetState(READ), have)[UPSTREAM] == clean["files"][UPSTREAM].data.decode()


@pytest.mark.parametrize(("old", "new"), [("weight=9", "weight=8"), ("# share: 90", "# share: 80")])
def test_an_edited_share_is_a_change_of_the_plan(tmp_path: Path, old: str, new: str) -> None:
    step, have = deployed(fleet(tmp_path, "a", "b", traffic=SPLIT))
    text = have["files"][UPSTREAM].data.decode()
    edited = {**{name: file.data.decode() for name, file in have["files"].items()}, UPSTREAM: text.replace(old, new)}
    assert texts(step, FleetState(), state(step, **edited))[UPSTREAM] == text


# ---- a name that becomes a model again -------------------------------------------------------------------------------


def server(**more: Any) -> Servers:
    tags = {name: {"name": name, "digest": "2"} for name in ("a:latest", "b:latest")}
    return Servers(
        {
            "ollama1": Server(
                status="running", folder="/var/lib/docker/volumes/ollama1/_data", tags=tags, loaded={}, **more
            )
        }
    )


def test_a_name_that_was_public_is_pulled_and_its_mark_goes() -> None:
    step = Model(instance="ollama1", name="a")
    public = server(aliases={"a": "b"}, public=frozenset({"a:latest"}))
    have = step._state(public)
    want = step.want(HostFacts(), have)
    assert have is not None
    assert want is not None
    assert not converged(have, want)
    pull, forget = step.commands(have, want)
    assert "pull a into ollama1" in str(pull)
    assert forget == marked.forget("ollama1", "a")
    assert step.filling(have) is not None
    assert "as a public name did" in step.why(have, want)
    other = step._state(dataclasses.replace(public, by_name=server(aliases={"a": "b"}).by_name))
    assert converged(other, step.want(HostFacts(), other)), "the bytes of a mirror are the model's own"


def test_the_digests_of_a_name_are_compared_within_a_version() -> None:
    """On a host with both versions, the name is a model of one instance and a public name of the other."""
    folder = "/var/lib/docker/volumes/ollama2/_data"
    other = Server("running", folder=folder, tags={"a:latest": {"digest": "1"}}, loaded={})
    step, same = Model(instance="ollama2", name="a"), "same digest on this host's instances"
    for public, passed in ((frozenset({"a:latest"}), True), (frozenset[str](), False)):
        servers = Servers({**server(public=public).by_name, "ollama2": other})
        assert {check.name: check.passed for check in step.proofs(servers)}[same] is passed


# ---- verify ----------------------------------------------------------------------------------------------------------


class Live:
    """A balancer with a given upstream."""

    def __init__(self, text: str) -> None:
        self.stdout = text

    def run(self, words: str, *arguments: str) -> "Live":
        return self


@pytest.mark.parametrize(
    ("old", "new", "passed"),
    [("", "", True), ("weight=9", "weight=1", False), ("# share: 10", "# share: 20", False), ("# share", "#", False)],
)
def test_verify_compares_percents_and_weights(tmp_path: Path, old: str, new: str, passed: bool) -> None:
    step = config(fleet(tmp_path, "a", "b", traffic=SPLIT))
    text = texts(step, FleetState(READ))[UPSTREAM].replace(old, new)
    [check] = balancer_checks.shares(Live(text), step.sets)
    assert (check.name, check.passed) == ("a:latest: percent of each version, and weight of each instance", passed)


class Loaded(Live):
    """An instance with a model loaded, behind a balancer that answers nothing."""

    def run(self, words: str, *arguments: str) -> "Live":
        return Live(self.stdout if stream_proof.LOADED in arguments else "")


@pytest.mark.parametrize(("versions", "asked"), [([], False), (["b"], True)])
def test_an_instance_with_a_version_loaded_is_asked_for_the_public_name(versions: list[str], asked: bool) -> None:
    body = base64.b64encode(b'"name":"b:latest"').decode()
    live = Loaded(f"10.0.0.11:3001 {body}")
    check, *_ = stream_proof.stream(live, "http://x", "a", {"gpu-01/ollama1": "10.0.0.11:3001"}, versions=versions)
    assert check.name.startswith("not asked") is not asked
