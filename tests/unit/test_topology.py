"""The balancers of every host and the hosts behind every balancer, for every shape of a fleet."""

from collections.abc import Callable

import pytest

from provision.inventory import Connection, Host, Inventory, topology

ALONE = {"a": "gpu"}
EACH_ITS_OWN = {"a": "gpu", "b": "gpu"}
FLEET = {"a": "gpu", "b": "gpu", "lb": "balancer"}
TWO_BALANCERS = {"lb1": "balancer", "a": "gpu", "lb2": "balancer"}
SHARED = {"both": "gpu balancer", "a": "gpu", "lb": "balancer"}
RETIRED = {"a": "gpu", "old": "retired", "lb": "balancer"}
BALANCERS_ONLY = {"lb": "balancer"}


def inventory_of(fleet: dict[str, str]) -> Inventory:
    hosts = (
        Host(name=name, groups=tuple(groups.split()), connection=Connection(address=f"{name}.example"))
        for name, groups in fleet.items()
    )
    return Inventory(path="", hosts=tuple(hosts))


def answers(fleet: dict[str, str], ask: Callable[[Host, Inventory], tuple[Host, ...]]) -> dict[str, str]:
    """Return the names of the hosts that a function returns, for every host."""
    inventory = inventory_of(fleet)
    return {host.name: " ".join(other.name for other in ask(host, inventory)) for host in inventory.hosts}


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        (ALONE, "a"),
        (EACH_ITS_OWN, "a b"),
        (FLEET, "lb"),
        (TWO_BALANCERS, "lb1 lb2"),
        (SHARED, "both lb"),
        (RETIRED, "lb"),
        (BALANCERS_ONLY, "lb"),
    ],
)
def test_which_hosts_are_balancers(fleet: dict[str, str], expected: str) -> None:
    inventory = inventory_of(fleet)
    assert [host.name for host in inventory.hosts if topology.is_balancing(host, inventory)] == expected.split()


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        (ALONE, {"a": "a"}),
        (EACH_ITS_OWN, {"a": "a", "b": "b"}),
        (FLEET, {"lb": "a b"}),
        (TWO_BALANCERS, {"lb1": "a", "lb2": "a"}),
        (SHARED, {"both": "both a", "lb": "both a"}),
        (RETIRED, {"lb": "a"}),
        (BALANCERS_ONLY, {"lb": ""}),
    ],
)
def test_the_hosts_that_a_balancer_sends_to(fleet: dict[str, str], expected: dict[str, str]) -> None:
    assert answers(fleet, topology.sources).items() >= expected.items()


@pytest.mark.parametrize(
    ("fleet", "expected", "remote"),
    [
        (ALONE, {"a": "a"}, {"a": ""}),
        (EACH_ITS_OWN, {"a": "a", "b": "b"}, {"a": "", "b": ""}),
        (FLEET, {"a": "lb", "b": "lb"}, {"a": "lb", "b": "lb"}),
        (TWO_BALANCERS, {"a": "lb1 lb2"}, {"a": "lb1 lb2"}),
        (SHARED, {"both": "both lb", "a": "both lb"}, {"both": "lb", "a": "both lb"}),
        (RETIRED, {"a": "lb", "old": "lb"}, {"a": "lb", "old": "lb"}),
    ],
)
def test_the_balancers_of_a_host(fleet: dict[str, str], expected: dict[str, str], remote: dict[str, str]) -> None:
    assert answers(fleet, topology.balancers).items() >= expected.items()
    assert answers(fleet, topology.remote_balancers).items() >= remote.items()


@pytest.mark.parametrize("fleet", [ALONE, EACH_ITS_OWN, FLEET, TWO_BALANCERS, SHARED, RETIRED])
def test_both_directions_agree(fleet: dict[str, str]) -> None:
    inventory = inventory_of(fleet)
    sending = {
        (balancer.name, host.name)
        for balancer in inventory.hosts
        if topology.is_balancing(balancer, inventory)
        for host in topology.sources(balancer, inventory)
    }
    sent = {
        (balancer.name, host.name)
        for host in inventory.hosts
        if host.gpu
        for balancer in topology.balancers(host, inventory)
    }
    assert sending == sent


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        (ALONE, {"a": ""}),
        (EACH_ITS_OWN, {"a": "", "b": ""}),
        (FLEET, {"a": "lb", "b": "lb", "lb": "a b"}),
        (TWO_BALANCERS, {"lb1": "a", "a": "lb1 lb2", "lb2": "a"}),
        (SHARED, {"both": "lb", "a": "lb both", "lb": "both a"}),
        (RETIRED, {"a": "lb", "old": "a", "lb": "a"}),
        (BALANCERS_ONLY, {"lb": ""}),
    ],
)
def test_the_hosts_that_a_host_must_be_able_to_reach(fleet: dict[str, str], expected: dict[str, str]) -> None:
    assert answers(fleet, topology.counterparts) == expected
