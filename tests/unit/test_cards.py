"""Whether running containers keep their cards, by what a host answered."""

from pathlib import Path

import pytest
import yaml

from provision import cards
from provision.command import Answer
from provision.sequence import Entry
from provision.steps import dockerd, engine
from provision.steps.container import Container

FACTS = Path(__file__).parents[1] / "facts"


def said(path: str) -> Answer:
    return Answer(0, yaml.safe_load((FACTS / path).read_text())["stdout"].encode())


def daemon(driver: str, version: str) -> Answer:
    found = said("DockerService/nothing_pending.yaml").stdout
    changed = found.replace(b'"driver":"cgroupfs"', f'"driver":"{driver}"'.encode())
    return Answer(0, changed.replace(b"26.1.5", version.encode()))


def entry() -> Entry:
    one = Container(name="ollama1", image="ollama/ollama:0.34.4", gpus=(0,), port=3001, address="10.0.0.11")
    return Entry("ollama", one)


@pytest.mark.parametrize(
    ("driver", "version", "container", "safe"),
    [
        ("cgroupfs", "26.1.5", "running", True),
        ("systemd", "26.1.5", "docker_has_systemd_make_cgroups", False),
        ("systemd", "29.2.0", "docker_has_systemd_make_cgroups", True),
        ("cgroupfs", "26.1.5", "lives_in_a_cgroup_of_before", False),
        ("cgroupfs", "26.1.5", "docker_stopped", True),
        ("cgroupfs", "26.1.5", "absent", True),
    ],
)
def test_what_docker_makes_and_what_lives_on_are_looked_at(
    driver: str, version: str, container: str, safe: bool
) -> None:
    case = yaml.safe_load((FACTS / f"Container/{container}.yaml").read_text())
    answers = {
        dockerd.COMMAND: daemon(driver, version),
        engine.COMMAND: Answer(case.get("exit", 0), case.get("stdout", "").encode(), case.get("stderr", "").encode()),
    }
    assert cards.are_safe([entry()], answers) is safe
    assert set(cards.reads([entry()])) == set(answers)


def test_a_daemon_that_does_not_answer_is_not_trusted_and_what_nobody_asked_for_is_not_doubted() -> None:
    silent = said("DockerService/nothing_pending.yaml").stdout.replace(b"info=", b"silent=")
    assert not cards.are_safe([entry()], {dockerd.COMMAND: Answer(0, silent)})
    assert cards.are_safe([entry()], {})
