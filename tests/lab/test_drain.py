"""Drained instances stay out, whatever happens to any host, until an operator gives them back."""

import json
import re
import signal

import pytest

from provision.lab import faults
from provision.runs.log import Logs, default_folder
from provision.steps.nginx import member_update
from tests.faults.running import Running

from .conftest import serves_again, wait_for
from .test_rolling import containers, down, replaced, upstream

pytestmark = pytest.mark.lab
HOST = {"gpu-02/ollama1", "gpu-02/ollama2"}


@pytest.fixture(autouse=True)
def given_back(fleet):
    yield
    fleet.provision("undrain", "gpu-01", "gpu-02", "--json")
    assert down(fleet) == set()


def shown(done) -> dict[str, str]:
    """The drained instances of a document, with the operator's reasons."""
    return {each["instance"]: each["why"] for each in done.doc["drained"]}


@pytest.mark.matrix
def test_a_dead_host_is_drained_and_stays_so_over_deploys_and_reboots(fleet, lab):
    lab.cut("gpu-02")
    try:
        done = fleet.provision("drain", "gpu-02", "-m", "a new driver", "--json")
        assert done.code == 0, done
        assert set(done.host("lb-01")["instances"]) == HOST
        limited = fleet.provision("deploy", "--yes", "--json", "--limit", "gpu-01,lb-01")
        assert limited.code == 0, limited
        assert down(fleet) == HOST
    finally:
        lab.uncut("gpu-02")
    for host in ("gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=True)
        faults.switch(lab, host, "power-off", on=False)
    serves_again(fleet)
    assert shown(fleet.deploy()) == dict.fromkeys(HOST, "a new driver")
    assert down(fleet) == HOST
    plan = fleet.provision("plan")
    assert "drained: gpu-02/ollama1 since 20" in plan.out
    assert "a new driver" in plan.out
    proven = fleet.provision("verify")
    assert proven.code == 0, proven
    assert "drained: gpu-02/ollama1 since 20" in proven.out
    back = fleet.provision("undrain", "gpu-02", "--json")
    assert back.code == 0, back
    assert down(fleet) == set()
    assert shown(fleet.plan()) == {}


def test_the_last_instances_of_a_model_are_drained_only_by_force(fleet, lab):
    every = ("gpu-01", "gpu-02")
    for words in ((), ("--json",)):
        done = fleet.provision("drain", *every, *words)
        assert done.code == 7, done
        assert "gpu-01/ollama1, gpu-01/ollama2, gpu-02/ollama1, gpu-02/ollama2 are the last that serve" in done.err
        assert down(fleet) == set()
    assert fleet.provision("drain", "gpu-02").code == 0
    rest = fleet.provision("drain", "gpu-01", "--json")
    assert rest.code == 7, "a drained instance serves nobody"
    assert "gpu-01/ollama1, gpu-01/ollama2 are the last that serve" in rest.doc["error"]["message"]
    assert fleet.provision("drain", "gpu-02").code == 0, "draining a drained instance takes nothing away"
    assert down(fleet) == HOST
    assert fleet.provision("drain", "gpu-01", "--force").code == 0
    assert down(fleet) == HOST | {"gpu-01/ollama1", "gpu-01/ollama2"}
    assert fleet.on("lb-01", "sh", "-c", "cat /run/provision/lock 2>/dev/null || :") == ""


@pytest.mark.matrix
def test_a_drained_instance_is_replaced_without_getting_requests(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama1", "--json").code == 0
    before = containers(lab)
    fleet.vars["ollama"]["log_max_file"] = 4
    fleet.deploy("--limit", "gpu-01")
    assert replaced(before, containers(lab)) == {"gpu-01/ollama1", "gpu-01/ollama2"}
    assert down(fleet) == {"gpu-01/ollama1"}
    del fleet.vars["ollama"]["log_max_file"]
    fleet.deploy("--limit", "gpu-01")
    assert down(fleet) == {"gpu-01/ollama1"}


def test_an_instance_that_cannot_serve_is_not_given_back(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama1", "--json").code == 0
    faults.switch(lab, "gpu-01/ollama1", "stream-fails", on=True)
    try:
        done = fleet.provision("undrain", "gpu-01/ollama1", "--json")
        assert done.code == 3, done
        assert "not fit to serve" in done.host("gpu-01")["why"]
        assert down(fleet) == {"gpu-01/ollama1"}
    finally:
        faults.switch(lab, "gpu-01/ollama1", "stream-fails", on=False)


def test_a_second_drain_replaces_the_first(fleet, lab):
    first = fleet.provision("drain", "gpu-01/ollama1", "-m", "one", "--json")
    again = fleet.provision("drain", "gpu-01/ollama1", "-m", "two", "--json")
    assert [first.host("lb-01")["result"], again.host("lb-01")["result"]] == ["changed", "changed"]
    assert shown(fleet.plan()) == {"gpu-01/ollama1": "two"}
    assert upstream(fleet).count("# drained") == 1


def test_draining_is_written_down_and_locked(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama1", "-m", "for the record", "--json").code == 0
    runs = json.loads(fleet.provision("history", "--json", "-n", "3").out)
    assert any(run["command"].startswith("drain gpu-01/ollama1") for run in runs["runs"]), runs
    assert fleet.provision("lock", "acquire", "-m", "mine", "--limit", "lb-01").code == 0
    try:
        refused = fleet.provision("undrain", "gpu-01/ollama1", "--json")
    finally:
        fleet.provision("lock", "release", "--limit", "lb-01")
    assert refused.code == 6, refused
    assert refused.host("lb-01")["result"] == "locked"


def test_ctrl_c_leaves_the_mark_that_is_made_and_gives_the_lock_back(fleet, lab):
    running = Running(fleet, "drain", "gpu-02", "-v", hold_at=r"^lb-01 +changing +config:balancer")
    running.until_held()
    running.signal(signal.SIGINT)
    running.go()
    done = running.end()
    assert done.code == 130, done
    assert "lb-01  gpu-02/ollama1, gpu-02/ollama2  STOPPED" in done.out
    again = done.out.partition("again: provision ")[2].split()
    assert again[:2] == ["drain", "gpu-02"]
    assert fleet.on("lb-01", "sh", "-c", "cat /run/provision/lock 2>/dev/null || :") == ""
    log = Logs(default_folder()).find(re.search(r"· run (\S+)", done.out)[1])
    assert (log.command, log.exit, log.hosts) == ("drain gpu-02", 130, {"lb-01": "stopped"})
    assert fleet.provision(*again).code == 0
    assert down(fleet) == HOST
    shown = fleet.provision("show", log.run)
    assert "gpu-02/ollama1, gpu-02/ollama2 drained" in shown.out, shown


def test_a_connection_that_is_still_being_made_is_waited_for(lab):
    """A request follows over the new connection in a moment; an instance stopped before would cut the request."""
    balancer, at = lab.host("lb-01"), f"{lab.host('gpu-02').address}:3001"
    lost = ["OUTPUT", "-p", "tcp", "--sport", "45001", "-j", "DROP"]
    waiting = member_update.wait([at], 0, "/api/version")

    def left() -> str:
        return balancer.run(waiting.words, stdin=waiting.stdin.decode()).stdout

    wait_for(lambda: left() == "open 0\n")  # workers of before a reload may still be ending
    balancer.run(["iptables", "-w", "-I", *lost])
    balancer.run(["cp", "/usr/bin/curl", "/root/nginx"])
    try:
        asking = f"/root/nginx -m 120 --local-port 45001 http://{at}/ >/dev/null 2>&1 & echo $!"
        number = balancer.run(["sh", "-c", asking]).stdout.strip()
        wait_for(lambda: "SYN-SENT" in balancer.run(["ss", "-Htn", "state", "all", "dst", at]).stdout)
        assert left() == "open 1\n"
        balancer.run(["kill", number])
        wait_for(lambda: left() == "open 0\n")
    finally:
        balancer.run(["iptables", "-w", "-D", *lost])
        balancer.run(["rm", "/root/nginx"])
