"""Whether running containers keep their cards, by what a host answered."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from provision.command import Answer
from provision.plan import gpu_loss
from provision.plan.role_interface import Entry
from provision.steps.docker import daemon_state, inspect
from provision.steps.facts import HostFacts
from provision.steps.instance.container import Container
from provision.steps.nvidia_smi import Card
from provision.steps.ollama.engine import OLLAMA

FACTS = Path(__file__).parents[1] / "facts"


def said(path: str) -> Answer:
    return Answer(0, yaml.safe_load((FACTS / path).read_text())["stdout"].encode())


def daemon(driver: str, version: str) -> Answer:
    found = said("DockerService/nothing_pending.yaml").stdout
    changed = found.replace(b'"driver":"cgroupfs"', f'"driver":"{driver}"'.encode())
    return Answer(0, changed.replace(b"26.1.5", version.encode()))


def entry() -> Entry:
    one = Container(
        name="ollama1", engine=OLLAMA, image="ollama/ollama:0.34.4", gpus=(0,), port=3001, address="10.0.0.11"
    )
    return Entry("ollama", one)


@pytest.mark.parametrize(
    ("driver", "version", "container", "safe"),
    [
        ("cgroupfs", "26.1.5", "running", True),
        ("systemd", "26.1.5", "docker_has_systemd_make_cgroups", False),
        ("systemd", "29.2.0", "docker_has_systemd_make_cgroups", False),
        ("cgroupfs", "26.1.5", "lives_in_a_cgroup_of_before", False),
        ("cgroupfs", "26.1.5", "docker_stopped", True),
        ("cgroupfs", "26.1.5", "absent", True),
    ],
)
def test_the_cgroups_of_new_and_of_running_containers_count(
    driver: str, version: str, container: str, safe: bool
) -> None:
    case = yaml.safe_load((FACTS / f"Container/{container}.yaml").read_text())
    answers = {
        daemon_state.COMMAND: daemon(driver, version),
        inspect.command(): Answer(
            case.get("exit", 0), case.get("stdout", "").encode(), case.get("stderr", "").encode()
        ),
    }
    assert gpu_loss.are_safe([entry()], answers) is safe
    assert set(gpu_loss.reads([entry()])) == set(answers)


def test_a_silent_daemon_is_not_trusted_and_a_missing_read_is_not_doubted() -> None:
    silent = said("DockerService/nothing_pending.yaml").stdout.replace(b"info=", b"silent=")
    assert not gpu_loss.are_safe([entry()], {daemon_state.COMMAND: Answer(0, silent)})
    assert gpu_loss.are_safe([entry()], {})


UUID = "GPU-6506c7fb-0468-e2f5-1691-2db0f8554bf0"
WELL = Card(0, UUID, "RTX A6000", "580.95.05", 8.6, 49140)


@pytest.mark.parametrize(
    ("container", "found", "port", "lost"),
    [
        ("running", (WELL,), 3001, False),
        ("running", (), 3001, True),
        ("running", (dataclasses.replace(WELL, broken="GPU requires reset"),), 3001, True),
        ("running", (WELL,), 3009, True),
        ("stopped", (WELL,), 3001, True),
        ("lost_its_cards", (WELL,), 3001, True),
        ("does_not_answer", (WELL,), 3001, True),
        ("foreign", (WELL,), 3001, True),
        ("absent", (WELL,), 3001, True),
        ("docker_stopped", (WELL,), 3001, True),
    ],
)
def test_a_refused_instance_may_still_serve(container: str, found: tuple[Card, ...], port: int, lost: bool) -> None:
    case = yaml.safe_load((FACTS / f"Container/{container}.yaml").read_text())
    said = Answer(case.get("exit", 0), case.get("stdout", "").encode(), case.get("stderr", "").encode())
    one = Entry("ollama", dataclasses.replace(entry().step, port=port))  # type: ignore[type-var]
    names = gpu_loss.lost(["ollama1"], [one], {inspect.command(): said}, HostFacts(cards=found))
    assert names == ({"ollama1"} if lost else set())
    assert gpu_loss.lost(["ollama1"], [one], {}, HostFacts(cards=found)) == set(), "no read of the container"
