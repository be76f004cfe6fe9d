"""A container is replaced with the old container stopped and kept, until the new container has passed its test."""

import contextlib

import pytest

from provision.lab import faults
from tests.faults.running import Running

from .conftest import Fleet, serves_again, wait_for

pytestmark = pytest.mark.lab
HOST, OLD = "gpu-01", "ollama1.PREVIOUS"
STATE = "{{.Name}} {{.State.Status}} {{.HostConfig.RestartPolicy.Name}} {{.Id}}"


def containers(fleet: Fleet) -> dict[str, list[str]]:
    """Container of the host -> status, restart policy and id."""
    lines = fleet.on(HOST, "sh", "-c", f"docker inspect -f '{STATE}' $(docker ps -aq)").splitlines()
    return {name.lstrip("/"): rest for name, *rest in (line.split() for line in lines)}


def too_small(fleet: Fleet, memory: str) -> dict:
    """Give an instance so little memory that its server is killed; return the instance's settings."""
    one = fleet.hosts("gpu")[HOST]["ollama"]["instances"][0]
    one["memory"] = memory
    return one


@pytest.mark.matrix
def test_after_a_failed_start_one_command_starts_the_old_container_again_without_a_registry(fleet, lab):
    before = containers(fleet)
    one = too_small(fleet, "6m")
    failed = fleet.provision("deploy", "--yes")
    assert failed.code == 7, failed
    run = failed.out.rpartition(" · run ")[2].split()[0]
    assert "at container:ollama1" in failed.out
    assert f"`provision rollback {run}` starts {OLD} again" in failed.out
    assert f"or start the old containers again: provision rollback {run} -i " in failed.out
    now = containers(fleet)
    assert now[OLD] == ["exited", "no", before["ollama1"][2]], "stopped, as it was made"
    assert now["ollama1"][2] != before["ollama1"][2], "the evidence stays"
    again = fleet.provision("deploy", "--yes")
    assert again.code in (3, 7), again
    assert f"a rollback of the run that stopped it (`provision history`) starts {OLD} again" in again.out
    assert containers(fleet)[OLD] == now[OLD], "a second try keeps what the first try kept"
    faults.switch(lab, "site", "registry-down", on=True)
    try:
        back = fleet.provision("rollback", run, "--yes", "--json")
        assert back.code == 0, back
    finally:
        faults.switch(lab, "site", "registry-down", on=False)
    assert containers(fleet) == before, "the very same container, and nothing beside"
    del one["memory"]
    assert not any(fleet.changes().values())


@pytest.mark.matrix
def test_a_host_that_loses_power_within_a_replacement_gets_its_old_container_back_by_one_command(fleet, lab):
    before = containers(fleet)
    one = too_small(fleet, "16m")
    running = Running(fleet, "deploy", "--yes", "--limit", HOST)
    try:
        wait_for(lambda: OLD in containers(fleet))
        running.kill()
        faults.switch(lab, HOST, "power-off", on=True)
    finally:
        running.kill()
        running.end()
        with contextlib.suppress(Exception):
            faults.switch(lab, HOST, "power-off", on=False)
    wait_for(lambda: fleet.provision("plan").code == 0)
    assert containers(fleet)[OLD] == ["exited", "no", before["ollama1"][2]], "the boot does not start it"
    assert {"container:ollama1", "previous:ollama1"} & set(fleet.changes()[HOST]), "the next plan sees it"
    back = fleet.provision("rollback", "--yes", "--json")
    assert back.code == 0, back
    assert containers(fleet)["ollama1"] == before["ollama1"]
    assert containers(fleet).keys() == before.keys()
    del one["memory"]
    serves_again(fleet)


def test_a_container_that_a_dead_run_kept_goes_once_the_present_one_has_passed(fleet):
    image = fleet.on(HOST, "docker", "inspect", "-f", "{{.Config.Image}}", "ollama1").strip()
    labels = ["--label", "provision.managed=1", "--label", "provision.instance=ollama1"]
    fleet.on(HOST, "docker", "create", "--name", OLD, *labels, "--volume", "ollama1:/root/.ollama", image)
    failed = fleet.provision("verify", "--limit", HOST)
    assert failed.code == 5, failed
    assert "previous:ollama1" in failed.out
    assert "provision deploy" in failed.out
    assert fleet.changes() == {"gpu-01": ["previous:ollama1"], "gpu-02": [], "lb-01": []}
    faults.switch(fleet.lab, f"{HOST}/ollama1", "stream-fails", on=True)
    try:
        refused = fleet.provision("deploy", "--yes", "--json")
    finally:
        faults.switch(fleet.lab, f"{HOST}/ollama1", "stream-fails", on=False)
    assert refused.code == 3, refused
    assert "keeps its previous container" in refused.host(HOST)["why"]
    assert OLD in containers(fleet)
    assert fleet.deploy().host(HOST)["changed"] == ["previous:ollama1"]
    assert containers(fleet).keys() == {"ollama1", "ollama2"}
    assert fleet.provision("verify", "--limit", HOST).code == 0
