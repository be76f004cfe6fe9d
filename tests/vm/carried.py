"""The disk that a carrier gets along: parts of the lab and packages of Python, so that the carrier downloads little.

A disk is an ext4 file system without partitions. The machine that runs `make test-vm` makes the parts as for a lab of
its own (`provision lab prepare`). The base alone differs: a base for cgroup v1 has a unit that cgroup v2 does not need.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from provision.lab import base, paths
from provision.lab.lab import Lab
from provision.lab.locks import locked
from provision.lab.shell import run
from tests.results import ROOT
from tests.vm.case import NotRunError, ending

LABEL = "lab-parts"
PARTS = ("gpg", "models", "models.made-of", "packages", "registry", "site")
"""What the lab's cache has besides bases and downloads of apt."""
_FREE_GIB = 8
_PYTHON = "3.11"  # of Debian 12
_LOCK = ROOT / "requirements.lock"


def made(release: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Make the disk and return the file.

    Args:
        release: release of the lab's hosts.
        folder: folder for the file.
        say: called with a line before each long step.

    Raises:
        LabError: a part of the lab cannot be made.
        NotRunError: the packages of Python cannot be had.
    """
    Lab.prepare(release, install=True, say=say)
    wheels = _wheels(say)
    say("making the disk with the lab's parts and the packages of Python (half a minute)")
    stage, disk = folder / "stage", folder / "parts.raw"
    shutil.rmtree(stage, ignore_errors=True)
    (stage / "cache/base").mkdir(parents=True)
    try:
        shutil.copytree(wheels, stage / "wheels")
        with locked("_cache"):
            for source in [*(paths.CACHE / name for name in PARTS), *paths.CACHE.glob(f"image-{release}-*")]:
                run(["cp", "-a", source, stage / "cache"])
            tree = stage / "cache/base" / base.path(release, 2).name
            run(["cp", "-a", base.path(release), tree], timeout=900)
        for name in base.VERSION_1_FILES:
            (tree / name).unlink(missing_ok=True)
        _filled(disk, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return disk


def _filled(disk: Path, stage: Path) -> None:
    size = int(run(["du", "-sm", stage]).stdout.split()[0]) / 1024 + _FREE_GIB
    with disk.open("wb") as file:
        file.truncate(int(size * 2**30))
    run(["mkfs.ext4", "-q", "-L", LABEL, "-E", "lazy_itable_init=1", "-d", stage, disk], timeout=900)


def _wheels(say: Callable[[str], None]) -> Path:
    """Return a folder with every package of requirements.lock for the carrier's Python; downloaded once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "provision-vm"
    folder = cache / f"wheels-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]}"
    if not folder.is_dir():
        say("downloading the packages of requirements.lock for the carrier's Python (once)")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _downloaded(partial)
        partial.rename(folder)
    return folder


def _downloaded(folder: Path) -> None:
    options: Sequence[str] = ("--quiet", "--require-hashes", "--only-binary=:all:", f"--python-version={_PYTHON}")
    words = [sys.executable, "-m", "pip", "download", *options, "-r", str(_LOCK), "-d", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        said = ending(done.stderr or done.stdout)
        raise NotRunError(f"pip cannot download the packages of requirements.lock: {said}: look at `pip config list`")
