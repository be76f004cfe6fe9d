"""Whether the processes of an instance hold the memory that its server claims: the parser and the script agree."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.steps.docker.gpu_processes import Application, Holding, Listing, holding
from provision.steps.ollama import scripts

CARD, OTHER = "GPU-1", "GPU-2"
CLAIM = 2000
ID = "ab" * 32
PIDS = {"ours": 11, "theirs": 12, "hidden": 13}
DOCKER = f"""#!/bin/sh
case "$*" in
  *DeviceIDs*) echo '{CARD},' ;;
  *.Id*) echo {ID} ;;
esac
"""
CAT = f"""#!/bin/sh
case $1 in
  /proc/{PIDS["ours"]}/cgroup) printf '%s\\n' 1:devices:/docker/{ID} 0::/docker/{ID} ;;
  /proc/{PIDS["theirs"]}/cgroup) echo 0::/user.slice ;;
  *) exit 1 ;;
esac
"""
SMI = """#!/bin/sh
case "$*" in
  *compute-apps*) printf '%s' "$ROWS"; exit "${CODE:-0}" ;;
  *) printf '%s' "$USED" ;;
esac
"""


@dataclass(frozen=True)
class Row:
    """A row of nvidia-smi.

    Args:
        memory: MiB, or nvidia-smi's words.
        card: UUID of the card.
        whose: `ours`, `theirs`, or `hidden` for a process that the host does not know.
    """

    memory: str
    card: str = CARD
    whose: str = "ours"


CASES: dict[str, tuple[list[Row] | None, str, bool | None]] = {
    "the process holds the memory": ([Row("2300")], "", True),
    "several processes hold the memory": ([Row("600"), Row("600"), Row("5", OTHER, "theirs")], "", True),
    "the process holds too little": ([Row("312")], "", False),
    "only others are on the cards": ([Row("2300", CARD, "theirs")], "", False),
    "a process elsewhere is hidden": ([Row("2300", OTHER, "hidden")], "", False),
    "a process on its card is hidden": ([Row("2300", CARD, "hidden")], "", None),
    "a hidden process beside enough memory": ([Row("2300"), Row("1", CARD, "hidden")], "", True),
    "the memory is not told": ([Row("[N/A]")], "", None),
    "no process, and the card is empty": ([], "3", False),
    "no process, and the card is in use": ([], "2580", None),
    "no process, and the use is not told": ([], "[N/A]", None),
    "nvidia-smi fails": (None, "", None),
}


@pytest.mark.parametrize(("rows", "used", "verdict"), CASES.values(), ids=list(CASES))
def test_the_parser_compares_the_claim_with_the_processes(
    rows: list[Row] | None, used: str, verdict: bool | None
) -> None:
    listing = rows if rows is None else _listing(rows, used)
    found = holding(listing, "ollama1", [CARD], CLAIM)
    assert found.proved is verdict
    assert found.words


def _listing(rows: list[Row], used: str) -> Listing:
    placed = [row for row in rows if row.whose != "hidden"]
    return Listing(
        tuple(
            Application(
                row.card,
                pid,
                "ollama",
                "ollama1" if row.whose == "ours" else "",
                int(row.memory) if row.memory.isdigit() else None,
            )
            for pid, row in enumerate(placed)
        ),
        frozenset(row.card for row in rows if row.whose == "hidden"),
        {CARD: int(used)} if used.isdigit() else {},
    )


@pytest.mark.parametrize(("rows", "used", "verdict"), CASES.values(), ids=list(CASES))
def test_the_script_compares_the_claim_with_the_processes(
    tmp_path: Path, rows: list[Row] | None, used: str, verdict: bool | None
) -> None:
    listed = "".join(f"{row.card}, {PIDS[row.whose]}, {row.memory}\n" for row in rows or ())
    done = held(tmp_path, ROWS=listed, USED=used, CODE="9" if rows is None else "0")
    print(done)
    if verdict is False:
        assert done.returncode == 1
        assert f"of its cards, and its server says {CLAIM} MiB: it works on the CPU" in done.stderr
    else:
        assert done.returncode == 0
        assert ("not asked: " in done.stdout) == (verdict is None)


def held(folder: Path, **says: str) -> subprocess.CompletedProcess[str]:
    """Run the function of the scripts that compares."""
    for name, text in {"docker": DOCKER, "nvidia-smi": SMI, "cat": CAT}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    text = f"{scripts.WHOLE}\nheld ollama1 {CLAIM}"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **says}
    return subprocess.run(
        ["sh", "-eu"], input=text, capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def test_a_claim_of_nothing_needs_no_process() -> None:
    assert holding(Listing(), "ollama1", [CARD], 0) == Holding(True, "0 MiB")
