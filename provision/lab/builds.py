"""A native build of nginx for hosts that are emulated, where a compile takes ten times as long.

A host in a container has the distribution, the release and the architecture of a virtual machine of the same release.
So a deploy to such a host leaves a build in this machine's store of artifacts that later deploys bring to virtual
machines, as a deploy does with every host of the same platform.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from provision.artifacts.store import default_folder
from provision.lab import site
from provision.lab.lab import Lab
from provision.lab.locks import locked
from provision.lab.shell import LabError, run
from provision.lab.spec import Spec
from provision.plan.role_interface import role
from provision.steps.nginx import build, build_scripts, source

NAME = "native-build-for-vm"
"""A name that no person would give to a lab: a lab of this name is left over from a killed run."""


def ensure(
    release: str,
    say: Callable[[str], None],
    compile_for: Callable[[str], None] | None = None,
    folder: Path | None = None,
) -> None:
    """Make sure that this machine's store has a build of nginx for hosts of a release.

    Where the compile fails, say so: the first deploy then compiles in the virtual machine.

    Args:
        release: release of the hosts.
        say: called with a line before the compile and after a failure.
        compile_for: compiles for a release, into the store; in a lab with one host by default.
        folder: folder for the note about builds that are there; beside the store by default.
    """
    note = (folder or default_folder().with_name("lab-builds")) / release
    if note.exists() and note.read_text() == _recipe():
        return
    say(f"compiling nginx on this machine, in a container of {release}, so that no virtual machine compiles (minutes)")
    try:
        (compile_for or _compile)(release)
    except LabError as error:
        say(f"nginx was not compiled here: {error.message}")
        say("the first deploy compiles nginx in a virtual machine instead, which is slow where QEMU emulates")
        return
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(_recipe())


def words(inventory: Path) -> Sequence[str]:
    """The command that compiles nginx on the host of an inventory and keeps the build."""
    return [sys.executable, "-m", "provision", "deploy", "--yes", "-t", "nginx", "--inventory", str(inventory)]


def _compile(release: str) -> None:
    with locked("_build"):
        for left_over in (lab for lab in Lab.all() if lab.name == NAME):
            left_over.down()
        lab = Lab.up(Spec(NAME, 0, 1, 0, release=release))
        try:
            done: subprocess.CompletedProcess[str] = run(words(lab.inventory), check=False, timeout=1800)
        finally:
            lab.down()
    if done.returncode:
        text = (done.stdout + done.stderr).strip()[-500:]
        raise LabError(f"`provision deploy` in a container ended with exit code {done.returncode}: {text}")


def _recipe() -> str:
    """A hash over our sources that decide about the build."""
    digest = hashlib.sha256()
    for module in (site, role("nginx"), build, build_scripts, source):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
