"""The main job: bare hosts become an endpoint, and stay untouched when nothing differs."""

import threading

import pytest

from provision.artifacts.store import Store
from provision.plan import role_choice, role_interface
from provision.rollout.outcome import selection
from provision.rollout.waves import Rollout
from provision.runs.context import Context

from .conftest import serves_again

pytestmark = pytest.mark.lab
HOSTS = ["gpu-01", "gpu-02", "lb-01"]
# Files that a login, a journal and the log of an asked container write, on any host at any time.
WRITTEN_ANYWAY = ("/var/log/", "/run/", "/proc/", "/sys/", "/dev/", "/tmp/", "/var/lib/systemd/", "-json.log")


def test_bare_hosts_become_an_endpoint(first_deploy):
    assert {host["host"]: host["result"] for host in first_deploy.doc["hosts"]} == dict.fromkeys(HOSTS, "changed")
    assert first_deploy.doc["summary"]["failed"] == 0


def test_a_second_deploy_changes_nothing(fleet):
    again = fleet.provision("deploy", "--yes", "--json", env={"PYTHONHASHSEED": "1"})  # sets come in another order
    assert {host["host"]: (host["result"], host["changed"]) for host in again.doc["hosts"]} == {
        name: ("ok", []) for name in HOSTS
    }
    assert fleet.changes() == {name: [] for name in HOSTS}
    assert fleet.provision("plan", "--exit-code").code == 0


def test_a_deploy_that_changes_nothing_writes_nothing(fleet):
    before = {name: fleet.on(name, "date", "+%s.%N").strip() for name in HOSTS}
    fleet.deploy()
    for name in HOSTS:
        words = (
            "find",
            "/",
            "/var/lib/docker",
            "-xdev",
            "-newerct",
            f"@{before[name]}",
            "(",
            "-type",
            "f",
            "-o",
            "-type",
            "d",
            ")",
        )
        written = [
            path
            for path in fleet.on(name, *words).splitlines()
            if not any(part in path + "/" for part in WRITTEN_ANYWAY)
        ]
        assert written == [], name


def test_a_deploy_that_changes_nothing_is_one_connection_and_one_exec_a_host(fleet, tmp_path):
    fleet.plan()  # writes the inventory
    inventory = role_interface.load(str(fleet.folder / "inventory.yaml"))
    roles = role_choice.choose((), ())
    context = Context("run", inventory, roles, lambda event: None, Store(tmp_path), threading.Event())
    rollout = Rollout(context, selection(inventory, inventory.hosts, roles), None, 8)
    outcomes = rollout.deploy()
    rollout.close()
    assert [(outcome.result, outcome.error) for outcome in outcomes] == [("ok", None)] * 3
    assert [(m.run.session.connects, m.run.session.execs) for m in rollout.members] == [(1, 1)] * 3


def test_everything_is_verified(fleet):
    done = fleet.provision("verify", "--json")
    assert done.code == 0, done
    assert done.doc["summary"]["failed"] == 0
    assert done.doc["summary"]["checks"] > 100
    assert {host["result"] for host in done.doc["hosts"]} == {"passed"}


def test_a_limit_leaves_the_upstream_whole(fleet):
    before = fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf")
    assert fleet.deploy("--limit", "gpu-01").doc["summary"]["changed"] == 0
    assert fleet.deploy("--limit", "lb-01").doc["summary"]["changed"] == 0
    assert fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf") == before
    assert before.count("server ") == 4


def test_a_host_that_cannot_be_reached_is_down_in_the_upstream_and_comes_back(fleet, lab):
    lab.host("gpu-02").stop()
    try:
        done = fleet.provision("deploy", "--yes", "--json")
        assert done.code == 4, done
        assert {host["host"]: host["result"] for host in done.doc["hosts"]} == {
            "gpu-01": "ok",
            "gpu-02": "unreachable",
            "lb-01": "changed",
        }
        upstream = fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf")
        assert [line.split()[1].split(":")[0] for line in upstream.splitlines() if " down" in line] == [
            fleet.address("gpu-02")
        ] * 2
        # A run that does not visit the dead host leaves its mark alone.
        assert fleet.deploy("--limit", "lb-01").doc["summary"]["changed"] == 0
    finally:
        lab.host("gpu-02").start()
        lab.host("gpu-02").wait()
    serves_again(fleet, "gpu-02")
    done = fleet.deploy()
    assert done.host("lb-01")["changed"] == ["config:balancer"]
    assert fleet.provision("verify", "--json").code == 0


def test_trust_shows_what_the_hosts_show_and_writes_it(fleet, lab, tmp_path):
    known = tmp_path / "ssh" / "known_hosts"
    fleet.vars["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={known}"
    assert fleet.provision("plan", "--json").code == 4
    refused = fleet.provision("trust")
    assert refused.code == 2, refused
    assert not known.exists()
    done = fleet.provision("trust", "--yes")
    assert done.code == 0, done
    shown = lab.host("gpu-01").run(["ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout.split()[1]
    assert shown in done.out
    assert fleet.provision("plan", "--json").code == 0
