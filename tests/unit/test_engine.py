"""What Docker is asked, by a real shell and a Docker that says what it likes."""

import os
import subprocess
from pathlib import Path

import pytest

from provision.command import Answer
from provision.steps import engine
from provision.steps.base import BlockedError, UnreadableError

DOCKER = """#!/bin/sh
echo "$*" >>"$ASKED"
case $1 in
  ps) eval "$PS" ;;
  inspect) [ -z "${GONE:-}" ] || exit 1 ;;
esac
"""


def ask(folder: Path, **says: str) -> tuple[Answer, list[str]]:
    """The answer, and what Docker was asked."""
    for name, text in {"docker": DOCKER, "systemctl": "#!/bin/sh\necho active\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    asked = folder / "asked"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(asked), **says}
    command = engine.COMMAND
    said = subprocess.run(
        command.words, input=command.stdin, capture_output=True, env=environment, check=False, timeout=60
    )
    return Answer(said.returncode, said.stdout, said.stderr), asked.read_text().splitlines()


def test_every_container_is_looked_at(tmp_path: Path) -> None:
    answer, asked = ask(tmp_path, PS="printf '0a1b\\n2c3d\\n'")
    assert engine.read(answer).containers == {}
    assert any(line.startswith("inspect") and line.endswith(" 0a1b 2c3d") for line in asked)


@pytest.mark.parametrize("ids", ["echo --help", "echo '/etc/*'", "yes '[loud]' | head -c 45000000"])
def test_what_is_no_id_goes_no_further(tmp_path: Path, ids: str) -> None:
    answer, asked = ask(tmp_path, PS=ids)
    assert {line.partition(" ")[0] for line in asked} == {"ps"}
    with pytest.raises(UnreadableError, match="no ids of containers"):
        engine.read(answer)


@pytest.mark.parametrize("says", [{"PS": "exit 1"}, {"PS": "echo 0a1b", "GONE": "yes"}])
def test_a_docker_that_refuses_proves_nothing(tmp_path: Path, says: dict[str, str]) -> None:
    answer, _ = ask(tmp_path, **says)
    with pytest.raises(BlockedError):
        engine.read(answer)
