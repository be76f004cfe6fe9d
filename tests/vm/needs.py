"""What a part needs of this machine: QEMU, memory and room on the disk, each missing thing said by name."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from provision.lab import vm_image
from tests.vm.case import NotRunError, ending

_MEMINFO = Path("/proc/meminfo")
DISK = 16.0
"""GiB of room for images, overlays and carried parts."""
_SPARE_GIB = 1  # for QEMU itself and for this machine


def require(
    memory_gib: float,
    disk_gib: float,
    folder: Path = Path("/var"),
    meminfo: Path = _MEMINFO,
    found: Callable[[str], str | None] = shutil.which,
    install: Callable[[str], str] | None = None,
) -> None:
    """Make sure that the machine can run a part; QEMU is installed where it is missing.

    Args:
        memory_gib: memory of all virtual machines together.
        disk_gib: room on the disk for images, overlays and carried parts.
        folder: a folder of the disk.
        meminfo: the kernel's account of the memory.
        found: returns the path of a program, or None.
        install: installs a package and returns an empty text, or the reason of the failure; apt-get by default.

    Raises:
        NotRunError: the machine lacks something; the text names it and the next step.
        LabError: the lab has no virtual machines for this kind of machine, or the disk is full.
    """
    board = vm_image.architecture()
    for program, package in ((board.emulator, board.package), ("qemu-img", "qemu-utils")):
        reason = "" if found(program) else (install or _installed)(package)
        if reason or not found(program):
            raise NotRunError(f"no {program}: apt-get install {package} failed: {reason or 'no such program after it'}")
    have = _available(meminfo)
    if have < memory_gib + _SPARE_GIB:
        raise NotRunError(
            f"not enough memory: virtual machines and QEMU need {memory_gib + _SPARE_GIB:g} GiB,"
            f" {have:.1f} GiB are available: end other programs, or take a larger machine"
        )
    vm_image.require_room(folder, disk_gib)


def _available(meminfo: Path) -> float:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    raise NotRunError(f"{meminfo} does not say how much memory is available")


def _installed(package: str) -> str:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "--yes", "--no-install-recommends", package]
    for command in (["apt-get", "update", "-q"], words):
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return ending(done.stderr or done.stdout) if done.returncode else ""
