"""A container with our labels may be foreign, and an image with our tag may differ from the pulled image.

The tests pin the containers that provision creates anew, and the words of the commands.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.command import Answer
from provision.steps.docker import image
from provision.steps.facts import Card, HostFacts
from provision.steps.instance import scripts
from provision.steps.instance.container import Container
from provision.steps.ollama.engine import OLLAMA
from tests.unit.step_cases import TESTS

CARD = "GPU-6506c7fb-0468-e2f5-1691-2db0f8554bf0"
FACTS = HostFacts(cards=(Card(0, CARD, "RTX A6000", "580.95.05", 8.6, 49140),))
STEP = Container(name="ollama1", engine=OLLAMA, image="ollama/ollama:0.34.4", gpus=(0,), port=3001, address="10.0.0.11")


def found(**how: Any) -> dict[str, Any]:
    """Return the state of the container that provision created, with some differences."""
    return {**(STEP.want(FACTS, None) or {}), **how}


def test_a_proxy_set_by_hand_asks_for_no_file_of_variables() -> None:
    """An instance without a declared proxy has no such file, and `docker create` would fail for ever."""
    have = found(environment={"HTTPS_PROXY": "sha256:4ba28083c3552ef6"})
    want = STEP.want(FACTS, have)
    created = STEP.commands(have, want)[0]
    assert "--env-file" not in created.words  # type: ignore[union-attr]
    assert want is not None
    assert (want["environment"], want["run"]) == ({}, have["run"])


def test_a_rollback_restores_no_option_that_provision_never_gives() -> None:
    before_this_version = {key: value for key, value in found().items() if key != "options"}
    for past in (before_this_version, found(options=["--pid host"])):
        assert STEP.restore(FACTS, found(), past)["options"] == []  # type: ignore[index]


def with_docker(folder: Path, docker: str, script: str, *words: str) -> None:
    """Run a script of a host with a Docker that runs some shell; the folder has the records of images."""
    (folder / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (folder / "docker").chmod(0o755)
    subprocess.run(
        ["sh", "-eu", "-c", script.replace(image.MARKS, f"{folder}/images"), "sh", *words],
        check=True,
        timeout=30,
        env={"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), "SAID": str(folder / "said")},
    )


def test_a_container_is_created_without_the_proxies_of_the_docker_client(tmp_path: Path) -> None:
    docker = 'echo "$1 ${DOCKER_CONFIG:-its own}" >>"$SAID"; [ "$1" != inspect ]'
    with_docker(tmp_path, docker, scripts.RECREATE, "ollama1", "--label", "x", "ollama/ollama:0.34.4")
    assert "create /nonexistent" in (tmp_path / "said").read_text().splitlines()


def test_the_record_of_a_pull_has_the_id_of_the_image(tmp_path: Path) -> None:
    docker = 'case "$1 $2" in "image inspect") echo sha256:49f8 ;; esac'
    with_docker(tmp_path, docker, image.PULL, "ollama/ollama:0.34.4", "mark", "1")
    assert (tmp_path / "images/mark").read_text() == "ollama/ollama:0.34.4 sha256:49f8\n"


def test_the_record_of_an_earlier_version_gets_the_id(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/mark").write_text("ollama/ollama:0.34.4\n")
    with_docker(tmp_path, "exit 1", image.RECORD, "ollama/ollama:0.34.4", "sha256:49f8", "mark")
    assert (tmp_path / "images/mark").read_text() == "ollama/ollama:0.34.4 sha256:49f8\n"


@pytest.mark.parametrize("name", ["and_other_variables", "and_another_command"])
def test_the_state_of_a_container_holds_no_value_that_may_be_secret(name: str) -> None:
    case = yaml.safe_load((TESTS / f"facts/Container/copied_labels_{name}.yaml").read_text())
    assert "hunter2" in case["stdout"]
    assert "hunter2" not in str(STEP.fact().parse(Answer(0, case["stdout"].encode())))
