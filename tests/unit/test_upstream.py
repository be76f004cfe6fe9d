"""The upstream as data: the text holds all of the data, marks change nothing else, and a rollback keeps addresses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provision.plan import role_interface
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import upstream
from provision.steps.nginx.balancer_config import Balancing, restored
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


@given(upstreams())
def test_the_text_holds_the_whole_upstream(made: Upstream) -> None:
    assert Upstream.parse(made.text) == made


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
            assert [one.label for one in found.members] == [server.label for server in step.servers]


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
