"""After a boot a host serves again without help: containers, nginx, models on their cards; drained instances stay out.

A lock by hand survives the boot, a run's lock does not.
"""

import time

import pytest

from provision.lab import faults
from provision.runs.lock import HostLock

from .conftest import serves_again
from .test_rolling import ALL, down
from .test_serve import generate

pytestmark = pytest.mark.lab
# The unit of NVIDIA's toolkit that writes the CDI file at a boot; SIMULATED, and slow. The order is that of toolkit
# 1.19.0, the hardest: the unit comes after a target that comes after Docker. The file has the time of its first making.
REFRESH = "/etc/systemd/system/nvidia-cdi-refresh.service"
SLOW = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=mkdir -p /run/cdi
ExecStart=sh -c '[ -e /run/cdi/nvidia.yaml ] || { sleep 3; cut -d. -f1 /proc/uptime >/run/cdi/nvidia.yaml; }'
[Install]
WantedBy=multi-user.target
"""


def locks(fleet):
    """Host -> its lock."""
    return {host["host"]: host["lock"] for host in fleet.provision("lock", "status", "--json").doc["hosts"]}


def test_everything_comes_back_by_itself(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama2", "-m", "it hums", "--json").code == 0
    assert fleet.provision("lock", "acquire", "-m", "another card", "-l", "gpu-02").code == 0
    lease = HostLock().acquire("20260101T000000Z-beef", 9000)
    lab.host("gpu-01").run(lease.words, stdin=lease.stdin.decode())
    lab.host("gpu-01").write(REFRESH, SLOW)
    lab.host("gpu-01").run(["systemctl", "enable", "nvidia-cdi-refresh.service"])
    before = locks(fleet)
    assert before["gpu-01"]["run"] == "20260101T000000Z-beef"
    for host in ("gpu-01", "gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=True)
    for host in ("gpu-01", "gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=False)
    # A plan reads everything and changes nothing: containers, their cards, models in their memory, nginx.
    serves_again(fleet)
    assert_cdi_came_first(lab.host("gpu-01"))
    assert down(fleet) == {"gpu-01/ollama2"}
    assert {generate(fleet, time.monotonic())[0] for _ in range(12)} == ALL - {"gpu-01/ollama2"}
    after = locks(fleet)
    assert (after["gpu-01"], after["gpu-02"]["who"], after["gpu-02"]["why"]) == (
        None,
        before["gpu-02"]["who"],
        "another card",
    )
    fleet.vars.setdefault("docker", {})["log_max_file"] = 5
    refused = fleet.provision("deploy", "--yes", "--json", "--limit", "gpu-02")
    assert refused.code == 6, refused
    assert "another card" in refused.host("gpu-02")["why"]
    del fleet.vars["docker"]["log_max_file"]
    assert fleet.provision("lock", "release", "-l", "gpu-02").code == 0
    assert fleet.provision("undrain", "gpu-01/ollama2", "--json").code == 0
    verified = fleet.provision("verify", "--json")
    failed = [
        (check["step"], check) for host in verified.doc["hosts"] for check in host["checks"] if not check["passed"]
    ]
    assert (verified.code, failed) == (0, []), failed


def assert_cdi_came_first(host):
    """Docker and the instances start after the CDI file is there. The unit goes again: the host is as before."""
    written = int(host.run(["cat", "/run/cdi/nvidia.yaml"]).stdout)
    for unit in ("docker", "provision-instances"):
        show = ["systemctl", "show", "--value", "-p", "ExecMainStartTimestampMonotonic", f"{unit}.service"]
        assert int(host.run(show).stdout) >= written * 1_000_000, unit
    host.run(["sh", "-euc", f"systemctl disable nvidia-cdi-refresh.service; rm {REFRESH}; systemctl daemon-reload"])


@pytest.mark.matrix
def test_a_host_whose_docker_is_starting_is_read_after_the_start(fleet, lab):
    """As after a boot: containers serve already (live-restore), and the daemon takes a while."""
    host, drop_in = lab.host("gpu-01"), "/run/systemd/system/docker.service.d/slow.conf"
    host.run(["mkdir", "-p", "/run/systemd/system/docker.service.d"])
    host.write(drop_in, "[Service]\nExecStartPre=sleep 6\n")
    try:
        host.run(["sh", "-euc", "systemctl daemon-reload; systemctl restart --no-block docker.service; sleep 1"])
        assert host.run(["systemctl", "is-active", "docker.service"], check=False).stdout == "activating\n"
        done = fleet.provision("plan", "--json", "--limit", "gpu-01", "--tags", "ollama,models")
        assert host.run(["systemctl", "is-active", "docker.service"]).stdout == "active\n"
    finally:
        host.run(["sh", "-euc", f"rm {drop_in}; systemctl daemon-reload"])
    assert done.code == 0, done
    follows = {"service:provision-instances"}  # starts after Docker, and may still be on its way
    assert {change["step"] for change in done.host("gpu-01")["changes"]} <= follows
