"""Only a balancer reaches an instance, whatever rules other programs add; asked from another host."""

import pytest

from .conftest import wait_for

pytestmark = pytest.mark.lab
HOST, NEIGHBOUR, BALANCER = "gpu-01", "gpu-02", "lb-01"
WALL = "firewall:DOCKER-USER"
FOREIGN = ["FORWARD", "-p", "tcp", "--dport", "11434", "-j", "ACCEPT"]
PATIENCE = ["--connect-timeout", "5", "--max-time", "60"]
ASK = ["curl", "--noproxy", "*", "-s", "-o", "/dev/null", *PATIENCE, "-w", "%{http_code}"]
CONTAINER = ["docker", "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "ollama1"]


@pytest.fixture
def reached(fleet):
    """Whether a host reaches the first instance of gpu-01, or a given address and port."""

    def ask(host, at=""):
        url = f"http://{at or fleet.address(HOST) + ':3001'}/api/version"
        return fleet.lab.host(host).run([*ASK, url], check=False).stdout == "200"

    return ask


def failed(done):
    """Host -> the steps that verify failed."""
    return {host["host"]: {c["step"] for c in host["checks"] if not c["passed"]} for host in done.doc["hosts"]}


def test_a_rule_before_ours_in_forward_is_seen_passed_by_and_left(fleet, reached):
    fleet.on(HOST, "iptables", "-I", *FOREIGN)
    try:
        assert reached(NEIGHBOUR), "the rule opens no way: this test proves nothing"
        [change] = next(host["changes"] for host in fleet.plan().doc["hosts"] if host["host"] == HOST)
        assert change["step"] == WALL
        assert any("--dport 11434 -j ACCEPT" in line and "stays" in line for line in change["diff"])
        verified = fleet.provision("verify", "--json")
        assert verified.code == 5, verified
        assert failed(verified)[HOST] == {WALL, "neighbour:ollama1", "neighbour:ollama2"}
        alone = fleet.provision("verify", "--json", "--limit", f"{HOST},{BALANCER}")
        tried = {name: passed for name, passed in asked(alone).items() if "closed to this machine (" in name}
        assert list(tried.values()) == [False, False], alone
        assert fleet.deploy().host(HOST)["changed"] == [WALL]
        assert not reached(NEIGHBOUR)
        assert reached(BALANCER)
        assert "--dport 11434 -j ACCEPT" in fleet.on(HOST, "iptables", "-S", "FORWARD")
        assert fleet.provision("plan", "--exit-code").code == 0
        fleet.on(HOST, "systemctl", "restart", "docker")
        assert not reached(NEIGHBOUR)
    finally:
        fleet.on(HOST, "iptables", "-D", *FOREIGN)
    fleet.deploy()


@pytest.fixture
def route(fleet):
    """Lead a network of containers from the neighbour to the host."""
    made = []

    def lead(network):
        made.append(network)
        fleet.on(NEIGHBOUR, "ip", "route", "add", network, "via", fleet.address(HOST))

    yield lead
    for network in made:
        fleet.on(NEIGHBOUR, "ip", "route", "del", network)


def asked(done, host=HOST):
    """The question about each way to the instances of a host -> whether the way is closed."""
    checks = done.host(host)["checks"]
    return {c["name"]: c["passed"] for c in checks if c["step"].startswith("neighbour:")}


@pytest.mark.matrix
def test_a_neighbour_does_not_reach_a_container_by_its_own_address(fleet, reached, route):
    address = fleet.on(HOST, *CONTAINER).strip()
    image = fleet.on(HOST, "docker", "inspect", "-f", "{{.Config.Image}}", "ollama1").strip()
    route(f"{address}/32")
    assert reached(HOST, f"{address}:11434")
    assert not reached(NEIGHBOUR, f"{address}:11434")
    fleet.on(HOST, "docker", "run", "-d", "--name", "foreign", "-p", "11500:11434", image)
    try:
        wait_for(lambda: reached(NEIGHBOUR, f"{fleet.address(HOST)}:11500"))
    finally:
        fleet.on(HOST, "docker", "rm", "-f", "foreign")
    rule = next(line for line in fleet.on(HOST, "iptables", "-S", "PROVISION").splitlines() if "docker0" in line)
    fleet.on(HOST, "sh", "-c", f"iptables -D {rule.removeprefix('-A ')}")
    assert reached(NEIGHBOUR, f"{address}:11434"), "this Docker closes the way itself: this test proves nothing"
    verified = fleet.provision("verify", "--json")
    assert failed(verified)[HOST] == {WALL, "neighbour:ollama1", "neighbour:ollama2"}
    assert not asked(verified)[f"{address}:11434 is closed to gpu-02 by way of gpu-01"]
    assert asked(verified)[f"{fleet.address(HOST)}:3001 is closed to gpu-02"]
    assert fleet.changes()[HOST] == [WALL]
    fleet.deploy()
    assert not reached(NEIGHBOUR, f"{address}:11434")


def test_a_network_of_the_operators_is_closed_as_soon_as_an_instance_is_in_it(fleet):
    fleet.on(HOST, "docker", "network", "create", "--subnet", "10.66.0.0/24", "side")
    try:
        fleet.on(HOST, "docker", "network", "connect", "side", "ollama2")
        changes = next(host["changes"] for host in fleet.plan().doc["hosts"] if host["host"] == HOST)
        assert {"container:ollama2", WALL} <= {change["step"] for change in changes}
        bridge = "br-" + fleet.on(HOST, "docker", "network", "inspect", "-f", "{{.Id}}", "side")[:12]
        lines = next(change["diff"] for change in changes if change["step"] == WALL)
        assert any(line.startswith("+ ") and f"-o {bridge} " in line for line in lines), lines
    finally:
        fleet.on(HOST, "sh", "-c", "docker network disconnect -f side ollama2; docker network rm side")
    assert fleet.provision("plan", "--exit-code").code == 0


@pytest.mark.matrix
def test_instances_on_loopback_are_closed_to_the_link(fleet, reached, route):
    everything = dict(fleet.data["all"]["children"])
    del fleet.data["all"]["children"]["balancer"]
    fleet.deploy("-t", "ollama", "-l", HOST)
    address = fleet.on(HOST, *CONTAINER).strip()
    route(f"{address}/32")
    assert reached(HOST, "127.0.0.1:3001")
    assert not reached(NEIGHBOUR)
    assert not reached(NEIGHBOUR, f"{address}:11434")
    ways = [
        f"127.0.0.1:3001 is closed to {NEIGHBOUR} by way of {HOST}",
        f"{address}:11434 is closed to {NEIGHBOUR} by way of {HOST}",
    ]
    verified = fleet.provision("verify", "--json", "-t", "ollama")
    assert {name: asked(verified)[name] for name in ways} == dict.fromkeys(ways, True), verified
    fleet.on(HOST, "iptables", "-F", "PROVISION")
    assert reached(NEIGHBOUR, f"{address}:11434"), "this Docker closes the way itself: this test proves nothing"
    verified = fleet.provision("verify", "--json", "-t", "ollama")
    assert {name: asked(verified)[name] for name in ways} == dict.fromkeys(ways, False), verified
    assert WALL in failed(verified)[HOST]
    fleet.data["all"]["children"] = everything
    fleet.deploy()
    assert not reached(NEIGHBOUR, f"{address}:11434")
    assert reached(BALANCER)


def test_verify_has_a_neighbour_ask_each_instance(fleet):
    done = fleet.provision("verify", "--json")
    assert done.code == 0, done
    places = {}
    for host in (HOST, NEIGHBOUR):
        inside = [fleet.on(host, *CONTAINER[:-1], name).strip() for name in ("ollama1", "ollama2")]
        places[host] = [f"{fleet.address(host)}:3001", f"{fleet.address(host)}:3002"], [f"{at}:11434" for at in inside]
    for host, other in ((HOST, NEIGHBOUR), (NEIGHBOUR, HOST)):
        published, around = places[host]
        names = [f"{at} is closed to {other}" for at in published]
        names += [f"{at} is closed to {other} by way of {host}" for at in around]
        assert asked(done, host) == dict.fromkeys(names, True)


def test_without_a_neighbour_this_machine_asks(fleet):
    done = fleet.provision("verify", "--json", "--limit", f"{HOST},{BALANCER}")
    assert done.code == 0, done
    names = [name for name in asked(done) if "closed to this machine (" in name]
    assert [name.split()[0] for name in names] == [f"{fleet.address(HOST)}:{port}" for port in (3001, 3002)]
