"""CPU and memory of a program with all its processes, as Linux counts (proc(5))."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_AFTER_NAME = 2  # characters between the name of a process and its state
_USER = 11  # place of utime after the state


@dataclass(frozen=True)
class Usage:
    """The usage of a program.

    Args:
        cpu: seconds of CPU so far, user and system, with ended processes that a parent has waited for.
        memory: bytes, each shared page once (PSS).
        processes: number of processes.
    """

    cpu: float
    memory: int
    processes: int


def usage(pid: int) -> Usage:
    """Return the usage of a process and its descendants.

    Args:
        pid: the first process.
    """
    pids = tree(pid)
    return Usage(sum(map(_cpu, pids)), sum(map(_memory, pids)), len(pids))


def tree(pid: int) -> list[int]:
    """Return a process and its descendants.

    Args:
        pid: the first process.
    """
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, _text(children).split())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def _cpu(pid: int) -> float:
    stat = _text(Path(f"/proc/{pid}/stat"))
    fields = stat[stat.rfind(")") + _AFTER_NAME :].split()
    return sum(map(int, fields[_USER : _USER + 4])) / _TICKS


def _memory(pid: int) -> int:
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
