"""`facts`, `doctor` and `fit` on the broken hosts of the fault suite: each command names the state of the broken host,
answers for the other hosts, ends with its exit code, and never with a traceback."""

import json
import re
from dataclasses import dataclass

import pytest

from provision.lab import models
from tests.faults import test_apt, test_disk, test_docker, test_host, test_login
from tests.faults.case import Action, both
from tests.faults.world import BAD, BALANCER, GOOD, World

pytestmark = pytest.mark.lab
ONE, TWO = f"{BAD}/ollama1", f"{BAD}/ollama2"
UNKNOWN = "nobody tells the memory of card"
FULL = ("/opt", "/tmp", "/var/tmp", "/var/lib/provision")


@dataclass(frozen=True)
class Break:
    """A way in which a host is broken, and what the commands say of the host.

    Args:
        bad: breaks the host.
        mend: mends the host.
        facts: a pattern in the host's entry of `facts --json`.
        failed: checks of `doctor` that fail on the host.
        doubtful: checks of `doctor` that do not pass on the host.
        fit: a pattern in the text of `fit --inventory`.
        code: the exit code of `facts` and `fit`.
    """

    bad: Action
    mend: Action
    facts: str
    failed: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    fit: str = rf"{ONE} +deepseek-r1:"
    code: int = 0


def of(case, **said) -> Break:
    """The host of a case of the fault suite."""
    return Break(case.bad, case.mend, **said)


def patience(world: World) -> None:
    """A hanging nvidia-smi costs two seconds."""
    world.set("nvidia_toolkit", smi_timeout="2s")


def hold_apt(world: World) -> None:
    """Another process has apt's lock."""
    world.write("/root/holder.py", test_apt.HOLDER.format(600))
    world.sh("systemd-run --quiet --collect --unit=holder python3 /root/holder.py")


HOSTS, LOGINS = test_host.CASES, test_login.CASES
DRIVER, SUDO = frozenset({"driver"}), frozenset({"sudo"})
NO_CARD = rf"{ONE}[^\n]*\n +{UNKNOWN} 0"
BREAKS = {
    "the driver is broken": of(
        HOSTS["the driver is broken"], facts="the NVIDIA driver is not loaded", failed=DRIVER, fit=NO_CARD
    ),
    "no driver": of(HOSTS["no driver"], facts="nvidia-smi is not installed", failed=DRIVER, fit=NO_CARD),
    "the driver hangs": Break(
        both(patience, HOSTS["the driver hangs"].bad),
        HOSTS["the driver hangs"].mend,
        "nvidia-smi does not answer in time",
        DRIVER,
        fit=NO_CARD,
    ),
    "a card fell off the bus": of(
        HOSTS["a card fell off the bus"], facts="a GPU is lost", failed=DRIVER, fit=rf"{TWO}[^\n]*\n +{UNKNOWN} 1"
    ),
    "another distribution": of(
        HOSTS["another distribution"], facts='"distribution": "fedora"', failed=frozenset({"distribution"})
    ),
    "Docker is stopped": Break(
        test_docker.CASES["stopped before the run, which starts it"].bad,
        lambda w: w.fleet.deploy(),  # which also puts our firewall before Docker's rules again
        '"state": "stopped"',
        doubtful=frozenset({"card users"}),
    ),
    "Docker does not answer": Break(
        lambda w: w.sh(test_docker.WEDGE),
        lambda w: w.sh(test_docker.UNWEDGE),
        '"state": "silent"',
        doubtful=frozenset({"card users"}),
    ),
    "the disk is full": Break(test_disk.full(*FULL), test_disk.roomy(*FULL), '"result": "ok"', frozenset({"disks"})),
    "apt is locked": Break(hold_apt, test_apt.let_go, '"state": "running"'),
    "sudo asks, and no password was given": of(
        LOGINS["sudo asks, and no password was given"],
        facts="sudo asks for a password",
        failed=SUDO,
        fit="sudo asks for a password",
        code=3,
    ),
    "the host cannot be reached": Break(
        lambda w: w.fault("cut"),
        lambda w: w.fault("cut", "off"),
        '"result": "unreachable"',
        frozenset({"ssh"}),
        fit=rf"(?m)^{BAD}\b",
        code=4,
    ),
}
ALWAYS = ("the driver is broken", "the host cannot be reached")
"""The breaks of every `make test`; the others are in the slices."""


@pytest.fixture
def world(scratch, lab, tmp_path):
    """The deployed fleet, with the lab's registry of models: no name of the world outside resolves in the lab."""
    registry = f"{lab.network.site}:{models.PORT}"
    scratch.vars.update(mirrors={"model_registry": registry}, models={"insecure": True})
    return World(scratch, lab, tmp_path)


@pytest.mark.parametrize(
    "broken",
    [pytest.param(case, id=name, marks=() if name in ALWAYS else pytest.mark.matrix) for name, case in BREAKS.items()],
)
def test_facts_doctor_and_fit_name_the_state_of_a_broken_host(world, broken):
    try:
        broken.bad(world)
        facts, doctor = (world.fleet.provision(command, "--json") for command in ("facts", "doctor"))
        fit = world.fleet.provision("fit")
    finally:
        broken.mend(world)
    for done in (facts, doctor, fit):
        assert "Traceback" not in done.out + done.err, done

    assert facts.code == broken.code, facts
    assert re.search(broken.facts, json.dumps(facts.host(BAD))), facts
    assert {host["host"]: host["result"] for host in facts.doc["hosts"] if host["host"] != BAD} == {
        GOOD: "ok",
        BALANCER: "ok",
    }

    checks = [(host["host"], check) for host in doctor.doc["hosts"] for check in host["checks"]]
    failed = {(host, check["check"]) for host, check in checks if check["verdict"] == "fail"}
    passed = {check["check"] for host, check in checks if host == BAD and check["verdict"] == "pass"}
    assert {name for host, name in failed if host == BAD} >= broken.failed, doctor
    assert not passed & broken.doubtful, doctor
    assert {host for host, _ in failed} <= {BAD}, doctor
    assert doctor.code == (5 if failed else 0), doctor
    assert all(bool(check["cure"]) == (check["verdict"] != "pass") for _, check in checks), doctor

    assert fit.code == broken.code, fit
    assert re.search(broken.fit, fit.out + fit.err), fit
    assert f"{GOOD}/ollama1" in fit.out, fit
