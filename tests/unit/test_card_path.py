"""The path by which containers got their cards, by the real shell and the parser. Docker and systemd are stand-ins,
and the bundles and /proc are folders of the test: each case of `card_paths.yaml` is a container."""

import base64
import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from provision.command import Answer
from provision.plan import gpu_loss
from provision.steps.docker import card_path, daemon_state, inspect
from provision.steps.docker.card_path import Given
from provision.steps.docker.service import DockerService
from tests.unit.test_gpu_loss import daemon

CASES = yaml.safe_load(Path(__file__).with_name("card_paths.yaml").read_text())
DOCKER = """#!/bin/sh
[ "$1 $2 $3" = "inspect --type container" ] || exit 125
cat docker.json
"""
SYSTEMD = """#!/bin/sh
for scope; do :; done
cat "systemd/$scope"
"""


class Machine:
    """A folder with bundles, cgroups of processes, and stand-ins for docker and systemctl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("docker", DOCKER), ("systemctl", SYSTEMD), ("timeout", '#!/bin/sh\nshift\nexec "$@"\n')):
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(text)
            program.chmod(0o755)
        for name in ("bundles", "proc", "systemd"):
            (folder / name).mkdir()
        (folder / "docker.json").touch()

    def add(self, key: str, case: dict[str, Any], *, group: str = "system.slice/docker-{}.scope") -> None:
        (self.folder / "proc" / str(len(list((self.folder / "proc").iterdir())) + 1)).mkdir()
        last = max((self.folder / "proc").iterdir(), key=lambda path: int(path.name))
        (last / "cgroup").write_text(f"0::/{group.format(key)}\n")
        if "spec" in case:
            (self.folder / "bundles" / key).mkdir()
            text = json.dumps({"ociVersion": "1.2.0", **case["spec"]}, separators=(",", ":"))
            (self.folder / "bundles" / key / "config.json").write_text(text)
        policy, *allowed = case.get("systemd", [""])
        shown = [f"DevicePolicy={policy}"] if policy else []
        shown += [f"DeviceAllow={entry if ' ' in entry else f'{entry} rwm'}" for entry in allowed]
        (self.folder / "systemd" / f"docker-{key}.scope").write_text("".join(f"{line}\n" for line in shown))
        asked = {"id": key, "name": f"/{case.get('name', 'job')}", "runtime": "runc", "managed": "", **case["docker"]}
        with (self.folder / "docker.json").open("a") as file:
            file.write(json.dumps(asked, separators=(",", ":")) + "\n")

    def look(self, active: str = "active") -> str:
        text = card_path.ALL.replace(card_path.BUNDLES, "bundles").replace("/proc/", "proc/")
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        words = ["sh", "-euc", f'{text}\nscopes "$1"', "sh", active]
        done = subprocess.run(words, cwd=self.folder, env={"PATH": path}, capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["case"]) for case in CASES])
def test_the_configuration_of_the_runtime_and_systemds_list_decide(machine: Machine, case: dict[str, Any]) -> None:
    machine.add("a" * 64, case)
    found = card_path.parse(machine.look())
    ours = case["docker"].get("managed") == "1"
    assert found == ((Given("job", ours, case["path"], case["reason"]),) if case["path"] else ())


def test_a_container_outside_systemds_scopes_is_not_looked_at(machine: Machine) -> None:
    machine.add("a" * 64, CASES[0], group="docker/{}")
    assert machine.look() == ""


def test_a_scope_that_docker_does_not_know_belongs_to_another_docker(machine: Machine) -> None:
    machine.add("a" * 64, CASES[0])
    machine.add("b" * 64, {**CASES[0], "docker": {"id": "c" * 64, "requests": None}})
    assert [each.name for each in card_path.parse(machine.look())] == ["job"]


def test_a_stopped_docker_is_not_asked_and_its_container_counts_as_ours(machine: Machine) -> None:
    machine.add("a" * 64, CASES[0])
    (each,) = card_path.parse(machine.look("inactive"))
    assert (each.name, each.ours, each.path) == ("a" * 12, True, card_path.HOOK)


def test_the_evidence_of_many_cards_comes_in_lines_that_a_pipe_takes_at_once(tmp_path: Path) -> None:
    """All instances write into one pipe at the same time, and a pipe takes 4096 bytes at once."""
    (tmp_path / "cgroup").write_text("0::/system.slice/docker-abc.scope\n")
    script = inspect.command().stdin.decode()
    found = re.search(r"^scope\(\) \{.*?^\} 2>/dev/null$", script, re.DOTALL | re.MULTILINE)
    assert found
    text = found[0].replace("/proc/$2/cgroup", "cgroup")
    parts = "docker() { echo systemd; }; timeout() { shift; \"$@\"; }; evidence() { printf '%020000d' 7; }"
    words = ["sh", "-euc", f"{parts}\n{text}\nscope abc 1"]
    lines = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "abc scope systemd"
    assert max(map(len, lines)) < 4096
    assert len(base64.b64decode("".join(line.removeprefix("abc evidence ") for line in lines[1:]))) == 20000


def said(machine: Machine, driver: str, version: str) -> dict[Any, Answer]:
    """Return the answers of a host with the containers of a machine."""
    encoded = base64.b64encode(machine.look().encode())
    answer = daemon(driver, version).stdout.replace(b"\nend=", b"\ngiven=" + encoded + b"\nend=")
    return {daemon_state.COMMAND: Answer(0, answer)}


HOOK, FALLEN_BACK, BY_CDI, OLD_RUNC = (CASES[index] for index in (0, 1, 2, 4))
OWN = {"managed": "1", "requests": [{"DeviceIDs": ["GPU-1"]}]}


@pytest.mark.parametrize(
    ("driver", "version", "case", "safe"),
    [
        ("systemd", "29.2.0", FALLEN_BACK, False),
        ("systemd", "29.2.0", BY_CDI, True),
        ("systemd", "28.5.0", BY_CDI, True),
        ("systemd", "29.2.0", OLD_RUNC, False),
        ("cgroupfs", "29.2.0", FALLEN_BACK, False),
        ("cgroupfs", "26.1.5", BY_CDI, True),
    ],
)
def test_the_path_decides_and_no_version(
    machine: Machine, driver: str, version: str, case: dict[str, Any], safe: bool
) -> None:
    machine.add("a" * 64, {**case, "name": "ollama1", "docker": OWN})
    answers = said(machine, driver, version)
    assert gpu_loss.are_safe([], answers) is safe
    ours, others = gpu_loss.loss(answers)
    assert ours.startswith("ollama1 (cards by ") is not safe
    assert others == ""


def test_a_container_of_others_is_named_and_does_not_take_our_instances_out(machine: Machine) -> None:
    machine.add("a" * 64, {**HOOK, "name": "training"})
    machine.add("b" * 64, {**BY_CDI, "name": "ollama1", "docker": OWN})
    answers = said(machine, "systemd", "29.2.0")
    assert gpu_loss.are_safe([], answers)
    assert gpu_loss.loss(answers) == ("", "training (cards by NVIDIA's hook: systemd does not know the nodes)")
    assert daemon_state.read(answers[daemon_state.COMMAND]).by_cdi


def test_no_container_proves_nothing_and_a_hook_of_others_alone_is_no_proof(machine: Machine) -> None:
    assert not gpu_loss.are_safe([], said(machine, "systemd", "29.2.0"))
    machine.add("a" * 64, HOOK)
    machine.add("b" * 64, {**BY_CDI, "docker": HOOK["docker"]})
    assert not gpu_loss.are_safe([], said(machine, "systemd", "29.2.0"))


class Live:
    """A host in a verification, which answers by what the command asks for."""

    def __init__(self, machine: Machine, driver: str, version: str) -> None:
        self.read = said(machine, driver, version)[daemon_state.COMMAND].stdout.decode()
        self.info = f"true {driver} {version}"

    def run(self, command: str, *words: str) -> Any:
        text = {"systemctl is-enabled docker.service": "enabled"}.get(command, self.info)
        return SimpleNamespace(rc=0, stdout=self.read if command.startswith("sh -c") else text, stderr="")


def kept(live: Live, driver: str = "") -> list[Any]:
    """Return the results of the check of lost cards."""
    checks = DockerService(cgroup_driver=driver).check(live)
    return [check.got for check in checks if check.name == "containers keep their cards over a daemon-reload"]


def test_verify_names_container_path_and_cure(machine: Machine) -> None:
    machine.add("a" * 64, {**FALLEN_BACK, "name": "ollama1", "docker": OWN})
    (words,) = kept(Live(machine, "systemd", "29.2.0"))
    assert words.startswith("a daemon-reload takes the cards of ollama1 (cards by NVIDIA's hook: systemd does not")
    assert "cure: with docker.cgroup_driver: auto" in words
    assert kept(Live(machine, "systemd", "29.2.0"), "systemd") == [words], "29.2 promises CDI, also to who asks for it"
    assert kept(Live(machine, "systemd", "26.1.5"), "systemd") == [], "asked for, and known to lose cards"


def test_verify_takes_a_proof_by_cdi_and_cgroupfs_without_containers(machine: Machine) -> None:
    (words,) = kept(Live(machine, "systemd", "29.2.0"))
    assert words.startswith("not proved: systemd makes Docker's cgroups, and no container got cards by CDI")
    assert kept(Live(machine, "cgroupfs", "26.1.5")) == [True]
    machine.add("a" * 64, {**BY_CDI, "name": "ollama1", "docker": OWN})
    assert kept(Live(machine, "systemd", "29.2.0")) == [True]
