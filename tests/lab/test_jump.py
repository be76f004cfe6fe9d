"""A host behind a jump host: gpu-02 takes logins from lb-01 alone, and the keys of both hosts are checked."""

import pytest

from provision.steps.instance_paths import INSTANCES

pytestmark = pytest.mark.lab
HOST, JUMP = "gpu-02", "lb-01"
NOBODYS_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.fixture
def known(fleet, tmp_path):
    """A file of known hosts of the test's own, which the inventory names."""
    path = tmp_path / "known_hosts"
    path.write_text(fleet.lab.known_hosts.read_text())
    fleet.vars["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={path}"
    return path


@pytest.fixture
def behind(fleet, known):
    """gpu-02 refuses logins from elsewhere, and the inventory leads to gpu-02 through lb-01."""
    own = fleet.hosts("gpu")[HOST]
    own["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={known} -o ProxyJump=ops@{fleet.address(JUMP)}"
    rule = ("INPUT", "-p", "tcp", "--dport", "22", "!", "-s", fleet.address(JUMP), "-j", "REJECT")
    fleet.on(HOST, "iptables", "-I", *rule)
    yield fleet
    fleet.on(HOST, "iptables", "-D", *rule)


def without(known, address):
    """Take the lines of a host out of the known hosts."""
    lines = known.read_text().splitlines(keepends=True)
    known.write_text("".join(line for line in lines if address not in line.split()[0].split(",")))


def test_a_host_behind_a_jump_host_is_planned_deployed_and_verified(behind):
    own = behind.hosts("gpu")[HOST]
    leading = own.pop("ansible_ssh_common_args")
    alone = behind.provision("plan", "--json", "-l", HOST)
    assert (alone.code, alone.host(HOST)["result"]) == (4, "unreachable"), "the host can be reached without its jump"
    own["ansible_ssh_common_args"] = leading
    assert behind.provision("plan", "--exit-code").code == 0
    kept = behind.on(HOST, "cat", INSTANCES)
    behind.on(HOST, "rm", INSTANCES)
    assert behind.deploy("-l", HOST).host(HOST)["changed"] == [f"file:{INSTANCES}"]
    assert behind.on(HOST, "cat", INSTANCES) == kept
    verified = behind.provision("verify", "--json")
    assert verified.code == 0, verified
    asked = {c["name"] for c in verified.host(HOST)["checks"] if c["step"].startswith("neighbour:")}
    assert f"{behind.address(HOST)}:3001 is closed to gpu-01" in asked


@pytest.mark.parametrize("changed", [JUMP, pytest.param(HOST, marks=pytest.mark.matrix)])
def test_a_changed_key_of_the_jump_host_or_of_the_host_behind_stops_the_run(behind, known, changed):
    address = behind.address(changed)
    without(known, address)
    with known.open("a") as lines:
        lines.write(f"{address} {NOBODYS_KEY}\n")
    refused = behind.provision("plan", "--json", "-l", HOST)
    assert (refused.code, refused.host(HOST)["result"]) == (4, "unreachable")
    assert f"host key of {address}" in refused.out
    assert "has CHANGED" in refused.out


def test_the_key_of_a_host_behind_a_jump_host_is_trusted_through_the_jump_host(behind, known):
    address = behind.address(HOST)
    before = known.read_text()
    without(known, address)
    assert "is not known" in behind.provision("plan", "-l", HOST).out
    trusted = behind.provision("trust", "--yes", "-l", HOST)
    assert trusted.code == 0, trusted
    assert [line for line in known.read_text().splitlines() if address in line]
    assert len(known.read_text().splitlines()) == len(before.splitlines())
    assert behind.provision("plan", "--exit-code", "-l", HOST).code == 0


@pytest.mark.matrix
def test_an_unknown_jump_host_is_named_before_the_host_behind(behind, known):
    without(known, behind.address(JUMP))
    said = behind.provision("trust", "--yes", "-l", HOST)
    assert said.code == 4, said
    assert behind.address(JUMP) in said.out + said.err
