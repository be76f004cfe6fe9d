"""The next start of a unit: plan refuses flags that keep Docker from starting, and other commands for our units."""

import pytest

pytestmark = pytest.mark.lab
FOLDER = "/etc/systemd/system/docker.service.d"
# The unit's own command with one more flag, as after `systemctl edit docker`.
ADD_FLAG = f"""
command=$(sed -n 's/^ExecStart=//p' "$(systemctl show --value -p FragmentPath docker.service)" | head -n 1)
mkdir -p {FOLDER}
printf '[Service]\\nExecStart=\\nExecStart=%s --log-driver=local\\n' "$command" >{FOLDER}/zz.conf
"""
RELOAD = "systemctl daemon-reload"
STATE = "sha256sum </etc/docker/daemon.json; systemctl show -p MainPID,InvocationID docker.service"


@pytest.fixture
def gpu_01(fleet):
    """Runs a script on gpu-01; the flag is removed afterwards."""

    def run(script):
        return fleet.on("gpu-01", "sh", "-euc", script)

    yield run
    run(f"rm -f {FOLDER}/zz.conf; {RELOAD}")


@pytest.mark.parametrize("read", [True, False], ids=["read by systemd", "not read yet"])
def test_a_flag_of_the_next_start_is_refused_before_anything_is_changed(fleet, gpu_01, read):
    gpu_01(ADD_FLAG + (RELOAD if read else ""))
    fleet.vars["docker"] = {"log_max_size": "60m"}
    before = gpu_01(STATE)
    for words in (("plan", "--json"), ("deploy", "--yes", "--json")):
        done = fleet.provision(*words, "--limit", "gpu-01")
        assert done.code != 0, done
        assert f"--log-driver in {FOLDER}/zz.conf:3" in done.host("gpu-01")["why"]
    assert gpu_01(STATE) == before


@pytest.mark.matrix
def test_a_flag_that_the_daemon_still_runs_with_is_refused_until_it_restarts(scratch):
    scratch.on(
        "gpu-01", "sh", "-euc", f"mv /etc/docker/daemon.json /root; {ADD_FLAG} {RELOAD}; systemctl restart docker"
    )
    scratch.on("gpu-01", "sh", "-euc", f"mv /root/daemon.json /etc/docker; rm {FOLDER}/zz.conf; {RELOAD}")
    done = scratch.provision("plan", "--json")
    assert "restart Docker" in done.host("gpu-01")["why"]
    scratch.on("gpu-01", "systemctl", "restart", "docker")
    assert scratch.plan().host("gpu-01")["why"] in ("", None)


def test_another_command_for_a_unit_of_ours_is_refused(fleet):
    folder = "/etc/systemd/system/provision-nginx.service.d"
    text = "[Service]\\nExecStart=\\nExecStart=/bin/true\\n"
    fleet.on("lb-01", "sh", "-euc", f"mkdir -p {folder}; printf '{text}' >{folder}/override.conf; {RELOAD}")
    try:
        done = fleet.provision("plan", "--json")
        assert done.code != 0
        assert f"{folder}/override.conf replaces the command" in done.host("lb-01")["why"]
        fleet.on("lb-01", "sh", "-euc", f"printf '[Service]\\nLimitCORE=0\\n' >{folder}/override.conf; {RELOAD}")
        assert fleet.changes()["lb-01"] == []
    finally:
        fleet.on("lb-01", "sh", "-euc", f"rm -r {folder}; {RELOAD}")
