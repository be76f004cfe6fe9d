"""Instances with Docker networks of their own: who reaches whom on a host, asked from inside the containers."""

import pytest

from .conftest import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
HOST, BALANCER, NEIGHBOUR = "gpu-01", "lb-01", "gpu-02"
WALL, POOL = "firewall:DOCKER-USER", "10.213.0.0/24"
NETWORKS = {f"network:ollama{number}.10.213.0.0-24" for number in (1, 2)}
CONTAINERS = {"container:ollama1", "container:ollama2"}
JUMP = ["INPUT", "-i", "pvn-+", "-j", "PROVISION"]
CURL = "curl --noproxy '*' -s -o /dev/null --connect-timeout 3 --max-time 20 -w '%{http_code}'"
INSIDE = f"""nsenter -t "$(docker inspect -f '{{{{.State.Pid}}}}' "$1")" -n {CURL} "http://$2/api/version" """


@pytest.fixture
def settings(fleet):
    """The settings of Ollama on the host, which are back in the end."""
    yield fleet.hosts("gpu")[HOST]["ollama"]
    fleet.hosts("gpu")[HOST]["ollama"].pop("network_pool", None)


@pytest.fixture
def reached(fleet):
    """The places of the other instance that answer an instance of the host: `own` and `published`."""

    def ask(asker, other, port):
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        own = fleet.on(HOST, "docker", "inspect", "-f", form, other).strip()
        places = {"own": f"{own}:11434", "published": f"{fleet.address(HOST)}:{port}"}
        done = {
            name: fleet.lab.host(HOST).run(["sh", "-c", INSIDE, "ask", asker, place], check=False).stdout
            for name, place in places.items()
        }
        return {name for name, code in done.items() if code == "200"}

    return lambda: ask("ollama1", "ollama2", 3002) | ask("ollama2", "ollama1", 3001)


def answers(fleet, host):
    """Whether the first instance answers a host."""
    words = ["sh", "-c", f"{CURL} http://{fleet.address(HOST)}:3001/api/version"]
    return fleet.lab.host(host).run(words, check=False).stdout == "200"


def networks(fleet):
    """The networks on the host with our mark."""
    words = ("docker", "network", "ls", "--filter", "label=provision.managed=1", "--format", "network:{{.Name}}")
    return set(fleet.on(HOST, *words).split())


def failed(done):
    """The steps of the host that verify failed."""
    return {check["step"] for check in done.host(HOST)["checks"] if not check["passed"]}


def test_instances_with_networks_of_their_own_do_not_reach_each_other(fleet, settings, reached):
    assert reached() == {"own", "published"}, "the instances are closed to each other already: this test proves nothing"
    settings["network_pool"] = POOL
    plan = fleet.plan().host(HOST)["changes"]
    assert NETWORKS | CONTAINERS | {WALL} <= {change["step"] for change in plan}
    cost = [change["impact"] for change in plan if change["step"] in CONTAINERS]
    assert all("recreates" in text and "its streams finish first" in text for text in cost), cost
    run = fleet.deploy().doc["run"]
    assert networks(fleet) == NETWORKS
    assert reached() == set()
    assert answers(fleet, BALANCER)
    assert not answers(fleet, NEIGHBOUR)
    assert fleet.provision("plan", "--exit-code").code == 0
    done = fleet.provision("verify", "--json")
    assert [check for host in done.doc["hosts"] for check in host["checks"] if not check["passed"]] == []

    fleet.on(HOST, "iptables", "-D", *JUMP)
    assert reached() == {"published"}
    assert failed(fleet.provision("verify", "--json")) >= {WALL, *NETWORKS}
    assert fleet.changes()[HOST] == [WALL]
    fleet.on(HOST, "docker", "network", "connect", "bridge", "ollama1")
    assert {WALL, "container:ollama1"} <= set(fleet.changes()[HOST])
    fleet.deploy()
    assert reached() == set()
    fleet.on(HOST, "systemctl", "restart", "provision-firewall", "docker")
    assert reached() == set()
    # A start of Docker puts a rule before ours, which a deploy mends. While Docker starts a plan may fail.
    wait_for(lambda: fleet.provision("plan", "--json").code == 0 and fleet.changes()[HOST] in ([], [WALL]))
    fleet.deploy()

    assert fleet.provision("rollback", run, "--yes", "--json").code == 0
    assert networks(fleet) == set()
    assert reached() == {"own", "published"}
    assert " ".join(JUMP) not in fleet.on(HOST, "iptables", "-S", "INPUT")


def test_another_pool_moves_the_instances_and_none_brings_the_bridge_back(fleet, settings, reached):
    settings["network_pool"] = "10.213.0.0/24"
    fleet.deploy()
    settings["network_pool"] = "10.214.0.0/27"
    fleet.deploy()
    assert networks(fleet) == {f"network:ollama{number}.10.214.0.0-27" for number in (1, 2)}
    assert reached() == set()
    form = "{{range .IPAM.Config}}{{.Subnet}} {{end}}"
    names = (name.partition(":")[2] for name in sorted(networks(fleet)))
    assert fleet.on(HOST, "docker", "network", "inspect", "-f", form, *names).split() == [
        "10.214.0.0/28",
        "10.214.0.16/28",
    ]
    del settings["network_pool"]
    run = fleet.deploy().doc["run"]
    assert networks(fleet) == set()
    assert reached() == {"own", "published"}
    assert " ".join(JUMP) not in fleet.on(HOST, "iptables", "-S", "INPUT")
    assert fleet.provision("plan", "--exit-code").code == 0
    assert fleet.provision("rollback", run, "--yes", "--json").code == 0
    assert reached() == set()
    fleet.deploy()
    assert networks(fleet) == set()
