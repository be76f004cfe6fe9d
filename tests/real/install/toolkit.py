"""Programs of the NVIDIA Container Toolkit, built from their Go module.

Not built: libnvidia-container, a C library without a Go module. nvidia-container-runtime-hook calls this library's
program nvidia-container-cli, so the hook itself is built, and a container by the hook is not tried.
"""

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.real.install import docker, go, module, packages
from tests.real.install.workshop import InstallError, Workshop, default_folder
from tests.verdicts import Program

PROGRAMS = ("nvidia-ctk", "nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-cdi-hook")
COMPILER = ("gcc", "libc6-dev")
_MODULE = "github.com/NVIDIA/nvidia-container-toolkit"
# The linker flags of the module's own Makefile: functions of NVIDIA's driver are looked up when a program calls them.
_LINKED = "-Wl,--export-dynamic -Wl,--unresolved-symbols=ignore-in-object-files -Wl,-z,lazy"


@dataclass(frozen=True)
class Release:
    """A release of the toolkit that is built.

    Attributes:
        version: the version.
        checksum: of the module's files, as in a go.sum. The module's own go.sum pins its dependencies.
        go: the line `go` in go.mod.
    """

    version: str = "1.20.2"
    checksum: str = "h1:ndvx+2v4c8HmRf8A5aONf1+sE32jNDZ7qnIaBEAN5i8="
    go: tuple[int, ...] = (1, 26, 0)

    @property
    def module(self) -> str:
        """The module in Go's words."""
        return f"{_MODULE}@v{self.version}"

    @property
    def recipe(self) -> str:
        """The hash of everything that makes a difference."""
        return hashlib.sha256(f"{asdict(self)} {_LINKED} 1".encode()).hexdigest()


PINNED = Release()


@dataclass(frozen=True)
class Built:
    """A built toolkit.

    Attributes:
        folder: the folder of the programs.
        version: the version.
        module: the module, with the checksum.
        seconds: how long the build took.
        work: seconds of processor time in the build.
        go: the version of Go.
        cores: the cores of the machine.
    """

    folder: str
    version: str
    module: str
    seconds: int
    work: int
    go: str
    cores: int

    @property
    def words(self) -> str:
        """The source and the build in words for the page."""
        return (
            f"Go module {self.module}, built here with Go {self.go}: {self.work / 60:.0f} minutes of processor time,"
            f" {self.seconds / 60:.0f} minutes on {self.cores} cores, both without what Go's cache had"
        )


def programs() -> list[Program]:
    """Build the toolkit, and Docker 29, where they are missing, and return them for the page.

    Raises:
        InstallError: see `installed`.
    """
    shop = Workshop(default_folder())
    made, engine = installed(shop), docker.installed(shop, docker.NEWEST)
    return [
        Program("Docker", engine.version, engine.words),
        Program("NVIDIA Container Toolkit", made.version, made.words),
        Program("libnvidia-container", "", "not tried: a C library without a Go module; so no card by the legacy hook"),
    ]


def installed(shop: Workshop, release: Release = PINNED, usual_go: str = go.USUAL) -> Built:
    """Return the toolkit's programs; missing programs are built first.

    Args:
        shop: the workshop.
        release: the release.
        usual_go: a path of Go beside those in PATH.

    Raises:
        InstallError: no Go, no compiler, another module than the pinned one, or a module that no longer builds; the
            text says which.
    """
    folder = shop.folder / f"toolkit-{release.version}"
    stamp = folder / "built.json"
    if stamp.is_file() and all((folder / name).is_file() for name in PROGRAMS):
        known = json.loads(stamp.read_text())
        if known["recipe"] == release.recipe:
            return Built(**known["built"])
    compiler = go.find(shop, usual_go, release.go, f"the NVIDIA Container Toolkit {release.version}")
    packages.distribution(shop, COMPILER, "compiling the NVIDIA Container Toolkit")
    source = module.fetched(shop, compiler, release.module, release.checksum)
    begun, worked = time.monotonic(), module.processor_time()
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        _build(shop, compiler, source, release, folder / name)
    seconds, work = round(time.monotonic() - begun), round(module.processor_time() - worked)
    cores = len(os.sched_getaffinity(0))
    said = f"{release.module} ({release.checksum})"
    made = Built(str(folder), release.version, said, seconds, work, compiler.version, cores)
    stamp.write_text(json.dumps({"recipe": release.recipe, "built": asdict(made)}))
    return made


def _build(shop: Workshop, compiler: go.Go, source: Path, release: Release, target: Path) -> None:
    shop.say(f"building {target.name} {release.version} with Go {compiler.version}: a minute of a processor")
    environment = {**module.environment(shop), "CGO_ENABLED": "1", "GOFLAGS": module.READONLY}
    flags = f"-s -w '-extldflags={_LINKED}' -X {_MODULE}/internal/info.version={release.version}"
    words = [compiler.program, "build", "-trimpath", "-ldflags", flags, "-o", f"{target}.new", f"./cmd/{target.name}"]
    advice = (
        f"If the module no longer builds with this compiler (Go {compiler.version}), pin another release in"
        " tests/real/install/toolkit.py. Then type make test-real PARTS=toolkit again."
    )
    shop.run(words, f"building {target.name} of the Go module {release.module}", advice, folder=source, **environment)
    if target.name.startswith("nvidia-container-runtime"):  # needs runc to say its version
        shutil.move(f"{target}.new", target)
        return
    said = shop.run([f"{target}.new", "--version"], f"starting the built {target.name}", advice)
    if not re.search(rf"\b{re.escape(release.version)}\b", said):
        raise InstallError(
            f"the built {target.name} does not say its version {release.version}: {said[-300:]!r}. {advice}"
        )
    shutil.move(f"{target}.new", target)
