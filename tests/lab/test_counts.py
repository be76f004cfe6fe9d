"""The cost of a run, counted by the hosts: logins by sshd, execs by sudo, compilations by the files they leave.

A run's time consists of round trips; these numbers keep it short, on any machine.
"""

from dataclasses import dataclass

import pytest

from . import programs
from .conftest import Fleet

pytestmark = pytest.mark.lab
GPU, BALANCER = ["gpu-01", "gpu-02"], ["lb-01"]
OURS = "COMMAND=/usr/bin/sh -s"  # an exec of ours; any other command is from the test


@dataclass(frozen=True)
class Cost:
    """The cost of a command, as a host counts it."""

    logins: int
    execs: int


class Counter:
    """Counts from now on.

    Args:
        fleet: the hosts.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.cursors = {name: self._cursor(name) for name in GPU + BALANCER}

    def _cursor(self, host: str) -> str:
        self.fleet.on(host, "journalctl", "--sync")  # the journal may not have the lines of the test before yet
        said = self.fleet.on(host, "journalctl", "--quiet", "--lines=0", "--show-cursor")
        return said.partition("-- cursor: ")[2].strip()

    def costs(self) -> dict[str, Cost]:
        """The cost on every host so far."""
        return {name: self._cost(name) for name in self.cursors}

    def _cost(self, host: str) -> Cost:
        cursor = f"--after-cursor={self.cursors[host]}"
        self.fleet.on(host, "journalctl", "--sync")
        lines = self.fleet.on(host, "journalctl", "--quiet", "--output=cat", cursor).splitlines()
        logins = sum("Accepted publickey for ops" in line for line in lines)
        return Cost(logins, sum(line.endswith(OURS) for line in lines))


@pytest.mark.parametrize("words", [("deploy", "--yes"), ("plan",)], ids=["deploy", "plan"])
def test_a_run_that_changes_nothing_is_one_login_and_one_exec_a_host(fleet, words):
    counter = Counter(fleet)
    done = fleet.provision(*words, "--json")
    assert done.code == 0, done
    assert {host["result"] for host in done.doc["hosts"]} == {"ok"}
    assert counter.costs() == dict.fromkeys(GPU + BALANCER, Cost(1, 1))


def test_a_changed_weight_is_three_execs_on_the_balancer_and_none_more_on_the_others(fleet):
    """Read; lock and read again; write, reload, read again and give the lock back."""
    instance = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    for weight in (3, 1):
        instance["weight"] = weight
        counter = Counter(fleet)
        done = fleet.deploy()
        assert {host["host"]: host["changed"] for host in done.doc["hosts"]} == {
            "gpu-01": [],
            "gpu-02": [],
            "lb-01": ["config:balancer"],
        }
        assert counter.costs() == {**dict.fromkeys(GPU, Cost(1, 1)), "lb-01": Cost(1, 3)}
        assert f"weight={weight} " in fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf")


@pytest.mark.matrix
def test_a_changed_model_list_is_few_execs(fleet):
    """Read; lock and read again; the log of each pull and load, and the proof of each change; the lock."""
    for models in (["deepseek-r1:1.5b", "qwen3:8b"], ["deepseek-r1:1.5b"]):
        fleet.vars["ollama"]["models"] = models
        counter = Counter(fleet)
        done = fleet.deploy("--limit", "gpu-01")
        changed = len(done.host("gpu-01")["changed"])
        assert changed > 0
        cost = counter.costs()["gpu-01"]
        assert cost.logins == 1
        assert cost.execs <= 3 + 4 * changed, done


def test_a_replaced_container_is_few_execs_and_programs(fleet, lab, tmp_path):
    """Read; lock and read again; replace and start; load the models; test; remove the previous container, read again
    and give the lock back."""
    one = fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]
    one["memory"] = "4g"
    counter = Counter(fleet)
    with programs.started(lab.host("gpu-01"), tmp_path) as started:
        done = fleet.deploy("--limit", "gpu-01")
    assert done.host("gpu-01")["changed"] == ["container:ollama1", "resident:ollama1"]
    cost = counter.costs()["gpu-01"]
    assert (cost.logins, cost.execs <= 12) == (1, True), cost  # 11 measured; the log of a slow load may take one more
    assert started["docker"] <= 60, started  # 45 measured; each look at a slow start asks Docker once more
    del one["memory"]
    fleet.deploy("--limit", "gpu-01")


def test_verify_asks_a_host_over_one_login_and_looks_at_docker_once(fleet):
    counter = Counter(fleet)
    done = fleet.provision("verify", "--json")
    assert done.code == 0, done
    steps = {host["host"]: len({check["step"] for check in host["checks"]}) for host in done.doc["hosts"]}
    for name, cost in counter.costs().items():
        assert cost.logins == 1
        assert cost.execs <= (1.5 if name in GPU else 2) * steps[name], name
