"""The common address of the balancers: what the inventory refuses, and the file that keepalived gets."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.doctor import common_address
from provision.errors import InventoryError
from provision.plan import role_interface
from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts
from provision.steps.keepalived.address import resolved, source
from provision.steps.keepalived.layout import CONF, RULES

VIP = {"address": "10.0.0.100"}
PAIR = {"lb-01": {"ansible_host": "10.0.0.5"}, "lb-02": {"ansible_host": "10.0.0.6"}}
FACTS = HostFacts(
    sources={"10.0.0.6": "10.0.0.5"}, resolved={"10.0.0.6": "10.0.0.6"}, interfaces={"10.0.0.5": "enp1s0"}
)


def loaded(folder: Path, balancer: dict[str, Any], hosts: dict[str, Any] | None = None, **roles: Any) -> Any:
    """Return the inventory of a gpu host and two balancers."""
    gpu = {"gpu-01": {"ansible_host": "10.0.0.11", "ollama": {"instances": [{"gpus": [0]}]}}}
    document = {
        "all": {
            "vars": {"nginx": {"accept_known_vulnerabilities": True}, "balancer": balancer, **roles},
            "children": {"gpu": {"hosts": gpu}, "balancer": {"hosts": PAIR if hosts is None else hosts}},
        }
    }
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump(document))
    return role_interface.load(str(path))


@pytest.mark.parametrize(
    ("balancer", "hosts", "said"),
    [
        ({"vip": {"address": "fd00::1"}}, None, "must be an IPv4 address"),
        ({"vip": {"address": "127.0.0.1"}}, None, "must be an address of the network of the balancers"),
        ({"vip": {"address": "10.0.0.5"}}, None, "is the address of lb-01"),
        ({"vip": {"address": "10.0.0.100; reboot"}}, None, "vip.address"),
        ({"vip": {"address": "10.0.0.100", "router_id": 256}}, None, "vip.router_id"),
        ({"vip": {"router_id": 7}}, None, "vip.address"),
        ({"vip": VIP}, {"lb-01": {"ansible_host": "10.0.0.5"}}, "needs two hosts or more in the group balancer"),
        ({"vip": VIP, "listen": ["10.0.0.5"]}, None, "with a common address a balancer listens on 0.0.0.0"),
        (
            {},
            {"lb-01": {**PAIR["lb-01"], "balancer": {"vip": VIP}}, "lb-02": PAIR["lb-02"]},
            "balancer.vip differs between lb-01 and lb-02",
        ),
        (
            {"vip": VIP},
            {"lb-01": PAIR["lb-01"], "lb-02": {**PAIR["lb-02"], "balancer": {"vip": VIP, "port": 3009}}},
            "balancer.port differs between lb-01 and lb-02",
        ),
    ],
)
def test_an_address_that_the_balancers_cannot_share_is_refused_by_its_key(tmp_path, balancer, hosts, said):
    with pytest.raises(InventoryError) as error:
        loaded(tmp_path, balancer, hosts)
    assert said in str(error.value)
    assert "balancer" in str(error.value)


@pytest.mark.parametrize(("advertise", "accepted"), [("0.5s", True), ("50ms", False), ("41s", False), ("-1", False)])
def test_an_interval_that_vrrp_cannot_say_is_refused(tmp_path, advertise, accepted):
    if accepted:
        assert loaded(tmp_path, {"vip": VIP}, keepalived={"advertise": advertise})
        return
    with pytest.raises(InventoryError, match="must be between 100ms and 40s"):
        loaded(tmp_path, {"vip": VIP}, keepalived={"advertise": advertise})


def texts(folder: Path, **balancer: Any) -> dict[str, str]:
    """Return path -> text of the files of the first balancer."""
    inventory = loaded(folder, {"vip": VIP, **balancer})
    host = inventory.host("lb-01")
    config = next(e.step for e in role_interface.steps(host, inventory) if e.step.id == "config:keepalived")
    want = config.want(FACTS, None)
    assert want is not None
    return {CONF: want["conf"].data.decode(), RULES: want["rules"].data.decode()}


def test_the_files_name_the_own_address_the_peer_and_the_interface(tmp_path):
    files = texts(tmp_path)
    for line in (
        "unicast_src_ip 10.0.0.5",
        "        10.0.0.6\n",
        "10.0.0.100/32 dev enp1s0",
        "nopreempt",
        "priority 240",
    ):
        assert line in files[CONF]
    assert "ip protocol 112 ip saddr != { 10.0.0.6 } drop" in files[RULES]
    assert "ip daddr 10.0.0.100 tcp dport { 3008 } dnat to 10.0.0.5" in files[RULES]


def test_every_port_for_clients_goes_with_the_address(tmp_path):
    assert "tcp dport { 4000 } dnat" in texts(tmp_path, port=4000)[RULES]


def test_an_inventory_without_the_key_has_no_step_of_the_role(tmp_path):
    inventory = loaded(tmp_path, {})
    for host in inventory.hosts:
        assert not [e for e in role_interface.steps(host, inventory) if e.role == "keepalived"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (HostFacts(), "finds no route to lb-02"),
        (HostFacts(sources={"10.0.0.6": "10.0.0.5", "10.0.0.7": "10.1.0.5"}), "from several addresses"),
        (HostFacts(sources={"10.0.0.6": "10.0.0.5"}), "by no interface with an IPv4 address"),
        (HostFacts(sources={"10.0.0.6": "fd00::5"}, interfaces={"fd00::5": "eth0"}), "by no interface with an IPv4"),
        (
            HostFacts(sources={"10.0.0.6": "10.0.0.5"}, interfaces={"10.0.0.5": "eth0 }\nreboot"}),
            "by no interface with an IPv4 address",
        ),
    ],
)
def test_peers_out_of_reach_are_refused_by_name(facts, said):
    peers = {"lb-02": "10.0.0.6", **({"lb-03": "10.0.0.7"} if len(facts.sources) > 1 else {})}
    with pytest.raises(RefusalError, match=said):
        source(facts, peers)


@pytest.mark.parametrize("answer", ["", "fd00::6", "10.0.0.6 } drop", "10.0.0.6/8"])
def test_a_peer_without_an_ipv4_address_is_refused_by_name(answer):
    with pytest.raises(RefusalError, match="knows no IPv4 address of lb-02"):
        resolved(HostFacts(resolved={"10.0.0.6": answer}), {"lb-02": "10.0.0.6"})


def test_doctor_asks_nothing_where_the_balancers_have_no_common_address(tmp_path):
    inventory = loaded(tmp_path, {})
    (check,) = common_address.CHECKS
    assert [check.look(host, inventory) for host in inventory.hosts] == [None] * len(inventory.hosts)
