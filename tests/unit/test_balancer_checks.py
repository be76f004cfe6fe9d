"""What verify finds in an upstream that does not lead where its labels say."""

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
    "addresses that the inventory says",
)


class Live:
    """A balancer with this upstream, from which everything answers."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.stdout = upstream, ""

    def run(self, words: str, *arguments: str) -> "Live":
        answers = "".join(f"{address} 200\n" for address in arguments[2:])
        self.stdout = self.upstream if words.startswith("cat ") else answers
        return self


def failed(inventory: Inventory, upstream: str, name: str = "lb-01") -> dict[str, Any]:
    """The proofs that fail."""
    step = config(inventory, name)
    expected = {one.label: (one.port, one.weight, one.max_conns) for one in step.servers}
    settled = {one.label: one.address for one in step.servers if one.settled}
    return {
        check.name: check.got
        for check in balancer_checks.members(Live(upstream), expected, OLLAMA, settled)
        if not check.passed
    }


def upstream(*edits: tuple[str, str], inventory: Inventory | None = None, name: str = "lb-01") -> str:
    """The upstream as written, with one edit each of the first place."""
    known = FleetState({"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"})
    text = texts(config(inventory or fleet(), name), known)["upstream.conf"]
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def test_what_is_written_is_right() -> None:
    assert failed(fleet(), upstream()) == {}


def test_an_instance_pointed_at_the_same_port_of_another_host() -> None:
    found = failed(fleet(), upstream(("server 10.1.0.12:3001", "server 10.1.0.11:3001")))
    assert found == {
        TWINS: {"10.1.0.11:3001": ["gpu-01/ollama1", "gpu-02/ollama1"]},
        TORN: {"gpu-02": ["10.1.0.11", "10.1.0.12"]},
    }


def test_an_instance_pointed_at_a_stranger() -> None:
    found = failed(fleet(), upstream(("server 10.1.0.12:3001", "server 10.9.9.9:3001")))
    assert found == {TORN: {"gpu-02": ["10.1.0.12", "10.9.9.9"]}}


@pytest.mark.parametrize("count", [1, 2])
def test_on_the_host_itself_the_address_is_known(count: int) -> None:
    inventory = Inventory(path="x", hosts=(host("a", "gpu", count=count),))
    edits = [(f"server 127.0.0.1:300{n}", f"server 10.9.9.9:300{n}") for n in range(1, count + 1)]
    found = failed(inventory, upstream(*edits, inventory=inventory, name="a"), "a")
    assert found == {SAID: {f"a/ollama{n}": "10.9.9.9" for n in range(1, count + 1)}}


def test_who_is_down_is_at_no_address_of_its_own() -> None:
    edits = [(f"server 10.1.0.1{n}:3001", "server 192.0.2.1:3001") for n in (1, 2)]
    text = upstream(*edits).replace(
        ":3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s;",
        ":3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s down;",
    )
    assert set(failed(fleet(), text)) == {"instances marked down"}


def test_an_instance_that_is_down_gets_no_requests() -> None:
    text = upstream(("10.1.0.12:3002 weight=1 max_conns=5 max_fails=2 fail_timeout=30s", "10.1.0.12:3002 down"))
    assert balancer_checks.serving(Live(text)) == {
        "gpu-01/ollama1": "10.1.0.11:3001",
        "gpu-01/ollama2": "10.1.0.11:3002",
        "gpu-02/ollama1": "10.1.0.12:3001",
    }


def test_who_was_drained_is_named_and_need_not_answer() -> None:
    why = Drained("gpu-01/ollama1", "2026-11-22T08:00:00Z", "ops@desk", "a new fan")
    written = Upstream.parse(upstream())
    assert written is not None
    text = written.updated(drain={why.label: why}).text
    assert failed(fleet(), text) == {}
    names = [check.name for check in balancer_checks.members(Live(text), {}, OLLAMA)]
    assert "drained: gpu-01/ollama1 since 2026-11-22T08:00:00Z by ops@desk: a new fan" in names
    assert not any(name.startswith("gpu-01/ollama1 answers") for name in names)
