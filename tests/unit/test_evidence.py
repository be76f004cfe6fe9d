"""The lines of a server's log that a failed load or test of an instance shows."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.steps.ollama import scripts

CASES = yaml.safe_load(Path(__file__).with_name("ollama_logs.yaml").read_text())
DOCKER = """#!/bin/sh
case "$*" in
  inspect*) echo 2026-11-29T21:51:45Z ;;
  "logs --since 2026-11-29T21:51:45Z ollama1") cat "$LOG" >&2 ;;
  "logs --tail 15 ollama1") tail -n 15 "$LOG" ;;
  *) exit 1 ;;
esac
"""


def evidence(folder: Path, log: str) -> str:
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (folder / "log").write_text(log)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")}
    script = f"{scripts.EVIDENCE}\nevidence ollama1"
    done = subprocess.run(
        ["sh", "-eu"], input=script, capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_failure_shows_the_lines_of_the_log_that_matter(tmp_path: Path, case: dict[str, Any]) -> None:
    log = [*case["start"], *(case["request"] * case["requests"])]
    shown = evidence(tmp_path, "".join(f"{line}\n" for line in log))
    assert shown.splitlines() == [log[number][:220] for number in case["shown"]]


def test_the_shown_lines_are_bounded(tmp_path: Path) -> None:
    kinds = ("level=WARN ", "load_tensors: buffer size = 1 ", "library=cpu ")
    shown = evidence(tmp_path, "".join(f"{kind}{number} {'x' * 5000}\n" for number in range(100) for kind in kinds))
    assert len(shown.splitlines()) == 18
    assert len(shown) < 4000
    assert "level=WARN 99" in shown


def test_a_log_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = f"docker() {{ return 1; }}\n{scripts.EVIDENCE}\nevidence ollama1\necho 'goes on'"
    done = subprocess.run(
        ["sh", "-eu"], input=script, capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    assert done.stdout.endswith("goes on\n")
