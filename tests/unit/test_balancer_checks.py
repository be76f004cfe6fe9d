"""The checks of verify on an upstream whose addresses disagree with the labels."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from provision.inventory import Inventory
from provision.steps.base import Check
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


# ---- the proofs of a balancer with two sets of models --------------------------------------------------------------


class Edge(Live):
    """A balancer that answers each request of the proofs with a status."""

    rc = 0

    def __init__(self, upstream: str, statuses: dict[str, str]) -> None:
        super().__init__(upstream)
        self.statuses = statuses
        self.asked: list[str] = []

    def run(self, words: str, *arguments: str) -> "Live":
        if balancer_checks.EDGE in arguments:
            self.asked = list(arguments[3:])
            self.stdout = " ".join(self.status(pair) for pair in self.asked)
            return self
        return super().run(words, *arguments)

    def status(self, pair: str) -> str:
        if pair in self.statuses:
            return self.statuses[pair]
        if "/models/-/" in pair:
            return "404"
        return "200" if pair.startswith("GET ") and not pair.endswith(("/pprof/", "/api/me")) else "403"


def two_models(*served: tuple[str, ...]) -> Inventory:
    """Return the fleet with other models on each host."""
    hosts = [
        dataclasses.replace(each, instances=tuple(dataclasses.replace(own, models=models) for own in each.instances))
        for each, models in zip(fleet().hosts, (*served, ()), strict=True)
    ]
    return Inventory(path="x", hosts=tuple(hosts))


URL = "http://127.0.0.1:3008"


def proofs(inventory: Inventory, **statuses: str) -> tuple[dict[str, Any], list[tuple[str, str, list[str]]], Edge]:
    """Return the failed checks of the step, the streams that the proofs ask for, and the balancer."""
    streams: list[tuple[str, str, list[str]]] = []

    def stream(live: Any, url: str, model: str, serving: Any, config: str = "", versions: Any = ()) -> Iterator[Check]:
        streams.append((url, model, sorted(serving)))
        yield Check("a streamed answer", True, True)

    engine = dataclasses.replace(OLLAMA, stream=stream)
    step = dataclasses.replace(config(inventory), engine=engine)
    text = texts(step, FleetState({"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"}))["upstream.conf"]
    live = Edge(text, {pair.replace("_", " ", 1): status for pair, status in statuses.items()})
    checks = [check for check in step.check(live) if check.name != "nginx has loaded the present configuration"]
    return {check.name: check.got for check in checks if not check.passed}, streams, live


def test_with_one_set_of_models_the_stream_comes_through_the_root() -> None:
    failures, streams, live = proofs(two_models(("Gemma3",), ("gemma3:latest",)))
    assert failures == {}
    labels = [f"gpu-0{host}/ollama{n}" for host in (1, 2) for n in (1, 2)]
    assert streams == [(URL, "Gemma3", labels)]
    assert f"GET {URL}/models/gemma3:latest/api/version" in live.asked


def test_each_set_of_models_has_a_stream_through_its_path_and_to_its_instances() -> None:
    failures, streams, live = proofs(two_models(("m:1", "e"), ("n:1", "e")))
    assert failures == {}
    first, second = ([f"gpu-0{host}/ollama{n}" for n in (1, 2)] for host in (1, 2))
    assert streams == [
        (f"{URL}/models/m:1", "m:1", first),
        (f"{URL}/models/e:latest", "e", first + second),
        (f"{URL}/models/n:1", "n:1", second),
    ]
    assert [pair for pair in live.asked if "/models/" in pair] == [
        f"POST {URL}/models/-/v1/chat/completions",
        *(f"GET {URL}/models/{name}/api/version" for name in ("m:1", "e:latest", "n:1")),
    ]


def test_a_lost_route_and_an_open_unknown_name_are_failed_checks() -> None:
    statuses = {
        f"GET_{URL}/models/n:1/api/version": "404",
        f"POST_{URL}/models/-/v1/chat/completions": "200",
    }
    failures, _, _ = proofs(two_models(("m:1",), ("n:1",)), **statuses)
    assert failures == {
        "the path of an unknown model": "200",
        "the path of every model": {"m:1": "200", "n:1": "404"},
    }
