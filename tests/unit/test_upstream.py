"""The upstream as data: the text holds all of the data, marks change nothing else, and a rollback keeps addresses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provision.plan import role_interface
from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.past_upstream import refuse_loss, restored
from provision.steps.nginx.replica_sets import ReplicaSet, models_of, replica_sets
from provision.steps.nginx.upstream import NOWHERE, Drained, InstanceRef, Member, Upstream
from tests.unit.nginx_config import find, parse

HERE = Path(__file__).parent
WRITTEN = sorted((HERE / "upstreams").glob("*.conf"))
ONE, TWO = "gpu-01/ollama1", "gpu-02/ollama2"
WHY = Drained(ONE, "2026-11-22T08:00:00Z", "ops@desk", "a new fan; {really} # so")

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
labels = st.builds("{}/{}".format, names, names)
words = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=8)
reasons = st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=30).map(str.rstrip)


@st.composite
def members(draw: st.DrawFn, name: str) -> Member:
    drained = draw(st.none() | st.builds(Drained, st.just(name), words, words, reasons))
    return Member(
        address=draw(st.ip_addresses(v=4).map(str)),
        port=draw(st.integers(1, 65535)),
        down=drained is not None or draw(st.booleans()),
        drained=drained,
        label=name,
        weight=draw(st.integers(1, 100)),
        max_conns=draw(st.integers(0, 1000)),
    )


MODELS = st.sampled_from(("deepseek-r1:32b", "bge-m3:latest", "hf.co/a/b:q4_k_m"))


@st.composite
def several(draw: st.DrawFn) -> Upstream:
    """Return an upstream with replica sets. Its members have the order of their first lines."""
    made = draw(upstreams())
    pools = {member.label: draw(st.sampled_from(("", "line", "b-2_c"))) for member in made.members}
    sets = replica_sets({member.label: draw(st.lists(MODELS, unique=True)) for member in made.members}, pools=pools)
    by_label = {member.label: member for member in made.members}
    counts = {name: max(1, len(models)) for name, models in models_of(sets).items()}
    listed = {
        name: dataclasses.replace(by_label[name], max_conns=by_label[name].max_conns and 3 * counts[name])
        for replicas in sets
        for name in replicas.labels
    }
    known = sets if any(replicas.models for replicas in sets) else ()
    return dataclasses.replace(made, members=tuple(listed.values()), sets=known)


@st.composite
def upstreams(draw: st.DrawFn) -> Upstream:
    listed = tuple(draw(members(name)) for name in draw(st.lists(labels, unique=True, max_size=5)))
    methods = ("", "least_conn", "random", "random two least_conn", "ip_hash", "hash $remote_addr consistent")
    return Upstream(
        name=draw(st.sampled_from(("ollama", "another_engine"))),
        method=draw(st.sampled_from(methods)),
        max_fails=draw(st.integers(0, 10)) if listed else 1,
        fail_timeout=draw(st.sampled_from(("30s", "1500ms"))) if listed else "10s",
        keepalive=draw(st.integers(1, 1000)),
        zone=draw(st.integers(64, 1000)),
        members=listed,
    )


def written(name: str = "deployed") -> Upstream:
    """Return the upstream of a host."""
    found = Upstream.parse((HERE / f"upstreams/{name}.conf").read_text())
    assert found is not None
    return found


# ---- the text ----------------------------------------------------------------------------------------------------


@given(upstreams() | several())
def test_the_text_holds_the_whole_upstream(made: Upstream) -> None:
    assert Upstream.parse(made.text) == made


@given(several(), st.data())
def test_a_mark_is_in_every_replica_set_of_the_member_and_changes_no_set(made: Upstream, data: Any) -> None:
    known = [member.label for member in made.members]
    down = data.draw(st.lists(st.sampled_from(known), unique=True) if known else st.just([]))
    new = Upstream.parse(made.updated(down=down).text)
    assert new is not None
    assert new.sets == made.sets
    assert {line.label for block in new.blocks for line in block.members if line.down} >= set(down)
    assert all(line.down for block in new.blocks for line in block.members if line.label in down)


@given(upstreams())
def test_nginx_reads_one_server_for_each_member_and_no_name_twice(made: Upstream) -> None:
    group, names = parse(made.text)
    servers = [found.words[1] for found in find(group.block or (), "server")]
    assert servers == ([member.at for member in made.members] or [upstream.NOBODY])
    keys = [found.words[0] for found in names.block or ()]
    assert len(keys) == len(set(keys))
    assert set(keys) - {"default", made.name} == {one.at for one in made.members if one.address != NOWHERE}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_an_upstream_written_by_an_earlier_version_keeps_its_bytes(path: Path) -> None:
    text = path.read_text()
    assert written(path.stem).text == text if path.stem != "ports_exchanged" else True


def test_a_name_that_an_earlier_version_lost_between_two_moves_comes_back() -> None:
    lost = (HERE / "upstreams/ports_exchanged.conf").read_text()
    assert written("ports_exchanged").text == lost.replace(
        '"gpu-01/ollama1";\n', '"gpu-01/ollama1";\n    "10.1.0.11:3001" "gpu-01/ollama2";\n'
    )


@pytest.mark.parametrize("path", sorted((HERE / "golden").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_upstream_of_a_whole_inventory_survives_parsing(path: Path) -> None:
    inventory = role_interface.load(str(path))
    steps = [entry.step for host in inventory.hosts for entry in role_interface.steps(host, inventory)]
    for step in steps:
        if isinstance(step, Balancing):
            text = step.rendered(HostFacts(), None)[upstream.FILE].decode()
            found = Upstream.parse(text)
            assert found is not None
            assert found.text == text
            assert sorted(one.label for one in found.members) == sorted(server.label for server in step.servers)


@pytest.mark.parametrize(
    ("old", "new", "strangers"),
    [
        ("    server 10.1.0.11:3001", "    server 127.0.0.1:3999;\n    server 10.1.0.11:3001", ["127.0.0.1:3999"]),
        ("    server 10.1.0.11:3001", "    server 127.0.0.1:3999; server 10.1.0.11:3001", ["127.0.0.1:3999"]),
        ("; # gpu-01/ollama1", ";", ["10.1.0.11:3001"]),
        ("server 10.1.0.11:3001", "server gpu.example:3001", ["gpu.example:3001"]),
        ("# gpu-01/ollama2", "# gpu-01/ollama1", ["10.1.0.11:3001"]),
        ("    server 10.1.0.11:3001", "    # server 10.1.0.11:3001", []),
    ],
)
def test_a_server_without_a_member_is_a_stranger(old: str, new: str, strangers: list[str]) -> None:
    text = written().text
    assert old in text
    assert upstream.strangers(text) == []
    assert upstream.strangers(text.replace(old, new, 1)) == strangers


def test_the_placeholder_server_is_no_stranger() -> None:
    assert upstream.strangers(written("nobody").text) == []


@pytest.mark.parametrize(
    "text",
    ["", "garbage {", "upstream ollama {\n    keepalive 16;\n}\n", "upstream ollama {\n    zone ollama 68k;\n}\n"],
)
def test_a_text_without_an_upstream_is_none(text: str) -> None:
    assert (Upstream.parse(text), upstream.members(text)) == (None, {})


def test_edited_numbers_are_read_and_added_parameters_are_not() -> None:
    text = written().text.replace("weight=1 max_conns=5", "weight=7 slow_start=9s", 1)
    found = Upstream.parse(text)
    assert found is not None
    assert (found.members[0].weight, found.members[0].max_conns) == (7, 0)
    assert "slow_start" not in found.text


def test_members_and_marks_of_an_incomplete_upstream_are_still_read() -> None:
    text = written("down_and_drained").text.replace("    keepalive 16;\n", "")
    assert Upstream.parse(text) is None
    assert [name for name, one in upstream.members(text).items() if one.down] == [ONE, TWO]
    assert upstream.drained(text) == {ONE: WHY}


# ---- sets -------------------------------------------------------------------------------------------------------

LANGUAGE, EMBEDDING = "deepseek-r1:32b", "bge-m3:latest"


def split(**served: list[str]) -> Upstream:
    """Return an upstream of instances `a/x` and so on, each with its models and five requests at once."""
    listed = tuple(Member(f"10.1.0.{n}", 3001, label=f"{name}/x", max_conns=5) for n, name in enumerate(served, 1))
    sets = replica_sets({f"{name}/x": models for name, models in served.items()})
    return dataclasses.replace(written(), members=listed, sets=sets)


def test_the_limit_of_an_instance_in_several_pools_is_divided() -> None:
    made = split(a=[LANGUAGE, EMBEDDING], b=[EMBEDDING])
    shares = {(block.name, line.label): line.max_conns for block in made.blocks for line in block.members}
    assert shares == {("ollama", "a/x"): 3, ("ollama_2", "a/x"): 2, ("ollama_2", "b/x"): 5}
    assert [member.max_conns for member in upstream.members(made.text).values()] == [5, 5]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("upstream ollama_2 {", "upstream ollama_3 {"),
        ("zone ollama_2 ", "zone ollama "),
        ("; # b/x", " down; # b/x"),
        ("10.1.0.2:3001 weight=1", "10.1.0.2:3001 weight=2"),
    ],
    ids=["name", "zone", "mark", "weight"],
)
def test_blocks_that_disagree_are_no_upstream_of_ours(old: str, new: str) -> None:
    text = split(a=[LANGUAGE], b=[EMBEDDING, LANGUAGE]).text
    assert Upstream.parse(text) is not None
    assert Upstream.parse(text.replace(old, new, 1)) is None


def test_a_member_counts_as_down_as_soon_as_a_block_has_it_down() -> None:
    text = split(a=[LANGUAGE], b=[EMBEDDING, LANGUAGE]).text
    assert [one.down for one in upstream.members(text.replace("; # b/x", " down; # b/x", 1)).values()] == [False, True]


# ---- labels ------------------------------------------------------------------------------------------------------


@given(names, names)
def test_a_label_names_its_instance(host: str, name: str) -> None:
    assert InstanceRef.of(InstanceRef(host, name).label) == InstanceRef(host, name)


def test_a_label_has_no_special_character_of_nginx() -> None:
    assert InstanceRef("a;b", "c}\n#d").label == "a_b/c___d"


# ---- marks -------------------------------------------------------------------------------------------------------


@given(upstreams(), st.data())
def test_a_mark_changes_only_the_named_members(made: Upstream, data: Any) -> None:
    known = [one.label for one in made.members]
    chosen = st.lists(st.sampled_from([*known, "no/such"]), unique=True, max_size=3)
    down, up, undrain = data.draw(chosen), data.draw(chosen), data.draw(chosen)
    drain = {name: Drained(name, "now", "me", "") for name in data.draw(chosen)}
    new = made.updated(down, dict.fromkeys(up, "10.9.9.9:9999"), drain, undrain)
    assert dataclasses.replace(new, members=made.members) == made
    assert [one.label for one in new.members] == known
    for before, after in zip(made.members, new.members, strict=True):
        if after.label not in {*down, *up, *drain, *undrain}:
            assert after == before
        assert (after.weight, after.max_conns) == (before.weight, before.max_conns)
        assert after.down or not after.drained
        assert after.at == ("10.9.9.9:9999" if after.label in up else before.at)


def test_down_and_up_restores_the_upstream() -> None:
    marked = written().updated(down=[ONE, TWO])
    assert [one.label for one in marked.members if one.down] == [ONE, TWO]
    assert marked.updated(up={ONE: "10.1.0.11:3001", TWO: ""}) == written()


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("10.1.0.11:4001", "10.1.0.11:4001"),
        ("10.9.0.1:3001", "10.9.0.1:3001"),
        ("0.0.0.0:4001", "10.1.0.11:4001"),
        ("", "10.1.0.11:3001"),
        ("10.1.0.11:3001; evil", "10.1.0.11:3001"),
        ("999.1.1.1:4001", "10.1.0.11:4001"),
    ],
)
def test_a_member_comes_up_at_the_address_that_the_instance_proved(said: str, place: str) -> None:
    moved = written().updated(down=[ONE]).updated(up={ONE: said})
    assert moved.text == written().text.replace("10.1.0.11:3001", place)


def test_an_unlisted_instance_takes_the_line_of_no_member() -> None:
    marked = written().updated(down=[ONE])
    assert marked.updated(up={"gpu-01/chat": "10.1.0.11:3001"}) == marked


def test_a_drained_member_stays_down_until_undrain() -> None:
    drained = written().updated(drain={ONE: WHY})
    assert drained.members[0] == dataclasses.replace(written().members[0], down=True, drained=WHY)
    assert drained.updated(up={ONE: ""}) == drained
    assert drained.updated(undrain=[ONE]) == written()


def test_a_later_drain_replaces_the_earlier() -> None:
    later = Drained(ONE, "2026-11-23T08:00:00Z", "root@desk", "")
    assert written().updated(drain={ONE: WHY}).updated(drain={ONE: later}) == written().updated(drain={ONE: later})


# ---- a rollback --------------------------------------------------------------------------------------------------


def listed(cells: dict[str, str]) -> dict[str, Member]:
    """Return the members that the words of a case describe."""
    return {name: member(name, *cell.split()) for name, cell in cells.items()}


def member(name: str, place: str, weight: str, down: str = "") -> Member:
    return Member("", 0, down == "down", None, name, int(weight.partition("=")[2]), 3).moved(place)


CASES = yaml.safe_load((HERE / "restored_upstream.yaml").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_rollback_restores_the_upstream_of_the_case(case: dict[str, Any]) -> None:
    past = Upstream(
        name="ollama",
        method="random",
        max_fails=4,
        fail_timeout="5s",
        keepalive=6,
        zone=1,
        members=tuple(listed(case["past"]).values()),
    )
    fleet = FleetState(
        addresses=dict.fromkeys(case["back"], "10.7.7.7"),
        failed=frozenset(case.get("failed", ())),
        not_ready=frozenset(case.get("unfit", ())),
    )
    found = restored(past, listed(case["present"]), fleet, case["declared"])
    assert found.members == tuple(listed(case["restored"]).values())
    assert (found.method, found.max_fails, found.fail_timeout, found.keepalive) == ("random", 4, "5s", 6)
    assert found.zone == upstream.zone_for(found.members)


def back(past: Upstream, present: Upstream, *hosts: str, declared: str = "") -> Upstream:
    """Return the upstream that a rollback of some hosts restores."""
    labels = {f"{name}/x" for name in declared or "abc"}
    fleet = FleetState(addresses=dict.fromkeys(hosts, "10.7.7.7"))
    return restored(past, upstream.members(present.text), fleet, labels, upstream.sets(present.text))


def labels_of(made: Upstream) -> dict[str, list[str]]:
    return {block.name: [line.label for line in block.members] for block in made.blocks}


def test_a_rollback_restores_the_pools_of_the_past() -> None:
    past = split(a=[LANGUAGE], b=[EMBEDDING], c=[EMBEDDING])
    found = back(past, split(a=[LANGUAGE], b=[EMBEDDING]), "c")
    assert labels_of(found) == {"ollama": ["a/x"], "ollama_2": ["b/x", "c/x"]}
    assert Upstream.parse(found.text) == found


def test_a_rollback_leaves_models_so_an_instance_is_where_its_present_models_are() -> None:
    past = split(a=[LANGUAGE], b=[EMBEDDING])
    found = back(past, split(a=[LANGUAGE], b=[LANGUAGE]), "a", "b")
    assert labels_of(found) == {"ollama": ["a/x", "b/x"], "ollama_2": []}


def test_a_rollback_to_fewer_models_than_the_instances_serve_is_refused() -> None:
    """The instance would get requests for a model that it does not have any more."""
    present = split(a=[LANGUAGE], b=[EMBEDDING])
    for past in (split(a=[LANGUAGE], b=[LANGUAGE]), dataclasses.replace(split(a=[], b=[]), sets=())):
        with pytest.raises(RefusalError, match=r"b/x: the balancer of that time had no route for the present models"):
            back(past, present, "a", "b")


def test_an_instance_of_the_present_alone_joins_the_instances_with_its_models() -> None:
    past = split(a=[LANGUAGE], b=[EMBEDDING])
    found = back(past, split(a=[LANGUAGE], b=[EMBEDDING], c=[EMBEDDING]))
    assert labels_of(found) == {"ollama": ["a/x"], "ollama_2": ["b/x", "c/x"]}


def test_an_instance_with_models_that_the_past_had_no_route_for_is_refused() -> None:
    with pytest.raises(RefusalError, match=r"^c/x: the balancer of that time had no route"):
        back(split(a=[LANGUAGE]), split(a=[LANGUAGE], c=[EMBEDDING]))


def test_the_single_upstream_of_an_earlier_version_takes_every_instance() -> None:
    past, present = (dataclasses.replace(made, sets=()) for made in (split(a=[]), split(a=[], c=[])))
    assert labels_of(back(past, present)) == {"ollama": ["a/x", "c/x"]}


def test_a_replica_set_without_members_keeps_its_block_because_the_routes_of_the_past_name_it() -> None:
    found = back(split(a=[LANGUAGE], b=[EMBEDDING]), split(a=[LANGUAGE]))
    assert labels_of(found) == {"ollama": ["a/x"], "ollama_2": []}
    assert "upstream ollama_2 {" in found.text
    assert Upstream.parse(found.text) == found


def test_a_public_name_without_members_keeps_its_block_too() -> None:
    shares = (("a:1", 90), ("b:1", 10))
    sets = (ReplicaSet(("c:1",), ("h/x",)), ReplicaSet(("p:1",), (), shares), ReplicaSet(("q:1",), (), shares[:1]))
    member = Member("10.0.0.1", 3001, label="h/x")
    numbers = {"max_fails": 2, "fail_timeout": "30s", "keepalive": 16, "zone": 65}
    past = Upstream(name="ollama", method="least_conn", **numbers, members=(member,), sets=sets)
    found = Upstream.parse(past.text)
    assert found is not None, "a drain reads the upstream"
    assert found.text == past.text


def test_a_rollback_never_takes_the_last_serving_instance_of_a_model() -> None:
    present = split(a=[LANGUAGE], b=[EMBEDDING])
    taken = FleetState(not_ready=frozenset({"b/x"}))
    found = restored(present, upstream.members(present.text), taken, {"a/x", "b/x"}, present.sets)
    with pytest.raises(RefusalError, match=rf"no serving instance of {EMBEDDING} would be left"):
        refuse_loss(found, upstream.members(present.text))
    refuse_loss(present, upstream.members(present.text))


@given(st.dictionaries(labels, st.lists(MODELS)))
def test_every_instance_of_a_model_is_in_its_replica_set_and_in_no_other(served: dict[str, list[str]]) -> None:
    sets = replica_sets(served)
    named = [replicas for replicas in sets if replicas.models]
    assert {model for replicas in named for model in replicas.models} == set().union(*served.values())
    assert len({replicas.labels for replicas in named}) == len(named)
    for replicas in sets:
        for model in replicas.models:
            assert set(replicas.labels) == {name for name, models in served.items() if model in models}
    assert {name: set(models) for name, models in models_of(sets).items()} == {
        name: set(models) for name, models in served.items()
    }
    idle = tuple(name for name, models in served.items() if not models)
    assert [replicas.labels for replicas in sets if not replicas.models] == ([idle] if idle else [])
