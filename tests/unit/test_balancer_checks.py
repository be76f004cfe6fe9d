"""The checks of verify on an upstream whose addresses disagree with the labels."""

from typing import Any

import pytest

from provision.inventory import Inventory
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import balancer_checks
from provision.steps.nginx.upstream import Drained, Upstream
from provision.steps.ollama.engine import OLLAMA
from tests.unit.balancer_fleet import config, fleet, host, texts

TWINS, TORN, SAID = (
    "instances at one address and port",
    "hosts with several addresses",
    "addresses of the inventory",
)


class Live:
    """A balancer with a given upstream, and every address answers the balancer."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.stdout = upstream, ""

    def run(self, words: str, *arguments: str) -> "Live":
        answers = "".join(f"{address} 200\n" for address in arguments[2:])
        self.stdout = self.upstream if words.startswith("cat ") else answers
        return self


def failed(inventory: Inventory, upstream: str, name: str = "lb-01") -> dict[str, Any]:
    """Return the failed checks."""
    step = config(inventory, name)
    expected = {one.label: (one.port, one.weight, one.max_conns) for one in step.servers}
    settled = {one.label: one.address for one in step.servers if one.settled}
    return {
        check.name: check.got
        for check in balancer_checks.members(Live(upstream), expected, OLLAMA, settled)
        if not check.passed
    }


def upstream(*edits: tuple[str, str], inventory: Inventory | None = None, name: str = "lb-01") -> str:
    """Return the upstream of the role, with each edit applied once."""
    known = FleetState({"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"})
    text = texts(config(inventory or fleet(), name), known)["upstream.conf"]
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def test_an_unedited_upstream_passes() -> None:
    assert failed(fleet(), upstream()) == {}


def test_a_member_at_the_address_of_another_host_fails() -> None:
    found = failed(fleet(), upstream(("server 10.1.0.12:3001", "server 10.1.0.11:3001")))
    assert found == {
        TWINS: {"10.1.0.11:3001": ["gpu-01/ollama1", "gpu-02/ollama1"]},
        TORN: {"gpu-02": ["10.1.0.11", "10.1.0.12"]},
    }


def test_a_member_at_a_foreign_address_fails() -> None:
    found = failed(fleet(), upstream(("server 10.1.0.12:3001", "server 10.9.9.9:3001")))
    assert found == {TORN: {"gpu-02": ["10.1.0.12", "10.9.9.9"]}}


@pytest.mark.parametrize("count", [1, 2])
def test_a_balancer_for_its_own_instances_knows_their_address(count: int) -> None:
    inventory = Inventory(path="x", hosts=(host("a", "gpu", count=count),))
    edits = [(f"server 127.0.0.1:300{n}", f"server 10.9.9.9:300{n}") for n in range(1, count + 1)]
    found = failed(inventory, upstream(*edits, inventory=inventory, name="a"), "a")
    assert found == {SAID: {f"a/ollama{n}": "10.9.9.9" for n in range(1, count + 1)}}


def test_the_address_of_a_member_that_is_down_is_not_compared() -> None:
    edits = [(f"server 10.1.0.1{n}:3001", "server 192.0.2.1:3001") for n in (1, 2)]
    text = upstream(*edits).replace(
        ":3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s;",
        ":3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s down;",
    )
    assert set(failed(fleet(), text)) == {"instances marked down"}


def test_a_member_that_is_down_does_not_serve() -> None:
    text = upstream(("10.1.0.12:3002 weight=1 max_conns=5 max_fails=2 fail_timeout=30s", "10.1.0.12:3002 down"))
    assert balancer_checks.serving(Live(text)) == {
        "gpu-01/ollama1": "10.1.0.11:3001",
        "gpu-01/ollama2": "10.1.0.11:3002",
        "gpu-02/ollama1": "10.1.0.12:3001",
    }


def test_a_drained_member_is_named_and_need_not_answer() -> None:
    why = Drained("gpu-01/ollama1", "2026-11-22T08:00:00Z", "ops@desk", "a new fan")
    written = Upstream.parse(upstream())
    assert written is not None
    text = written.updated(drain={why.label: why}).text
    assert failed(fleet(), text) == {}
    names = [check.name for check in balancer_checks.members(Live(text), {}, OLLAMA)]
    assert "drained: gpu-01/ollama1 since 2026-11-22T08:00:00Z by ops@desk: a new fan" in names
    assert not any(name.startswith("gpu-01/ollama1 answers") for name in names)


def test_a_limit_by_the_estimate_is_left_to_the_read_of_the_plan() -> None:
    """The proofs do not know the number of the host."""
    expected = {own.label: (own.port, own.weight, own.max_conns) for own in config(fleet()).servers}
    live = Live(upstream(("max_conns=5", "max_conns=20")))
    for proposed, passed in ((frozenset[str](), False), (frozenset({"gpu-01/ollama1"}), True)):
        checks = balancer_checks.members(live, expected, OLLAMA, proposed=proposed)
        assert {check.name: check.passed for check in checks}["upstream (port, weight, max_conns)"] is passed
