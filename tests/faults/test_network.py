"""A bad line: one packet in twenty is lost, or every answer takes 300 ms; a whole change goes over the line."""

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import container_back, key_back, new_image, old_image, one_container, one_key
from tests.faults.world import BAD

pytestmark = [pytest.mark.lab, pytest.mark.faults]
LOSS = "-m statistic --mode random --probability 0.05 -j DROP"
WORK = {"ready": both(one_key, one_container, new_image), "code": 0, "keep": False}
DONE = both(key_back, container_back, old_image)


def lossy(world):
    world.sh(f"iptables -t mangle -I PREROUTING -i eth0 {LOSS}; iptables -t mangle -I POSTROUTING -o eth0 {LOSS}")


def whole(world):
    world.sh(f"iptables -t mangle -D PREROUTING -i eth0 {LOSS}; iptables -t mangle -D POSTROUTING -o eth0 {LOSS}")


def plugged(rtt):
    """The cable between this machine and the lab has this round-trip time, in milliseconds."""

    def plug(world):
        with world.cable:  # a request without the cable leaves with another address, and is never answered
            world.unplug()
            world.lab.network.connect(rtt, world.lab.home / "delay.log")

    return plug


CASES = {
    "5 % of the packets are lost": Case(lossy, mend=both(whole, DONE), **WORK),
    "a round trip takes 300 ms": Case(plugged(300), mend=both(plugged(0), DONE), **WORK),
    "5 % are lost and a round trip takes 300 ms": Case(
        both(lossy, plugged(300)), mend=both(whole, plugged(0), DONE), **WORK
    ),
    "nothing answers at all": Case(
        both(lambda w: w.lab.cut(BAD), lambda w: w.vars().update(ansible_timeout=3)),
        ("does not answer within 3 s", "firewall"),
        lambda w: w.lab.uncut(BAD),
        code=4,
        result="unreachable",
    ),
    "the host has no power": Case(
        lambda w: w.fault("power-off"),
        (r"no SSH connection|does not answer", "ssh -v|route"),
        lambda w: w.power_on(),
        code=4,
        result="unreachable",
        keep=False,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "5 % of the packets are lost"))
def test_network(world, seen, case):
    play(world, case, seen)
