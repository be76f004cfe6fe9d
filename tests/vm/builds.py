"""Commands of `provision` outside of virtual machines, and nginx for machines without a compile."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from provision.artifacts.store import default_folder
from provision.lab import builds
from tests.vm.case import ending
from tests.vm.guest import Said, talked


def packed(release: str, say: Callable[[str], None]) -> bytes:
    """Return the store of builds as a tar archive, after a container compiled nginx for a release.

    Args:
        release: release of Debian.
        say: called with a line before the compile and after a failure.
    """
    builds.ensure(release, say)
    store = default_folder()
    store.mkdir(parents=True, exist_ok=True)
    words = ["tar", "-C", str(store.parents[1]), "-c", f"{store.parent.name}/{store.name}"]
    return subprocess.run(words, capture_output=True, check=True).stdout


def passed(words: Sequence[str], log: Path, seconds: float) -> Said:
    """Run `provision` as `provision` does, and refuse another exit code than 0.

    Raises:
        AssertionError: the command failed; the text has the errors, or the end of the output.
    """
    said = provision(words, log, seconds)
    errors = "; ".join(line.strip() for _, line in said.lines if "error:" in line) or ending(said.text)
    assert said.code == 0, f"`provision {words[0]}` ended with exit code {said.code}: {errors}"
    return said


def provision(words: Sequence[str], log: Path, seconds: float) -> Said:
    """Run `provision` outside of virtual machines.

    Args:
        words: the words after `provision`.
        log: the file for the output.
        seconds: how long the command may take.
    """
    with log.open("a") as file:
        file.write(f"$ provision {' '.join(words)}\n")
    return talked([sys.executable, "-m", "provision", *words], log, seconds, env=environment())


def environment() -> dict[str, str]:
    """The environment of commands: ours, with lines of a fixed width."""
    return {**os.environ, "COLUMNS": "160"}
