"""`provision doctor` on hosts of the lab: healthy hosts pass, and each fault is named by its check, with a cure."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from provision.lab import faults, models
from provision.steps.system import driver_upgrades
from tests.lab.conftest import Fleet

pytestmark = pytest.mark.lab
HOST, DEAD = "gpu-01", "gpu-02"
OF_THE_LAB = {"time", "memory", "outside"}
"""Checks that may warn of any host of the lab: nobody sets the clock of a container, the machine may be small, and a
mirror stands in for Docker Hub."""
# What a host may have from its owner. The packages are empty ones of this test, in the real dpkg; apt's configuration
# is the file of Debian's unattended-upgrades. The lab's hosts have the machine's kernel and firmware, so nouveau and
# Secure Boot cannot be real here: tests/doctor/kernel and tests/doctor/secure_boot have both.
OWNER = r"""
mkdir -p /var/snap/docker /usr/share/ollama/.ollama/models/manifests/registry.ollama.ai/library/deepseek-r1
cat >/etc/systemd/system/ollama.service <<END
[Service]
ExecStart=/bin/sleep infinity
Environment=OLLAMA_MODELS=/usr/share/ollama/.ollama/models
[Install]
WantedBy=multi-user.target
END
printf '{"config": {"digest": "sha256:c", "size": 9}, "layers": [{"digest": "sha256:a", "size": 1000000}]}' \
  >/usr/share/ollama/.ollama/models/manifests/registry.ollama.ai/library/deepseek-r1/1.5b
systemctl daemon-reload; systemctl enable --now ollama.service
systemd-run --quiet --unit=theirs python3 -m http.server 3009
for name in unattended-upgrades nvidia-driver-libs; do
  mkdir -p /root/$name/DEBIAN
  printf 'Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: lab\nDescription: empty\n' $name \
    >/root/$name/DEBIAN/control
  dpkg-deb -b /root/$name /root/$name.deb; dpkg -i /root/$name.deb
done
echo 'APT::Periodic::Unattended-Upgrade "1";' >/etc/apt/apt.conf.d/20auto-upgrades
"""
GONE = rf"""
dpkg --purge unattended-upgrades nvidia-driver-libs; rm -rf /root/unattended-upgrades* /root/nvidia-driver-libs*
rm -f /etc/apt/apt.conf.d/20auto-upgrades {driver_upgrades.FILE}
systemctl stop theirs; systemctl disable --now ollama.service
rm -rf /var/snap/docker /usr/share/ollama /etc/systemd/system/ollama.service; systemctl daemon-reload
"""


@pytest.fixture
def site(lab, tmp_path) -> Fleet:
    """The lab, bare or deployed: the doctor needs no deploy. No name of the world outside resolves in the lab, so the
    inventory names the registry of models."""
    fleet = Fleet(lab, tmp_path)
    fleet.vars.update(mirrors={"model_registry": f"{lab.network.site}:{models.PORT}"}, models={"insecure": True})
    return fleet


def verdicts(document: dict, host: str, verdict: str) -> set[str]:
    checks = next(each for each in document["hosts"] if each["host"] == host)["checks"]
    return {check["check"] for check in checks if check["verdict"] == verdict}


@contextlib.contextmanager
def broken(site: Fleet) -> Iterator[None]:
    """Faults of every kind on a host, and another host cut off."""
    switched = [
        (HOST, "driver-old"),
        (HOST, "persistence-off"),
        (DEAD, "cut"),
        ("site", "web-down"),
        ("site", "packages-down"),
    ]
    site.on(HOST, "sh", "-c", OWNER)
    for target, name in switched:
        faults.switch(site.lab, target, name, on=True)
    try:
        yield
    finally:
        for target, name in reversed(switched):
            faults.switch(site.lab, target, name, on=False)
        site.on(HOST, "sh", "-c", GONE)


def test_healthy_hosts_pass(site):
    done = site.provision("doctor", "--json")
    assert done.code == 0, done
    assert {host["host"] for host in done.doc["hosts"]} == {"gpu-01", "gpu-02", "lb-01"}
    for host in done.doc["hosts"]:
        assert verdicts(done.doc, host["host"], "warn") <= OF_THE_LAB, host
        assert {"ssh", "sudo", "distribution", "disks", "ports", "apt", "outside"} <= verdicts(
            done.doc, host["host"], "pass"
        )
    assert {"driver", "persistence", "nouveau", "native server"} <= verdicts(done.doc, HOST, "pass")


@pytest.mark.matrix
def test_each_fault_is_named_and_a_dead_host_leaves_the_others_alone(site):
    site.hosts("gpu")[HOST]["ollama"]["instances"][0]["port"] = 3009
    with broken(site):
        done = site.provision("doctor", "--json")
        (cure,) = (each["cure"] for each in done.host(HOST)["checks"] if each["check"] == "driver upgrades")
        site.on(HOST, "sh", "-euc", cure)
        cured = site.provision("doctor", "--json", "--limit", HOST)
    assert done.code == 5, done
    failed = verdicts(done.doc, HOST, "fail")
    assert failed == {"driver", "docker kinds", "native server", "ports", "apt", "outside"}, json.dumps(done.doc)
    assert "driver upgrades" in verdicts(cured.doc, HOST, "pass"), cured
    assert {"persistence", "native server", "driver upgrades"} <= verdicts(done.doc, HOST, "warn")
    assert verdicts(done.doc, DEAD, "fail") == {"ssh"}
    assert verdicts(done.doc, "lb-01", "fail") <= {"apt", "outside"}
    for host in done.doc["hosts"]:
        assert all(bool(check["cure"]) == (check["verdict"] != "pass") for check in host["checks"])
