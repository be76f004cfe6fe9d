"""The pace at which a run goes through its hosts, and the operator's own hooks."""

import json

import pytest

pytestmark = pytest.mark.lab
TELL = '#!/bin/sh\ncat >"$PROVISION_EVENT.json"\nexit {code}\n'


@pytest.fixture
def hook(fleet):
    """Puts a hook beside the inventory that writes down its input."""
    folder = fleet.folder / "hooks"
    folder.mkdir()

    def put(name, code=0):
        path = folder / name
        path.write_text(TELL.format(code=code))
        path.chmod(0o755)

    return put


def told(fleet, event):
    path = fleet.folder / f"{event}.json"
    return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def gone(fleet, lab):
    """gpu-01 is out of reach; afterwards the balancer sends requests to gpu-01 again."""
    lab.cut("gpu-01")
    yield
    lab.uncut("gpu-01")
    fleet.deploy()


def results(done):
    return {host["host"]: host["result"] for host in done.doc["hosts"]}


def test_one_host_after_the_other(fleet):
    for host in ("gpu-01", "gpu-02"):
        fleet.on(host, "chmod", "0644", "/opt/provision/lib/docker-notes")
    done = fleet.provision("deploy", "--yes", "-v", "--serial", "1")
    assert done.code == 0, done
    rows = [line.split() for line in done.err.splitlines() if " file:/opt/provision/lib/docker-notes " in line]
    order = [row[:2] for row in rows if row[1] != "command"]
    assert order == [[host, kind] for host in ("gpu-01", "gpu-02") for kind in ("changing", "changed")]


def test_more_failures_than_allowed_stop_the_run(fleet, gone):
    done = fleet.provision("deploy", "--yes", "--json", "--serial", "1", "--max-fail", "0")
    assert done.code == 7, done
    assert results(done) == {"gpu-01": "unreachable", "gpu-02": "stopped", "lb-01": "stopped"}
    assert "--max-fail allows 0" in done.host("gpu-02")["why"]


def test_the_first_host_goes_alone_and_gates_the_others(fleet, gone):
    done = fleet.provision("deploy", "--yes", "--json", "--canary")
    assert done.code == 7, done
    assert results(done) == {"gpu-01": "unreachable", "gpu-02": "stopped", "lb-01": "stopped"}
    assert "gpu-01, which went first, failed" in done.host("gpu-02")["why"]


def test_hooks_are_told_the_run_before_and_after(fleet, hook):
    hook("pre-deploy")
    hook("post-deploy")
    hook("on-failure")
    done = fleet.deploy()
    before, after = told(fleet, "pre-deploy"), told(fleet, "post-deploy")
    assert before["run"] == after["run"] == done.doc["run"]
    assert set(before["hosts"]) == {"gpu-01", "gpu-02", "lb-01"}
    assert after["exit"] == 0
    assert {host["host"]: host["result"] for host in after["hosts"]} == results(done)
    assert told(fleet, "on-failure") is None


def test_a_failure_has_a_hook_of_its_own(fleet, hook, gone):
    hook("post-deploy")
    hook("on-failure")
    done = fleet.provision("deploy", "--yes", "--json")
    assert done.code == 4, done
    assert told(fleet, "on-failure")["exit"] == 4
    assert told(fleet, "post-deploy") is None


def test_a_hook_that_fails_before_keeps_every_host_from_being_touched(fleet, hook):
    hook("pre-deploy", code=3)
    fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]["weight"] = 3
    done = fleet.provision("deploy", "--yes", "--json")
    assert done.code == 7, done
    assert "pre-deploy ended with exit code 3" in done.doc["error"]["message"]
    del fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]["weight"]
    assert not any(fleet.changes().values())
