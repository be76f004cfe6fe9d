"""nginx for virtual machines, compiled in a container of this machine: an emulated machine compiles for minutes."""

import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provision.lab.lab import Lab
from provision.lab.shell import LabError
from tests.results import ROOT
from tests.vm.carrier import FOLDER
from tests.vm.case import ending
from tests.vm.guest import Said, talked

CACHE = FOLDER / "cache"
"""XDG_CACHE_HOME of the commands of this run: builds are kept here, and not with the operator's."""
_SECONDS = 1200  # for a machine on which much else runs
_SOURCES = ("roles/nginx.py", "provision/steps/nginx/*.py", "provision/lab/site.py")


def ensure(release: str, log: Path) -> str:
    """Make sure that the store has nginx for a release, and return how in words.

    Args:
        release: release of Debian.
        log: the file for the output of commands.

    Raises:
        AssertionError: a command failed.
    """
    marker, recipe = CACHE / f"nginx-{release}.made-of", _recipe()
    if marker.exists() and marker.read_text() == recipe:
        return "kept from an earlier run"
    CACHE.mkdir(parents=True, exist_ok=True)
    name = f"build-{release}"
    up = ["lab", "up", "--install", "--name", name, "--gpu-hosts", "0", "--release", release]
    try:
        passed(up, log, _SECONDS)
        words = ["deploy", "--yes", "--tags", "nginx", "--inventory", str(Lab.find(name).inventory)]
        seconds = passed(words, log, _SECONDS).seconds
    finally:
        with suppress(LabError):  # a lab that never was
            Lab.find(name).down()
    marker.write_text(recipe)
    return f"deploy --tags nginx to a container: {seconds:.0f} s"


def passed(words: Sequence[str], log: Path, seconds: float) -> Said:
    """Run `provision` as `provision` does, and refuse another exit code than 0.

    Raises:
        AssertionError: the command failed; the text has the end of the output.
    """
    said = provision(words, log, seconds)
    assert said.code == 0, f"`provision {words[0]}` ended with exit code {said.code}: {ending(said.text)}"
    return said


def environment() -> dict[str, str]:
    """The environment of commands that use the store."""
    return {**os.environ, "XDG_CACHE_HOME": str(CACHE), "COLUMNS": "160"}


def provision(words: Sequence[str], log: Path, seconds: float) -> Said:
    """Run `provision` on this machine with the store.

    Args:
        words: the words after `provision`.
        log: the file for the output.
        seconds: how long the command may take.
    """
    with log.open("a") as file:
        file.write(f"$ provision {' '.join(words)}\n")
    return talked([sys.executable, "-m", "provision", *words], log, seconds, env=environment())


def _recipe() -> str:
    """A hash over all our sources that decide about a build."""
    files = sorted(path for pattern in _SOURCES for path in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
