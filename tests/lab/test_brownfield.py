"""Hosts on which Docker's or NVIDIA's own instructions were followed before: their source lines are used as is."""

import re

import pytest

from tests.lab.conftest import Fleet, settle

pytestmark = pytest.mark.lab
HOST = "gpu-02"
SOURCES = "/etc/apt/sources.list.d"
DOCKER, NVIDIA = f"{SOURCES}/docker.list", f"{SOURCES}/nvidia-container-toolkit.list"
KEYS = {DOCKER: "/etc/apt/keyrings/docker.asc", NVIDIA: "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"}
OURS = {
    "apt_key:/etc/apt/keyrings/provision-docker.asc",
    f"apt_source:{SOURCES}/provision-docker.sources",
    "apt_key:/etc/apt/keyrings/provision-nvidia_toolkit.asc",
    f"apt_source:{SOURCES}/provision-nvidia_toolkit.sources",
}
# The commands of the vendors' instructions; $1 and $2 are the repositories.
DOCKERS_KEY = (
    f'. /etc/os-release; install -m 0755 -d /etc/apt/keyrings; curl -fsSL "$1/linux/$ID/gpg" -o {KEYS[DOCKER]}'
)
NVIDIAS_KEY = f"curl -fsSL $2/gpgkey | gpg --dearmor --yes -o {KEYS[NVIDIA]}"
BY_THE_BOOK = rf"""
{DOCKERS_KEY}; {NVIDIAS_KEY}
echo "deb [arch=$(dpkg --print-architecture) signed-by={KEYS[DOCKER]}] $1/linux/$ID \
  $VERSION_CODENAME stable" >{DOCKER}
echo "deb [signed-by={KEYS[NVIDIA]}] $2/stable/deb/\$(ARCH) /" >{NVIDIA}
"""
DEB822 = rf"""
{DOCKERS_KEY}
cat >{SOURCES}/docker.sources <<END
# by hand
Types: deb
URIs: $1/linux/$ID/
Suites: $VERSION_CODENAME
Components: stable
Architectures: $(dpkg --print-architecture)
Signed-By: {KEYS[DOCKER]}
END
"""


def by_hand(fleet: Fleet, script: str) -> None:
    """Run a script on the host, as an operator would have done."""
    repositories = (fleet.vars[role]["repository"] for role in ("docker", "nvidia_toolkit"))
    fleet.on(HOST, "sh", "-euc", script, "sh", *repositories)


def notes(fleet: Fleet) -> dict[str, str]:
    return {note["step"]: note["note"] for note in fleet.plan().host(HOST)["notes"]}


def apt(fleet: Fleet) -> str:
    """apt's error about its sources, or nothing."""
    result = fleet.lab.host(HOST).run(["apt-get", "indextargets"], check=False)
    return result.stderr if result.returncode else ""


def ours(fleet: Fleet) -> str:
    return fleet.on(HOST, "find", "/etc/apt/keyrings", SOURCES, "-name", "provision-*")


def test_lines_that_come_later_are_used_and_ours_go(fleet):
    by_hand(fleet, BY_THE_BOOK)
    before = fleet.on(HOST, "sha256sum", DOCKER, NVIDIA, *KEYS.values())
    assert "Conflicting values set for option Signed-By" in apt(fleet)
    fleet.on(HOST, "dpkg", "--remove", "--force-depends", "libnvidia-container-tools")
    assert set(fleet.changes()[HOST]) == {*OURS, "packages:nvidia_toolkit", "gpu_driver:docker"}
    assert f"packages come by {DOCKER}:1" in notes(fleet)["only_source:docker"]
    assert f"packages come by {NVIDIA}:1" in notes(fleet)["only_source:nvidia_toolkit"]
    assert "= only_source:docker" in fleet.provision("plan").out
    fleet.deploy()
    assert ours(fleet) == ""
    assert fleet.on(HOST, "sha256sum", DOCKER, NVIDIA, *KEYS.values()) == before
    assert apt(fleet) == ""
    assert fleet.provision("plan", "--exit-code").code == 0
    verified = fleet.provision("verify", "--json")
    assert verified.code == 0, verified

    fleet.on(HOST, "rm", DOCKER, NVIDIA, *KEYS.values())
    assert set(fleet.changes()[HOST]) == OURS
    fleet.deploy()
    assert notes(fleet) == {}
    assert fleet.provision("plan", "--exit-code").code == 0


def test_a_contradiction_is_refused_with_the_command_that_resolves_it(fleet):
    by_hand(fleet, BY_THE_BOOK + DEB822 + f"sed -i s/docker.asc/old.asc/ {DOCKER}")
    try:
        assert "Conflicting values set for option Signed-By" in apt(fleet)
        done = fleet.provision("deploy", "--yes", "--json")
        assert done.code == 3, done
        why = done.host(HOST)["why"]
        assert f"{DOCKER}:1 (signed by /etc/apt/keyrings/old.asc)" in why
        assert done.host(HOST)["changed"] == []
        command = re.search(r"sudo (sed -i '2i Enabled: no' \S+docker.sources)", why)
        assert command, why
        fleet.on(HOST, "sh", "-euc", command[1])
        assert DOCKER in notes(fleet)["only_source:docker"]
    finally:
        by_hand(fleet, f"rm -f {DOCKER} {NVIDIA} {SOURCES}/docker.sources {' '.join(KEYS.values())}")
    assert fleet.provision("plan", "--exit-code").code == 0


@pytest.mark.matrix
def test_a_bare_host_with_a_stanza_of_dockers_is_deployed_by_it(fleet):
    fleet.lab.restore(HOST)
    by_hand(fleet, DEB822)
    done = fleet.deploy()
    assert f"apt_source:{SOURCES}/provision-docker.sources" not in done.host(HOST)["changed"]
    assert "provision-docker" not in ours(fleet)
    assert "provision-nvidia_toolkit.sources" in ours(fleet)
    assert "packages:docker" in done.host(HOST)["changed"]
    assert f"packages come by {SOURCES}/docker.sources:2" in notes(fleet)["only_source:docker"]
    assert fleet.provision("plan", "--exit-code").code == 0
    fleet.lab.restore(HOST, "deployed")
    settle(fleet)
