"""The link to nginx on PATH, beside programs of the operator."""

import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from provision.command import Answer
from provision.steps import facts
from provision.steps.base import converged
from provision.steps.facts import HostFacts
from provision.steps.system import program
from provision.steps.system.program import Program

STEP = Program(name="nginx", target="/opt/provision/nginx/current/sbin/nginx")
LINKED = {"target": STEP.target}
BESIDE = b"/usr/local/sbin/nginx\0f\x000755\0root:root\0\0content 1\nx\n"


@pytest.mark.parametrize("answer", [b"", BESIDE], ids=["nothing", "a program of the operator"])
def test_a_removal_of_the_link_converges_beside_other_programs(answer: bytes) -> None:
    want = STEP.want(HostFacts(programs=("/usr/sbin/nginx",)), LINKED)
    assert converged(STEP.fact().parse(Answer(0, answer)), want)


def test_a_rollback_replaces_no_program_of_the_operator() -> None:
    assert STEP.restore(HostFacts(programs=(STEP.path,)), None, LINKED) is None
    assert STEP.restore(HostFacts(), None, LINKED) == LINKED


def test_host_facts_name_the_programs_that_are_not_ours(tmp_path: Path) -> None:
    ours, theirs, dangling = (tmp_path / name for name in ("usr/local/sbin", "usr/sbin", "usr/bin"))
    for folder in (ours, theirs, dangling):
        folder.mkdir(parents=True)
    (ours / "nginx").symlink_to(STEP.target)
    (theirs / "nginx").write_text("")
    (dangling / "nginx").symlink_to("/nowhere")
    script = facts.PROGRAMS.replace(" /usr/", f" {tmp_path}/usr/") + "programs"
    said = subprocess.run(["sh", "-eus"], input=script, capture_output=True, check=True, text=True).stdout
    assert said.split() == [f"{theirs}/nginx", f"{dangling}/nginx"]
    text = "# programs\n/usr/sbin/nginx\n# gpu\n# gpu-exit\n127\n"
    assert facts.parse(text).programs == ("/usr/sbin/nginx",)


@pytest.mark.parametrize("installed", [True, False])
def test_a_link_of_the_operator_to_another_folder_is_on_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(program, "FOLDER", str(tmp_path))
    monkeypatch.setattr(program, "PATH", str(tmp_path))
    if installed:
        (tmp_path / "built").write_text("#!/bin/sh\n")
        (tmp_path / "built").chmod(0o755)
    (tmp_path / "nginx").symlink_to(tmp_path / "built")

    def run(command: str, *words: str) -> SimpleNamespace:
        text = command % tuple(map(shlex.quote, words))
        said = subprocess.run(["sh", "-c", text], capture_output=True, check=False, text=True)
        return SimpleNamespace(stdout=said.stdout)

    (check,) = STEP.check(SimpleNamespace(run=run))
    assert check.passed == installed
