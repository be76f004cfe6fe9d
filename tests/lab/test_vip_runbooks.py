"""Every command of the runbooks about two balancers, in the order of each page."""

from collections.abc import Callable, Mapping

import pytest

from provision.lab import faults
from provision.lab.lab import Lab
from provision.lab.spec import Spec
from tests.fleet import NAME, wait_for
from tests.lab.test_runbooks import Operator, items
from tests.pair import BALANCERS, Pair

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
DROP = "add table ip split; add chain ip split input { type filter hook input priority -300; };"
DROP += " add rule ip split input ip protocol 112 drop"


def pair_of(operator: Operator) -> Pair:
    assert isinstance(operator.fleet, Pair)
    return operator.fleet


def second_balancer(operator: Operator) -> None:
    pair = pair_of(operator)
    pair.hosts("balancer")["lb-02"] = {"ansible_host": pair.address("lb-02")}
    pair.share()


def reboot(operator: Operator) -> None:
    pair = pair_of(operator)
    host = pair.lab.host(pair.standby())
    host.shutdown()
    host.start()
    host.wait()


def power(operator: Operator, *, on: bool) -> None:
    pair = pair_of(operator)
    pair.settled()
    faults.switch(pair.lab, "lb-01", "power-off", on=not on)
    if on:
        pair.lab.host("lb-01").wait()
    pair.settled("lb-02")


def protocol(operator: Operator, *, heard: bool) -> None:
    pair = pair_of(operator)
    for name in BALANCERS:
        pair.on(name, "nft", "delete table ip split" if heard else DROP)
    if heard:
        pair.settled()
    else:
        wait_for(lambda: len(pair.holders()) == len(BALANCERS), 60)


HANDS: Mapping[str, Callable[[Operator], None]] = {
    "lb-02 and the address into the inventory": second_balancer,
    "a reboot of the standby": reboot,
    "lb-01 loses its power": lambda operator: power(operator, on=False),
    "lb-01 has power again": lambda operator: power(operator, on=True),
    "a firewall drops protocol 112": lambda operator: protocol(operator, heard=False),
    "the firewall lets protocol 112 through": lambda operator: protocol(operator, heard=True),
}
PAGES = ("second-balancer", "planned-switch", "balancer-died", "split-brain")


def test_every_command_of_the_pages_in_their_order(tmp_path):
    """A single fleet goes through the life of a pair: a second balancer, a switch, a death, a split."""
    lab = Lab.up(Spec(f"{NAME}-pages", 1, 2, 1), install=True)
    try:
        pair = Pair(lab, tmp_path)
        del pair.hosts("balancer")["lb-02"]
        pair.deploy()
        operator = Operator(pair, tmp_path)
        for page in PAGES:
            for kind, what in items(page):
                HANDS[what](operator) if kind == "hand" else operator.command(what)
    finally:
        lab.down()


def test_no_hand_is_left_over():
    assert {what for page in PAGES for kind, what in items(page) if kind == "hand"} == set(HANDS)
