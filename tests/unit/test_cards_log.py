"""What the log of a server says of its cards, while the lines of its start are there."""

import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.steps.instance import cards_log
from provision.steps.instance.engine import CardsLog
from provision.steps.ollama.engine import OLLAMA

LINE = 'time=2026-11-29T21:51:45Z level=INFO source=types.go:60 msg="inference compute" id=GPU-1 '
NOISE = '[GIN] 2026/11/29 - 21:52:10 | 200 | 215.1ms | 127.0.0.1 | POST "/api/generate" library=x\n'
DOCKER = '#!/bin/sh\ncase $1 in inspect) echo 2026-11-29T21:51:45Z ;; logs) cat "$LOG" >&2 ;; esac\n'


class Live:
    """A host whose `docker logs` prints a log."""

    def __init__(self, folder: Path, log: str) -> None:
        (folder / "docker").write_text(DOCKER)
        (folder / "docker").chmod(0o755)
        (folder / "log").write_text(log)
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(folder / "log")}

    def run(self, command: str, *words: str) -> SimpleNamespace:
        text = command % tuple(map(shlex.quote, words))
        done = subprocess.run(
            ["sh", "-c", text], capture_output=True, text=True, check=False, env=self.environment, timeout=60
        )
        return SimpleNamespace(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)


@pytest.mark.parametrize(
    ("log", "got", "passed"),
    [
        (f'{LINE}library=CUDA compute=8.9 total="24.0 GiB"\n', ["cuda"], True),
        (f"{LINE}library=cuda variant=v12\n{LINE}library=cuda variant=v12\n", ["cuda"], True),
        (f'{LINE}library=cpu compute="" name=cpu\n', ["cpu"], False),
        (f"{LINE}library=Vulkan compute=0.0\n", ["vulkan"], False),
        (f"{LINE}library=CUDA\n{LINE}library=Vulkan\n", ["cuda", "vulkan"], False),
        (NOISE * 3, True, True),
        ("", True, True),
    ],
    ids=["CUDA", "two cards", "no card", "Vulkan", "one card by Vulkan", "the start is gone", "no log"],
)
def test_the_library_in_the_log(tmp_path: Path, log: str, got: Any, passed: bool) -> None:
    assert OLLAMA.cards_log == CardsLog(line="inference compute", key="library", wanted="CUDA")
    check = cards_log.check(Live(tmp_path, log), "ollama1", OLLAMA.cards_log)
    assert (check.got, check.passed) == (got, passed)
    assert check.name.startswith("not asked: ") == (got is True)
