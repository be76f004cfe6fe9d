"""After a boot a host serves again by itself: containers, nginx, models on their cards; what was drained stays out."""

import time

import pytest

from provision import lock
from provision.lab import faults

from .conftest import wait_for
from .test_rolling import ALL, down
from .test_serve import generate

pytestmark = pytest.mark.lab


def locks(fleet):
    """Host -> the run that has its lock; empty for one by hand."""
    said = fleet.provision("lock", "status", "--json")
    assert said.code == 0, said
    return {host["host"]: host["lock"]["run"] for host in said.doc["hosts"] if host["lock"]}


def test_everything_comes_back_by_itself(fleet, lab):
    assert fleet.provision("drain", "gpu-01/ollama2", "-m", "it hums", "--json").code == 0
    assert fleet.provision("lock", "acquire", "-m", "a card is replaced", "--limit", "gpu-01", "--json").code == 0
    killed = lock.acquire("20990101T000000Z-dead")
    lab.host("gpu-02").run(killed.words, stdin=killed.stdin.decode())
    assert locks(fleet) == {"gpu-01": "", "gpu-02": "20990101T000000Z-dead"}
    for host in ("gpu-01", "gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=True)
    for host in ("gpu-01", "gpu-02", "lb-01"):
        faults.switch(lab, host, "power-off", on=False)
    # A plan reads everything and changes nothing: containers, their cards, models in their memory, nginx.
    wait_for(lambda: not any(fleet.changes().values()))
    assert down(fleet) == {"gpu-01/ollama2"}
    assert {generate(fleet, time.monotonic())[0] for _ in range(12)} == ALL - {"gpu-01/ollama2"}
    assert locks(fleet) == {"gpu-01": ""}, "a lock by hand is for what somebody does to the host; a lease ends"
    assert fleet.provision("lock", "release", "--limit", "gpu-01", "--json").code == 0
    assert fleet.provision("undrain", "gpu-01/ollama2", "--json").code == 0
    assert fleet.provision("verify", "--json").code == 0


def test_a_host_whose_docker_just_starts_is_read_when_it_has(fleet, lab):
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
