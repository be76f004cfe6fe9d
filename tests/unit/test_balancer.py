"""The members of the upstream, their addresses, and the members that are `down`."""

import dataclasses
from typing import Any

import pytest

from provision.inventory import Inventory
from provision.roles import balancer
from provision.steps.base import RefusalError
from provision.steps.fleet_state import FleetState
from provision.steps.nginx.upstream import NOWHERE, members
from tests.unit.balancer_fleet import config, fleet, host, state, texts
from tests.unit.nginx_config import find, parse

UPSTREAM = "upstream.conf"
READ = {"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"}


def servers(text: str) -> list[tuple[str, bool]]:
    """Return the address of every member, and whether the member is down."""
    return [(found.words[1], "down" in found.words) for found in find(parse(text), "server")]


def test_every_instance_of_the_inventory_is_a_member_at_the_address_read_on_its_host() -> None:
    text = texts(config(fleet()), FleetState(READ))[UPSTREAM]
    assert servers(text) == [(f"{READ[name]}:{port}", False) for name in READ for port in (3001, 3002)]
    line = "server 10.1.0.11:3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s; # gpu-01/ollama1"
    assert line in [found.strip() for found in text.splitlines()]


def test_the_members_of_a_failed_host_are_down_even_after_a_read() -> None:
    text = texts(config(fleet()), FleetState(READ, frozenset({"gpu-02"})))[UPSTREAM]
    assert [down for _, down in servers(text)] == [False, False, True, True]


def test_the_members_of_an_unvisited_host_keep_address_and_mark() -> None:
    step = config(fleet())
    first = texts(step, FleetState(READ, frozenset({"gpu-02"})))[UPSTREAM]
    again = texts(step, FleetState({"gpu-01": READ["gpu-01"]}), state(step, **{UPSTREAM: first}))[UPSTREAM]
    assert again == first


def test_instances_that_no_run_has_finished_are_not_in_the_upstream() -> None:
    """A host that was never deployed, or that a killed run left half made, would swallow requests."""
    step = config(fleet())
    text = texts(step, FleetState(READ))[UPSTREAM]
    before = "\n".join(line for line in text.splitlines() if "gpu-02" not in line)
    have = state(step, **{UPSTREAM: before})
    one = FleetState({"gpu-01": READ["gpu-01"]})
    assert [address for address, _ in servers(texts(step, one, have)[UPSTREAM])] == ["10.1.0.11:3001", "10.1.0.11:3002"]
    assert [down for _, down in servers(texts(step, FleetState(READ), have)[UPSTREAM])] == [False] * 4
    renamed = state(step, **{UPSTREAM: text.replace("gpu-02", "node-2")})
    assert len(servers(texts(step, one, renamed)[UPSTREAM])) == 2, "a host with another name is another host"
    strangers = state(step, **{UPSTREAM: text.replace("gpu-0", "node-")})
    with pytest.raises(RefusalError, match="deploy their hosts first"):
        texts(step, FleetState(), strangers)


@pytest.mark.parametrize(("new", "old"), [("gpu-02/ollama2", "gpu-02/chat"), ("10.1.0.12:3002", "10.1.0.12:4002")])
def test_the_upstream_keeps_the_serving_members_of_a_host_that_was_not_changed(new: str, old: str) -> None:
    """The inventory has another name or port, but the roll halted before the host, or --limit excludes the host."""
    step = config(fleet())
    now = texts(step, FleetState(READ))[UPSTREAM].replace(new, old)
    have = state(step, **{UPSTREAM: now})
    for known in (
        FleetState({"gpu-01": READ["gpu-01"]}),
        FleetState({"gpu-01": READ["gpu-01"]}, unaffected=frozenset({"gpu-02"})),
        FleetState(unaffected=frozenset({"gpu-01", "gpu-02"})),
    ):
        text = texts(step, known, have)[UPSTREAM]
        assert servers(text) == servers(now)
        assert old in text
    assert new in texts(step, FleetState(READ), have)[UPSTREAM]
    failed = texts(step, FleetState({"gpu-01": READ["gpu-01"]}, failed=frozenset({"gpu-02"})), have)[UPSTREAM]
    assert [down for _, down in servers(failed)] == [False, False, True, True]


def test_a_failed_instance_leaves_the_other_members_of_its_host_alone() -> None:
    step = config(fleet())
    known = FleetState(
        {"gpu-02": READ["gpu-02"]}, unaffected=frozenset({"gpu-01"}), not_ready=frozenset({"gpu-01/ollama1"})
    )
    have = state(step, **{UPSTREAM: texts(step, FleetState(READ))[UPSTREAM]})
    assert [down for _, down in servers(texts(step, known, have)[UPSTREAM])] == [True, False, False, False]
    # Members that were never in the upstream do not enter the upstream now.
    assert [down for _, down in servers(texts(step, known)[UPSTREAM])] == [True, True, False, False]


def test_the_members_of_a_host_visited_again_are_up() -> None:
    step = config(fleet())
    first = texts(step, FleetState(READ, frozenset({"gpu-02"})))[UPSTREAM]
    assert [down for _, down in servers(texts(step, FleetState(READ), state(step, **{UPSTREAM: first}))[UPSTREAM])] == [
        False
    ] * 4


def test_without_a_read_and_a_present_upstream_the_inventory_gives_the_address() -> None:
    assert servers(texts(config(fleet()))[UPSTREAM])[0] == ("10.0.0.11:3001", False)


def test_a_name_is_resolved_on_the_balancer() -> None:
    inventory = named()
    step = config(inventory)
    assert servers(texts(step, resolved={"gpu.example": "10.0.0.9"})[UPSTREAM]) == [("10.0.0.9:3001", False)]
    assert servers(texts(step)[UPSTREAM]) == [(f"{NOWHERE}:3001", True)]


def test_an_address_that_becomes_known_replaces_the_placeholder() -> None:
    step = config(named())
    found = state(step)
    assert servers(texts(step, FleetState({"gpu-01": "10.0.0.9"}), found)[UPSTREAM]) == [("10.0.0.9:3001", False)]
    assert servers(texts(step, have=found, resolved={"gpu.example": "10.0.0.9"})[UPSTREAM]) == [
        ("10.0.0.9:3001", False)
    ]


def named() -> Inventory:
    """Return an inventory with a gpu host that has a DNS name for an address."""
    hosts = (host("gpu-01", "gpu", address="gpu.example", count=1), host("lb-01", "balancer"))
    return Inventory(path="x", hosts=hosts)


def test_without_balancers_a_gpu_host_balances_over_its_own_instances_on_loopback() -> None:
    inventory = Inventory(path="x", hosts=(host("a", "gpu", count=2), host("b", "gpu", count=1)))
    assert servers(texts(config(inventory, "a"))[UPSTREAM]) == [("127.0.0.1:3001", False), ("127.0.0.1:3002", False)]


def test_gpu_hosts_do_not_balance_beside_balancers() -> None:
    inventory = fleet()
    assert list(balancer.steps(inventory.host("gpu-01"), inventory)) == []


def test_an_inventory_without_instances_still_has_a_configuration() -> None:
    inventory = Inventory(path="x", hosts=(host("lb-01", "balancer"),))
    assert servers(texts(config(inventory))[UPSTREAM]) == [("127.0.0.1:1", True)]


def test_two_instances_at_one_address_are_named_once() -> None:
    hosts = (host("a", "gpu", address="10.0.0.1", count=1), host("b", "gpu", address="10.0.0.1", count=1))
    text = texts(config(Inventory(path="x", hosts=(*hosts, host("lb-01", "balancer")))))[UPSTREAM]
    [names] = find(parse(text), "map")
    assert [one.words for one in names.block or () if one.words[0].startswith("10.")] == [
        ("10.0.0.1:3001", "a/ollama1")
    ]


@pytest.mark.parametrize(
    ("settings", "instance", "expected"),
    [
        ({}, {"parallel": 4}, "max_conns=20"),
        ({"queue": 0}, {"parallel": 4}, "max_conns=4"),
        ({"queue": 10}, {"parallel": 4}, "max_conns=14"),
        ({}, {"weight": 5}, "weight=5"),
    ],
)
def test_weight_and_max_conns_of_a_member(settings: dict[str, Any], instance: dict[str, Any], expected: str) -> None:
    gpu = host("gpu-01", "gpu", address="10.0.0.11", count=1)
    gpu = dataclasses.replace(gpu, instances=tuple(dataclasses.replace(one, **instance) for one in gpu.instances))
    inventory = Inventory(path="x", hosts=(gpu, host("lb-01", "balancer", balancer=settings)))
    [server] = find(parse(texts(config(inventory))[UPSTREAM]), "server")
    assert expected in server.words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ("least_conn",)),
        ({"method": "random"}, ("random",)),
        ({"method": "random two least_conn"}, ("random", "two", "least_conn")),
        ({"method": "ip_hash"}, ("ip_hash",)),
        ({"method": "hash"}, ("hash", "$http_x_session_id", "consistent")),
        ({"method": "hash", "hash_key": "client"}, ("hash", "$remote_addr", "consistent")),
    ],
)
def test_the_method_comes_before_keepalive(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    [group] = find(parse(texts(config(fleet(balancer=settings)))[UPSTREAM]), "upstream")
    said = [one.words for one in group.block or ()]
    assert said.index(words) < next(n for n, one in enumerate(said) if one[0] == "keepalive")


def test_round_robin_needs_no_directive() -> None:
    [group] = find(parse(texts(config(fleet(balancer={"method": "round_robin"})))[UPSTREAM]), "upstream")
    assert {one.words[0] for one in group.block or ()} == {"zone", "server", "keepalive", "keepalive_timeout"}


def test_the_present_configuration_is_left_alone_and_an_edited_one_gets_a_new_id() -> None:
    step = config(fleet())
    found = state(step)
    assert (step.want(facts_of(), found) or {})["id"] == found["id"]
    edited = state(step, **{"site.conf": "# mine\n"})
    assert (step.want(facts_of(), edited) or {})["id"] != found["id"]


def facts_of() -> Any:
    """Return the host facts of a balancer that knows nothing of the gpu hosts."""
    from provision.steps.facts import HostFacts

    return HostFacts()


def test_failed_hosts_do_not_take_the_last_members_out():
    step = config(fleet())
    have = state(step, **{UPSTREAM: texts(step, FleetState(READ))[UPSTREAM]})
    one, both = FleetState(failed=frozenset({"gpu-01"})), FleetState(failed=frozenset({"gpu-01", "gpu-02"}))
    assert [down for _, down in servers(texts(step, one, have)[UPSTREAM])] == [True, True, False, False]
    with pytest.raises(RefusalError, match=r"no instance would be left.*gpu-01, gpu-02"):
        texts(step, both, have)
    assert [down for _, down in servers(texts(step, both)[UPSTREAM])] == [True] * 4


@pytest.mark.parametrize(("settings", "limits"), [({}, (5, 20)), ({"balancer": {"queue": 3}}, (4, 7))])
def test_the_limit_of_requests_follows_the_number_of_the_estimate(settings: Any, limits: tuple[int, int]) -> None:
    inventory = fleet(**settings)
    hosts = [
        dataclasses.replace(
            each, instances=tuple(dataclasses.replace(own, parallel_auto=True) for own in each.instances)
        )
        for each in inventory.hosts
    ]
    step = config(dataclasses.replace(inventory, hosts=tuple(hosts)))
    text = texts(step, FleetState(READ, parallel={"gpu-01/ollama1": 4}))[UPSTREAM]
    few, many = limits
    assert limits_of(text) == [many, few, few, few]
    later = texts(step, FleetState({"gpu-02": READ["gpu-02"]}), state(step, **{UPSTREAM: text}))[UPSTREAM]
    assert limits_of(later) == [many, few, few, few], "a run without the host keeps the limit"
    again = texts(step, FleetState(READ, parallel={"gpu-01/ollama1": 1}), state(step, **{UPSTREAM: text}))[UPSTREAM]
    assert limits_of(again) == [few] * 4


def limits_of(text: str) -> list[int]:
    return [member.max_conns for member in members(text).values()]
