"""Foreign users of the cards: seen in nvidia-smi's list, named, and tolerated where the inventory says so."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from .conftest import Fleet

pytestmark = pytest.mark.lab
HOST, IMAGE = "gpu-01", "ollama/ollama:0.34.4"
USAGE = "/run/provision-lab/usage/theirs.json"
# A program that takes memory of a card, in the simulated nvidia-smi's way: it holds a lock on a file.
USES = f"""
import fcntl, time
file = open("{USAGE}", "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write('[{{"uuid": "UUID", "mib": 512, "name": "/usr/bin/python3 train.py"}}]')
file.flush()
time.sleep(600)
"""


@contextlib.contextmanager
def container(fleet: Fleet, *words: str) -> Iterator[None]:
    """A foreign container that was given all cards, while the block runs."""
    fleet.on(
        HOST, "docker", "run", "-d", "--name", "exporter", "--gpus", "all", "--entrypoint", words[0], IMAGE, *words[1:]
    )
    try:
        yield
    finally:
        fleet.on(HOST, "docker", "rm", "-f", "exporter")
        fleet.on(HOST, "rm", "-f", USAGE)


@contextlib.contextmanager
def process(fleet: Fleet, program: str) -> Iterator[str]:
    """A foreign process outside Docker, while the block runs; yields its id."""
    fleet.on(HOST, "systemd-run", "--quiet", "--collect", "--unit=training", "python3", "-c", program)
    try:
        yield fleet.on(HOST, "systemctl", "show", "--value", "-p", "MainPID", "training").strip()
    finally:
        fleet.on(HOST, "systemctl", "stop", "training")
        fleet.on(HOST, "rm", "-f", USAGE)


def in_use(fleet: Fleet) -> None:
    """Wait until nvidia-smi lists the process."""
    ask = "until nvidia-smi --query-compute-apps=name --format=csv,noheader | grep -q train.py; do sleep 0.2; done"
    fleet.on(HOST, "sh", "-c", ask)


def uses(fleet: Fleet, card: int) -> str:
    """The text of a program that uses a card."""
    uuid = fleet.on(HOST, "nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader", "-i", str(card)).strip()
    return USES.replace("UUID", uuid)


def why(fleet: Fleet) -> str:
    """Why a plan refuses the host; empty where it does not, and has nothing to change either."""
    host = fleet.provision("plan", "--json", "-l", HOST).host(HOST)
    assert host["changes"] == []
    return host["why"]


def test_a_container_that_was_given_all_cards_and_uses_none_is_tolerated(fleet):
    with container(fleet, "sleep", "600"):
        assert why(fleet) == ""


def test_a_container_that_uses_a_card_of_an_instance_is_named(fleet):
    with container(fleet, "python3", "-c", uses(fleet, 1)):
        in_use(fleet)
        said = why(fleet)
        assert "card 1 of ollama2 is used by python3 (pid " in said
        assert "of the container exporter, which is not ours" in said
        assert "stop exporter, or list the name in ollama.tolerate" in said
        assert "card 0" not in said
        fleet.vars["ollama"]["tolerate"] = ["exporter"]
        assert why(fleet) == ""


def test_a_process_outside_docker_is_named(fleet):
    with process(fleet, uses(fleet, 0)) as pid:
        in_use(fleet)
        said = rf"card 0 of ollama1 is used by python3 \(pid {pid}, user root, \d+ MiB\), which runs outside Docker"
        assert re.search(said, why(fleet))
        fleet.vars["ollama"]["tolerate"] = ["python3"]
        assert why(fleet) == ""
