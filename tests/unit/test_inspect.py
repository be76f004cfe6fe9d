"""What Docker is asked, by a real shell and a Docker that says what it likes."""

import os
import subprocess
from pathlib import Path

import pytest

from provision.command import Answer
from provision.steps.base import BlockedError, UnreadableError
from provision.steps.docker import inspect
from provision.steps.docker.gpu_processes import Application

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
    command = inspect.COMMAND
    said = subprocess.run(
        command.words, input=command.stdin, capture_output=True, env=environment, check=False, timeout=60
    )
    return Answer(said.returncode, said.stdout, said.stderr), asked.read_text().splitlines()


def test_every_container_is_looked_at(tmp_path: Path) -> None:
    answer, asked = ask(tmp_path, PS="printf '0a1b\\n2c3d\\n'")
    assert inspect.read(answer).containers == {}
    assert any(line.startswith("inspect") and line.endswith(" 0a1b 2c3d") for line in asked)


@pytest.mark.parametrize("ids", ["echo --help", "echo '/etc/*'", "yes '[loud]' | head -c 45000000"])
def test_what_is_no_id_goes_no_further(tmp_path: Path, ids: str) -> None:
    answer, asked = ask(tmp_path, PS=ids)
    assert {line.partition(" ")[0] for line in asked} == {"ps"}
    with pytest.raises(UnreadableError, match="no ids of containers"):
        inspect.read(answer)


@pytest.mark.parametrize("says", [{"PS": "exit 1"}, {"PS": "echo 0a1b", "GONE": "yes"}])
def test_a_docker_that_refuses_proves_nothing(tmp_path: Path, says: dict[str, str]) -> None:
    answer, _ = ask(tmp_path, **says)
    with pytest.raises(BlockedError):
        inspect.read(answer)


SMI = """#!/bin/sh
printf '%s\\n' "$ROWS"
exit "${CODE:-0}"
"""


def applications(folder: Path, rows: str, **says: str) -> tuple[Application, ...] | None:
    """The processes on the cards, where nvidia-smi says that of a host without containers."""
    (folder / "nvidia-smi").write_text(SMI)
    (folder / "nvidia-smi").chmod(0o755)
    answer, _ = ask(folder, PS="", ROWS=rows, **says)
    return inspect.read(answer).applications


def test_a_process_on_a_card_is_looked_up_on_the_host(tmp_path: Path) -> None:
    me = os.getpid()
    (found,) = applications(tmp_path, f"GPU-1, {me}, 512, /usr/bin/train --name x, y\nGPU-1, 4194305, 5, gone") or ()
    assert (found.card, found.pid, found.program) == ("GPU-1", me, "train")
    (unnamed,) = applications(tmp_path, f"GPU-1, {me}, [N/A], [Not Found]") or ()
    assert unnamed.program == Path("/proc/self/comm").read_text().strip()


@pytest.mark.parametrize("rows", ["", "GPU-1, $(reboot), 5, x", "GPU-1, ../../etc, 5, x", "--help"])
def test_what_is_no_process_is_not_looked_up(tmp_path: Path, rows: str) -> None:
    assert applications(tmp_path, rows) == ()


def test_an_nvidia_smi_that_fails_proves_nothing(tmp_path: Path) -> None:
    assert applications(tmp_path, "NVIDIA-SMI has failed", CODE="9") is None


def test_without_docker_the_processes_on_the_cards_are_known_all_the_same(tmp_path: Path) -> None:
    me = os.getpid()
    shell = f'command() {{ [ "$2" != docker ]; }}\nls() {{ :; }}\n{inspect.COMMAND.stdin.decode()}'
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    said = subprocess.run(
        ["sh", "-s"],
        input=shell.encode(),
        capture_output=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROWS": f"GPU-1, {me}, 5, x"},
        check=True,
        timeout=60,
    )
    found = inspect.read(Answer(0, said.stdout, said.stderr))
    assert [one.pid for one in found.applications or ()] == [me]
    assert found.containers == {}
