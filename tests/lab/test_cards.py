"""Faults of one card of several: its instance fails and is down in the upstream, and the host's other instances go
on."""

import json

import pytest

from provision.lab import faults
from provision.steps import nvidia_smi

from .conftest import Fleet
from .test_change import cards, containers, instances, settled, started, upstream

pytestmark = pytest.mark.lab
SHEET = "/etc/provision-lab/gpus.json"
RECORD = f"file:{nvidia_smi.RECORD}"
# Somebody runs ollama2 anew on the card or MIG device $1, with the label of ours.
MOVED = """
at=$(docker port ollama2 11434); image=$(docker inspect -f '{{.Config.Image}}' ollama2); docker rm -f ollama2
docker run -d --name ollama2 --label provision.managed=1 --gpus "device=$1" -p "$at:11434" \
  --mount type=volume,source=ollama2,target=/root/.ollama "$image"
"""
GIVEN = "{{(index .HostConfig.DeviceRequests 0).DeviceIDs}}"


def down(fleet: Fleet) -> list[str]:
    """host/instance of every server line that is down."""
    text = fleet.on("lb-01", "cat", "/etc/provision/nginx/upstream.conf")
    return [line.split("#")[1].strip() for line in text.splitlines() if " down;" in line]


def given(fleet: Fleet) -> str:
    """The card that Docker gave to ollama2 of gpu-01."""
    return fleet.on("gpu-01", "docker", "inspect", "-f", GIVEN, "ollama2").strip().strip("[]")


def goes_the_whole_way(fleet: Fleet, named: str, by_hand: str, other: int | str) -> None:
    """ollama2 of gpu-01 by a UUID: plan clean, moved by hand and found, put back, changed, rolled back, removed."""
    one, two = instances(fleet, "gpu-01")
    two["gpus"] = [named]
    fleet.deploy()
    settled(fleet)
    assert given(fleet) == named

    fleet.on("gpu-01", "sh", "-euc", MOVED, "sh", by_hand)
    assert "container:ollama2" in fleet.changes()["gpu-01"]
    proved = fleet.provision("verify", "--json", "--limit", "gpu-01")
    failed = {check["step"] for check in proved.host("gpu-01")["checks"] if not check["passed"]}
    assert (proved.code, "container:ollama2" in failed) == (5, True), proved
    fleet.deploy()
    assert given(fleet) == named
    settled(fleet)

    two["gpus"] = [other]
    done = fleet.deploy()
    assert "container:ollama2" in done.host("gpu-01")["changed"]
    assert given(fleet) != named
    back = fleet.provision("rollback", done.doc["run"], "--yes", "--json")
    assert back.code == 0, back
    assert given(fleet) == named
    two["gpus"] = [named]
    settled(fleet)

    fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"] = [one]
    fleet.deploy()
    assert list(containers(fleet, "gpu-01")) == ["ollama1"]
    assert "gpu-01/ollama2" not in upstream(fleet)
    settled(fleet)


def refused(fleet: Fleet, command: str, *words: str) -> dict:
    """The document of a plan or deploy about gpu-01, which must be the only failure."""
    done = fleet.provision(command, "--json", *words)
    assert done.code == 3, done
    results = {host["host"]: host["result"] for host in done.doc["hosts"]}
    assert results.pop("gpu-01") == "failed"
    assert "failed" not in results.values(), done
    return done.host("gpu-01")


@pytest.fixture
def fault(lab):
    """Switches a fault of gpu-01 on; it is off after the test."""
    on: list[str] = []

    def switch(name: str, value: str = "") -> None:
        on.append(name)
        faults.switch(lab, "gpu-01", name, on=True, value=value)

    yield switch
    for name in on:
        faults.switch(lab, "gpu-01", name, on=False)


@pytest.mark.matrix
def test_a_card_that_is_gone_leaves_the_others_in_service_and_its_instance_can_be_removed(scratch, fault):
    fleet = scratch
    missing, other = cards(fleet, "gpu-01")
    before = started(fleet, "gpu-01", "ollama2")
    fault("card-missing", "0")
    assert cards(fleet, "gpu-01") == [other], "the other card has moved up"

    planned = refused(fleet, "plan")
    assert f"ollama1 cannot run: GPU 0 ({missing.rstrip(')')}) is missing" in planned["why"]
    assert planned["changes"] == []
    said = fleet.provision("plan")
    assert "nothing to change" in said.out, said

    assert refused(fleet, "deploy", "--yes")["changed"] == []
    assert down(fleet) == ["gpu-01/ollama1"]
    assert started(fleet, "gpu-01", "ollama2") == before

    _, two = instances(fleet, "gpu-01")
    two["memory"] = "4g"
    assert "container:ollama2" in refused(fleet, "deploy", "--yes")["changed"], "another instance can be changed"
    assert down(fleet) == ["gpu-01/ollama1"]
    proved = fleet.provision("verify", "--json", "--limit", "gpu-01")
    failed = [check for check in proved.host("gpu-01")["checks"] if not check["passed"]]
    assert (proved.code, {check["step"] for check in failed} >= {"require:cards"}) == (5, True), proved
    assert not [check for check in failed if "ollama2" in check["step"]], proved

    fleet.hosts("gpu")["gpu-01"]["ollama"]["instances"] = [{**two, "name": "ollama2", "port": 3002}]
    before = started(fleet, "gpu-01", "ollama2")
    fleet.deploy()
    assert list(containers(fleet, "gpu-01")) == ["ollama2"]
    assert started(fleet, "gpu-01", "ollama2") == before
    assert upstream(fleet) == ["gpu-01/ollama2", "gpu-02/ollama1", "gpu-02/ollama2"]
    settled(fleet)


def test_a_card_that_fell_off_the_bus_comes_back(fleet, lab, fault):
    fault("card-lost", "1")
    said = refused(fleet, "deploy", "--yes")
    assert "ollama2 cannot run: GPU 1" in said["why"]
    assert "a GPU is lost" in said["why"]
    assert "Unable to determine the device handle" in said["why"]
    assert (said["changed"], down(fleet)) == ([], ["gpu-01/ollama2"])
    faults.switch(lab, "gpu-01", "card-lost", on=False)
    assert fleet.deploy().host("gpu-01")["changed"] == []
    assert down(fleet) == []
    settled(fleet)


def test_a_broken_card_fails_its_instance(fleet, lab, fault):
    fault("card-broken", "0")
    assert "ollama1 cannot run: GPU 0" in refused(fleet, "plan")["why"]
    faults.switch(lab, "gpu-01", "card-broken", on=False)
    settled(fleet)


def test_an_index_that_never_was_leaves_the_instance_as_it_is(fleet):
    instances(fleet, "gpu-01")[1]["gpus"] = [7]
    assert "there is no GPU 7" in refused(fleet, "deploy", "--yes")["why"]
    assert down(fleet) == [], "ollama2 still serves on the card that it has"


def test_a_warning_is_no_fault(fleet, fault):
    fault("inforom-corrupt")
    settled(fleet)
    done = fleet.provision("verify", "--json", "--limit", "gpu-01")
    assert done.code == 0, done


def test_a_driver_that_is_not_kept_loaded_and_slow_is_warned_of(fleet, fault):
    fault("persistence-off")
    fault("nvidia-smi-slow", "2")
    done = fleet.provision("plan", "--json", "--limit", "gpu-01")
    notes = {note["step"]: note["note"] for note in done.host("gpu-01")["notes"]}
    assert (done.code, done.host("gpu-01")["changes"]) == (0, []), done
    assert notes["require:cards"].startswith("persistence mode is off on GPU 0, GPU 1"), notes


def test_a_driver_that_lacks_an_optional_field_is_told_by_its_version(fleet, fault):
    fault("driver-ancient")
    assert "the driver is 470.256.02" in refused(fleet, "plan")["why"]


def test_facts_of_hosts_with_a_working_and_with_a_broken_driver(fleet, fault):
    done = fleet.provision("facts", "--json")
    known, balancer = (done.host(name)["facts"] for name in ("gpu-01", "lb-01"))
    assert done.code == 0, done
    assert known["kernel"] == fleet.on("gpu-01", "uname", "-r").strip()
    assert (known["docker"]["state"], known["nvidia_smi"], bool(known["toolkit"])) == ("running", "", True)
    assert [disk["mount"] for disk in known["disks"]][:1] == ["/"]
    uuids = [uuid.rstrip(")") for uuid in cards(fleet, "gpu-01")]
    assert [(card["index"], card["uuid"]) for card in known["cards"]] == list(enumerate(uuids))
    assert all(0 < card["free_mib"] < card["memory_mib"] for card in known["cards"]), "a model is loaded"
    users = [process["instance"] for card in known["cards"] for process in card["processes"]]
    assert users == ["ollama1", "ollama2"]
    assert (balancer["docker"]["state"], balancer["cards"]) == ("absent", [])

    fault("driver-broken")
    broken = fleet.provision("facts", "--limit", "gpu-01")
    assert broken.code == 0, broken
    assert "the NVIDIA driver is not loaded" in broken.out


def test_a_card_by_uuid_is_the_card_of_its_index_and_is_pinned(fleet):
    first, second = (uuid.rstrip(")") for uuid in cards(fleet, "gpu-01"))
    one, two = instances(fleet, "gpu-01")
    one["gpus"] = [first]
    settled(fleet)

    two["gpus"] = [first]
    doubled = fleet.provision("plan", "--json")
    assert doubled.code == 2, doubled
    one["gpus"] = [0]
    assert f"ollama2 names {first} and ollama1 names GPU 0" in refused(fleet, "plan")["why"]
    absent = "GPU-ffffffff-ffff-ffff-ffff-ffffffffffff"
    two["gpus"] = [absent]
    assert f"{absent} is not on this host, which has {first} (GPU 0" in refused(fleet, "plan")["why"]

    two["gpus"] = [second]
    fleet.on("gpu-01", "docker", "rm", "-f", "ollama2")
    assert "container:ollama2" in fleet.deploy().host("gpu-01")["changed"]
    assert given(fleet) == second
    settled(fleet)


@pytest.mark.matrix  # the test with a MIG device comes near
def test_a_card_by_uuid_goes_the_whole_way(scratch):
    fleet = scratch
    first, second = (uuid.rstrip(")") for uuid in cards(fleet, "gpu-01"))
    one, _ = instances(fleet, "gpu-01")
    sheet = json.loads(fleet.on("gpu-01", "cat", SHEET))
    third = {**sheet["cards"][1], "uuid": "GPU-0f0e0d0c-0000-4000-8000-000000000003", "pci_bus_id": "00000000:03:00.0"}
    fleet.lab.host("gpu-01").write(SHEET, json.dumps({**sheet, "cards": [*sheet["cards"], third]}))
    one["gpus"] = [first]
    goes_the_whole_way(fleet, second, by_hand=first, other=third["uuid"])


def test_a_mig_device_goes_the_whole_way(scratch, fault):
    """SIMULATED: the card in MIG mode and its two devices."""
    fleet = scratch
    fault("mig", "1")
    assert "ollama2 names GPU 1" in refused(fleet, "plan")["why"]
    (known,) = (card for card in fleet.provision("facts", "--json").host("gpu-01")["facts"]["cards"] if card["mig"])
    one, other = (device["uuid"] for device in known["mig_devices"])
    goes_the_whole_way(fleet, one, other, other)


def test_mig_half_switched_is_warned_of_by_plan_and_doctor(fleet, fault):
    fault("mig-half", "1")
    done = fleet.provision("plan", "--json", "--limit", "gpu-01")
    notes = {note["step"]: note["note"] for note in done.host("gpu-01")["notes"]}
    assert (done.code, done.host("gpu-01")["changes"]) == (0, []), done
    assert notes["require:cards"].startswith("GPU 1: MIG mode will be on after a reset of the card or a boot"), notes
    checks = fleet.provision("doctor", "--json", "--limit", "gpu-01").host("gpu-01")["checks"]
    (warned,) = (check for check in checks if check["check"] == "driver")
    assert (warned["verdict"], warned["cure"]) == ("warn", "nvidia-smi --gpu-reset -i 1")


@pytest.mark.matrix
def test_cards_that_are_numbered_otherwise_change_nothing(scratch):
    fleet = scratch
    sheet = json.loads(fleet.on("gpu-01", "cat", SHEET))
    sheet["cards"].reverse()
    fleet.lab.host("gpu-01").write(SHEET, json.dumps(sheet))
    settled(fleet)
    done = fleet.provision("verify", "--json", "--limit", "gpu-01")
    assert done.code == 0, done

    fleet.on("gpu-01", "rm", nvidia_smi.RECORD)  # an operator who wants nvidia-smi's indices does this
    assert {RECORD, "container:ollama1", "container:ollama2"} <= set(fleet.changes()["gpu-01"])
    fleet.deploy()
    assert [seen[0].rstrip(")\n") for seen in containers(fleet, "gpu-01").values()] == [
        card["uuid"] for card in sheet["cards"]
    ]
    settled(fleet)


@pytest.mark.matrix
def test_a_replaced_card_takes_the_index_of_the_one_before(scratch):
    fleet = scratch
    sheet = json.loads(fleet.on("gpu-01", "cat", SHEET))
    before = started(fleet, "gpu-01", "ollama1")
    sheet["cards"][1]["uuid"] = "GPU-0f0e0d0c-0000-4000-8000-000000000001"
    sheet["cards"].reverse()  # in another slot
    fleet.lab.host("gpu-01").write(SHEET, json.dumps(sheet))
    assert set(fleet.changes()["gpu-01"]) >= {RECORD, "container:ollama2"}
    fleet.deploy()
    assert started(fleet, "gpu-01", "ollama1") == before
    assert sheet["cards"][0]["uuid"] in containers(fleet, "gpu-01")["ollama2"][0]
    settled(fleet)
