"""The record of runs on real hosts: history, show, the audit line, and no record of a run without a change."""

import re

import pytest

from tests.faults.test_clock import off, right
from tests.faults.world import BAD, World

pytestmark = pytest.mark.lab
JOURNAL, STORE = "/var/lib/provision/journal", "/var/lib/provision/store"


def history(fleet, *words):
    done = fleet.provision("history", "--json", *words)
    assert done.code == 0, done
    return done.doc["runs"]


def written(fleet, host):
    """Every file of the journal and its store, with size and mode."""
    text = f"find {JOURNAL} {STORE} -printf '%p %s %m\\n' 2>/dev/null || :"
    return fleet.on(host, "sh", "-c", text).splitlines()


def test_a_change_is_in_the_history_of_the_hosts_it_was_made_on_and_told_step_by_step(fleet):
    fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"][0]["weight"] = 7
    run = fleet.deploy().doc["run"]
    newest = history(fleet, "-n", "1")[0]
    assert (newest["run"], newest["command"], "@" in newest["who"]) == (run, "deploy", True)
    assert [(host["host"], host["result"], host["change_count"]) for host in newest["hosts"]] == [
        ("lb-01", "changed", 1)
    ]
    shown = fleet.provision("show", run, "--json")
    assert {host["host"]: host["result"] for host in shown.doc["hosts"]} == {
        "gpu-01": "none",
        "gpu-02": "none",
        "lb-01": "changed",
    }
    [change] = shown.host("lb-01")["changes"]
    assert (change["step"], change["action"], change["result"]) == ("config:balancer", "change", "done")
    text = fleet.provision("show", run)
    assert "config:balancer" in text.out
    assert run in fleet.provision("history").out
    audit = fleet.on("lb-01", "journalctl", "-q", "-t", "provision", "-o", "cat")
    assert re.search(rf"^run {run} by \S+: deploy, 1 step, changed$", audit, re.MULTILINE)


def test_a_run_that_changes_nothing_leaves_no_trace(fleet):
    fleet.deploy()
    before = {host: written(fleet, host) for host in ("gpu-01", "gpu-02", "lb-01")}
    fleet.deploy()
    assert {host: written(fleet, host) for host in before} == before


def test_the_journal_is_for_root_alone(fleet):
    lines = written(fleet, "lb-01")
    assert {line.rsplit(" ", 1)[1] for line in lines} == {"700", "600"}
    assert any(line.startswith(f"{JOURNAL}/") for line in lines)


def test_a_failure_is_recorded_with_its_place_and_exit_code(fleet, lab):
    lab.host("gpu-01").run(
        ["sh", "-c", "mkdir /etc/docker/daemon.json.provision-new; touch /etc/docker/daemon.json.provision-new/x"]
    )
    fleet.vars.setdefault("docker", {})["log_max_file"] = 5
    done = fleet.provision("deploy", "--yes", "--json", "--limit", "gpu-01")
    lab.host("gpu-01").run(["rm", "-r", "/etc/docker/daemon.json.provision-new"])
    assert done.code == 3, done
    newest = history(fleet)[0]
    assert newest["run"] == done.doc["run"]
    [host] = [one for one in newest["hosts"] if one["host"] == "gpu-01"]
    assert (host["result"], host["step"]) == ("failed", "docker_config:daemon.json")
    [change] = fleet.provision("show", newest["run"], "--json").host("gpu-01")["changes"]
    assert (change["result"], change["exit"]) == ("failed", 1)
    del fleet.vars["docker"]["log_max_file"]
    fleet.deploy()


def test_a_damaged_journal_hides_nothing_else(fleet, lab):
    lab.host("lb-01").write(f"{JOURNAL}/20990101T000000Z-ffff.jsonl", '\x1b[2J{"record":\n\x00\x01{"record": []}\n')
    runs = history(fleet)
    assert len(runs) > 1
    assert fleet.provision("show", "20990101T000000Z-ffff", "--json").code == 0
    said = fleet.provision("history")
    assert "\x1b[2J" not in said.out
    lab.host("lb-01").run(["rm", f"{JOURNAL}/20990101T000000Z-ffff.jsonl"])


def test_an_unknown_run_is_reported_as_unknown(fleet):
    for run in ("20200101T000000Z-0000", "nonsense"):
        done = fleet.provision("show", run)
        assert done.code == 2, done
        assert "provision history" in done.err


def test_a_host_that_is_not_there_does_not_hide_what_the_others_know(fleet, lab):
    from provision.lab import faults

    faults.switch(lab, "gpu-02", "ssh-reset", on=True)
    done = fleet.provision("history", "--json")
    faults.switch(lab, "gpu-02", "ssh-reset", on=False)
    assert done.code == 4, done
    assert done.doc["runs"]
    assert done.host("gpu-02")["result"] == "unreachable"


def test_a_clock_that_is_a_year_ahead_deletes_no_journal_and_is_told(fleet, lab, tmp_path):
    world = World(fleet, lab, tmp_path)
    changed = "echo '# by hand' >>/opt/provision/lib/docker-notes"
    fleet.on(BAD, "sh", "-c", changed)
    before = [fleet.deploy("--limit", BAD).doc["run"]]
    known = [run["run"] for run in history(fleet, "--limit", BAD)]
    assert before[0] in known
    off(365)(world)
    try:
        planned = fleet.provision("plan", "--limit", BAD)
        assert planned.code == 0, planned
        [told] = [line for line in planned.err.splitlines() if "clock" in line]
        assert f"{BAD}: the host's clock is 365 days ahead of this machine's" in told
        fleet.on(BAD, "sh", "-c", changed)
        done = fleet.deploy("--limit", BAD)
        assert [f"{BAD}: the host's clock" in said for said in done.doc["warnings"] if "clock" in said] == [True]
        assert done.host(BAD)["result"] == "changed"
    finally:
        right(world)
    assert [run["run"] for run in history(fleet, "--limit", BAD)] == [done.doc["run"], *known]
    assert not [said for said in fleet.plan().doc["warnings"] if "clock" in said]
