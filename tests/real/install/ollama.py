"""The real Ollama, built from its Go module for the CPU."""

import hashlib
import json
import os
import re
import shutil
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.real.install import go, module, packages
from tests.real.install.workshop import InstallError, Workshop, sha256

MODULE = "github.com/ollama/ollama"
PACKAGES = ("g++", "libc6-dev", "libstb-dev", "nlohmann-json3-dev")
"""A compiler, and the headers that Ollama's copy of llama.cpp includes without having them."""


@dataclass(frozen=True)
class Release:
    """The release of Ollama that is built.

    Attributes:
        version: the version.
        checksum: of the module's files, as in a go.sum. The module's own go.sum pins its dependencies.
        header: sha256 of miniaudio.h in the pinned miniaudio.
    """

    version: str = "0.17.4"
    checksum: str = "h1:X3KNm9x4BlHqk/AXMGtC7pBAFd46nmJmy8yDaBZLo9s="
    header: str = "ac7af4de748b7e26b777f37e01cee313a308a7296a3eb080e2906b320cc55c89"

    @property
    def module(self) -> str:
        """The module in Go's words."""
        return f"{MODULE}@v{self.version}"

    @property
    def recipe(self) -> str:
        """The hash of everything that makes a difference."""
        return hashlib.sha256(f"{self.version} {self.checksum} {self.header} 1".encode()).hexdigest()


PINNED = Release()


@dataclass(frozen=True)
class Built:
    """A built Ollama.

    Attributes:
        program: the program.
        version: the version of Ollama.
        seconds: how long the build took.
        work: seconds of processor time in the build.
        go: the version of Go.
        cores: the cores of the machine.
    """

    program: str
    version: str
    seconds: float
    work: float
    go: str
    cores: int

    @property
    def words(self) -> str:
        """The source and the build in words for the page."""
        return (
            f"Go module {PINNED.module} ({PINNED.checksum}), built here with Go {self.go} for the CPU:"
            f" {self.work / 60:.0f} minutes of processor time, {self.seconds / 60:.0f} minutes on {self.cores} cores"
        )


def installed(shop: Workshop, release: Release = PINNED, usual_go: str = go.USUAL) -> Built:
    """Return the real Ollama; a missing one is built first.

    Args:
        shop: the workshop.
        release: the release.
        usual_go: see `go.find`.

    Raises:
        InstallError: no Go, another module than the pinned one, or a failed build; the text says which.
    """
    folder = shop.folder / f"ollama-{release.version}"
    stamp = folder / "built.json"
    if stamp.is_file() and (folder / "ollama").is_file():
        known = json.loads(stamp.read_text())
        if known["recipe"] == release.recipe:
            return Built(**known["built"])
    compiler = go.find(shop, usual_go)
    packages.distribution(shop, PACKAGES, "compiling Ollama")
    headers = _headers(shop, release)
    source = module.fetched(shop, compiler, release.module, release.checksum)
    shop.say(f"building Ollama {release.version} with Go {compiler.version}: about 6 minutes of a processor")
    begun, worked = time.monotonic(), module.processor_time()
    folder.mkdir(exist_ok=True)
    _build(shop, compiler, source, headers, release, folder / "ollama")
    cores = len(os.sched_getaffinity(0))
    seconds, work = round(time.monotonic() - begun), round(module.processor_time() - worked)
    made = Built(str(folder / "ollama"), release.version, seconds, work, compiler.version, cores)
    stamp.write_text(json.dumps({"recipe": release.recipe, "built": asdict(made)}))
    return made


def _headers(shop: Workshop, release: Release) -> Path:
    """Return a folder with `miniaudio/miniaudio.h`, from the source package of miniaudio."""
    header = shop.folder / "include/miniaudio/miniaudio.h"
    if not (header.is_file() and sha256(header) == release.header):
        (archive,) = packages.download(shop, "miniaudio", shop.folder / "miniaudio", source=True)
        header.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as files:
            found = [member for member in files if member.name.endswith("/miniaudio/miniaudio.h")]
            source = files.extractfile(found[0]) if found else None
            if source is None:
                raise InstallError(f"{archive} has no miniaudio/miniaudio.h, which Ollama {release.version} includes")
            header.write_bytes(source.read())
        if sha256(header) != release.header:
            raise InstallError(f"{header} has sha256 {sha256(header)}, and {release.header} is expected")
    return header.parent.parent


def _build(shop: Workshop, compiler: go.Go, source: Path, headers: Path, release: Release, target: Path) -> None:
    environment = {
        **module.environment(shop),
        "CGO_ENABLED": "1",
        "CGO_CPPFLAGS": f"-I{headers}",
        "GOFLAGS": module.READONLY,
    }
    flags = f"-s -w -X={MODULE}/version.Version={release.version}"
    words = [compiler.program, "build", "-trimpath", "-ldflags", flags, "-o", f"{target}.new", "."]
    advice = (
        f"If the module no longer builds with this compiler (Go {compiler.version}), pin"
        " another release in tests/real/install/ollama.py. Then type make test-real again."
    )
    shop.run(words, f"building the Go module {release.module}", advice, folder=source, **environment)
    said = shop.run([f"{target}.new", "--version"], "starting the built Ollama", advice, OLLAMA_HOST="127.0.0.1:1")
    if not re.search(rf"\b{re.escape(release.version)}\b", said):
        raise InstallError(f"the built Ollama does not say its version {release.version}: {said[-300:]!r}. {advice}")
    shutil.move(f"{target}.new", target)
