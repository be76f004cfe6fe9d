"""Only a balancer reaches an instance, whatever rules other programs add; asked from another host."""

import pytest

pytestmark = pytest.mark.lab
HOST, NEIGHBOUR, BALANCER = "gpu-01", "gpu-02", "lb-01"
WALL = "firewall:DOCKER-USER"
FOREIGN = ["FORWARD", "-p", "tcp", "--dport", "11434", "-j", "ACCEPT"]
ASK = ["curl", "--noproxy", "*", "-s", "-o", "/dev/null", "--max-time", "5", "-w", "%{http_code}"]
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


def test_a_neighbour_does_not_reach_a_container_by_its_own_address(fleet, reached):
    address = fleet.on(HOST, *CONTAINER).strip()
    fleet.on(NEIGHBOUR, "ip", "route", "add", f"{address}/32", "via", fleet.address(HOST))
    try:
        assert reached(HOST, f"{address}:11434")
        assert not reached(NEIGHBOUR, f"{address}:11434")
        rule = next(line for line in fleet.on(HOST, "iptables", "-S", "PROVISION").splitlines() if "docker0" in line)
        fleet.on(HOST, "sh", "-c", f"iptables -D {rule.removeprefix('-A ')}")
        assert reached(NEIGHBOUR, f"{address}:11434"), "this Docker closes the way itself: this test proves nothing"
        assert fleet.changes()[HOST] == [WALL]
        fleet.deploy()
        assert not reached(NEIGHBOUR, f"{address}:11434")
    finally:
        fleet.on(NEIGHBOUR, "ip", "route", "del", f"{address}/32")


def test_verify_has_a_neighbour_ask_each_instance(fleet):
    done = fleet.provision("verify", "--json")
    assert done.code == 0, done
    asked = {c["name"] for host in done.doc["hosts"] for c in host["checks"] if c["step"].startswith("neighbour:")}
    first, second = fleet.address("gpu-01"), fleet.address("gpu-02")
    assert asked == {
        f"{first}:3001 is closed to gpu-02",
        f"{first}:3002 is closed to gpu-02",
        f"{second}:3001 is closed to gpu-01",
        f"{second}:3002 is closed to gpu-01",
    }


def test_without_a_neighbour_verify_says_that_it_did_not_ask(fleet):
    done = fleet.provision("verify", "--json", "--limit", f"{HOST},{BALANCER}")
    assert done.code == 0, done
    said = fleet.provision("verify", "--limit", f"{HOST},{BALANCER}").out
    assert "not asked: whether gpu-01/ollama1 is closed to others: every host that was reached has access" in said
