"""The stages as Fabric tasks: the program `fab` on the hosts of the lab, as README says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab
ROTATION = "/etc/logrotate.d/provision-nginx"
FOLDER = subprocess.run(
    [sys.executable, "-m", "provision.fabfile"], capture_output=True, text=True, check=True
).stdout.strip()


def fab(fleet, *words):
    """Run `fab` with the inventory of the test."""
    inventory = fleet.command()[-1]
    program = Path(sys.executable).with_name("fab")
    return subprocess.run(
        [str(program), "-r", FOLDER, *words, "--inventory", inventory],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env=fleet.environment,
    )


def test_a_stage_is_planned_and_deployed_on_its_hosts_alone(fleet):
    balancer, gpu = "lb-01", "gpu-01"
    fleet.on(balancer, "rm", ROTATION)
    fleet.on(gpu, "rm", "/etc/provision/ollama/instances")
    planned = fab(fleet, "-H", balancer, "nginx", "--check")
    assert planned.returncode == 0, planned
    assert f"file:{ROTATION}" in planned.stdout
    assert fleet.on(balancer, "ls", "/etc/logrotate.d").count("provision-nginx") == 0, "--check changed the host"
    done = fab(fleet, "-H", balancer, "nginx")
    assert done.returncode == 0, done
    assert fleet.changes() == {"gpu-01": ["file:/etc/provision/ollama/instances"], "gpu-02": [], balancer: []}
    both = fab(fleet, "-H", "gpu-01,gpu-02", "ollama")
    assert both.returncode == 0, both
    assert fleet.provision("plan", "--exit-code").code == 0
    newest = fleet.provision("history", "--json", "-l", "gpu-02").doc["runs"][0]
    assert [host["host"] for host in newest["hosts"]] == ["gpu-02"], "the second task is a run of its own"


def test_a_failed_stage_fails_fab_and_names_an_unknown_host(fleet):
    unknown = fab(fleet, "-H", "gpu-09", "docker", "--check")
    assert unknown.returncode != 0, unknown
    assert "gpu-09" in unknown.stdout + unknown.stderr
    fleet.lab.cut("gpu-01")
    try:
        failed = fab(fleet, "-H", "gpu-01,gpu-02", "docker", "--check")
    finally:
        fleet.lab.uncut("gpu-01")
    assert failed.returncode == 4, failed
    assert "UNREACHABLE" in failed.stdout
