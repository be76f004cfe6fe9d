"""Fleets of another shape than the shared lab's: four balancers, and hosts of Debian 12. Each has a lab of its own."""

import pytest

from provision.lab.lab import Lab
from provision.lab.spec import Spec
from provision.steps.nginx.generation import GENERATIONS
from provision.steps.nginx_paths import CONFIG, CURRENT
from tests.fleet import NAME, Fleet

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
BALANCERS = ["lb-01", "lb-02", "lb-03", "lb-04"]


@pytest.fixture
def made(tmp_path):
    """Make a lab, which goes down after the test."""
    labs = []

    def make(spec):
        labs.append(Lab.up(spec, install=True))
        return Fleet(labs[-1], tmp_path)

    yield make
    for lab in labs:
        lab.down()


def first(fleet):
    """Deploy to the bare hosts; each of them changes."""
    done = fleet.provision("deploy", "--yes", "--json", timeout=1800)
    assert done.code == 0, done
    assert {host["result"] for host in done.doc["hosts"]} == {"changed"}


def settled(fleet):
    """A plan finds nothing to do, and verify passes."""
    assert fleet.provision("plan", "--exit-code").code == 0
    verified = fleet.provision("verify", "--json")
    assert verified.code == 0, verified


def queues(fleet):
    """Balancer -> the limits of requests in its upstream."""
    texts = {name: fleet.on(name, "cat", f"{CONFIG}/upstream.conf") for name in BALANCERS}
    return {name: {word for word in text.split() if word.startswith("max_conns=")} for name, text in texts.items()}


def test_four_balancers_share_a_build_and_change_one_at_a_time(made):
    fleet = made(Spec(f"{NAME}-four", 1, 4, 1))
    first(fleet)
    compilers = [name for name in BALANCERS if fleet.on(name, "sh", "-c", "command -v gcc || :").strip()]
    assert len(compilers) == 1, "nginx is compiled on the first balancer, and installed on the other three"
    assert len({fleet.on(name, "sha256sum", f"{CURRENT}/sbin/nginx") for name in BALANCERS}) == 1
    settled(fleet)
    old = queues(fleet)
    fleet.vars["balancer"] = {"queue": 30}
    fleet.on("lb-02", "mount", "--bind", GENERATIONS, GENERATIONS)
    fleet.on("lb-02", "mount", "-o", "remount,bind,ro", GENERATIONS)
    try:
        halted = fleet.provision("deploy", "--yes", "--json")
    finally:
        fleet.on("lb-02", "umount", GENERATIONS)
    assert halted.code == 5, halted
    assert (halted.host("lb-01")["changed"], halted.host("lb-02")["result"]) == (["config:balancer"], "failed")
    now = queues(fleet)
    assert [name for name in BALANCERS if now[name] != old[name]] == ["lb-01"], (
        "a balancer after the failed one changed"
    )
    done = fleet.deploy()
    assert {name: done.host(name)["changed"] for name in BALANCERS} == {
        name: [] if name == "lb-01" else ["config:balancer"] for name in BALANCERS
    }
    assert len({frozenset(limits) for limits in queues(fleet).values()}) == 1
    settled(fleet)


def test_hosts_of_debian_12_are_deployed_and_verified(made):
    fleet = made(Spec(f"{NAME}-old", 1, 1, 1, release="bookworm"))
    assert "bookworm" in fleet.on("gpu-01", "cat", "/etc/os-release")
    first(fleet)
    settled(fleet)
    fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]["memory"] = "4g"
    done = fleet.deploy()
    assert "container:ollama1" in done.host("gpu-01")["changed"]
    settled(fleet)
