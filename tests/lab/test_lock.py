"""Locks on real hosts. The lock of another operator's run is among the faults."""

import pytest

pytestmark = pytest.mark.lab


def lock(fleet, *words):
    return fleet.provision("lock", *words, "--limit", "gpu-01", "--json")


def holder(fleet):
    done = lock(fleet, "status")
    assert done.code == 0, done
    return done.host("gpu-01")["lock"]


def test_a_lock_by_hand_keeps_every_deploy_off_until_it_is_released(fleet):
    assert holder(fleet) is None
    assert lock(fleet, "acquire", "-m", "new card comes today").code == 0
    fleet.vars.setdefault("docker", {})["log_max_file"] = 5
    done = fleet.provision("deploy", "--yes", "--json", "--limit", "gpu-01")
    assert done.code == 6, done
    assert done.host("gpu-01")["result"] == "locked"
    assert "new card comes today" in done.host("gpu-01")["why"]
    assert fleet.provision("plan", "--limit", "gpu-01").code == 0, "a plan needs no lock"
    found = holder(fleet)
    assert (found["left"], found["why"]) == (None, "new card comes today")
    assert lock(fleet, "release").host("gpu-01")["lock"]["why"] == "new card comes today"
    del fleet.vars["docker"]["log_max_file"]
    fleet.deploy()
    assert holder(fleet) is None
