"""Docker's daemon, proxy and client, built from their Go modules.

Docker 29's module is github.com/moby/moby/v2, whose pre-releases carry no engine's number: the client of the same day
tells the number. Docker 28 and every client are modules without go.mod (see `module.with_go_mod`). No program here is
linked with C, so Docker reads no journal of containers; everything else is upstream's code, unchanged.
"""

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.real.install import go, module
from tests.real.install.workshop import InstallError, Workshop, default_folder
from tests.verdicts import Program

PROGRAMS = ("dockerd", "docker-proxy", "docker")
_MOBY, _OLD, _CLIENT = "github.com/moby/moby/v2", "github.com/docker/docker", "github.com/docker/cli"
WITHOUT = "PROVISION_WITHOUT_DOCKER_28"
"""An environment variable with the reason why Docker 28 is not built; without the variable Docker 28 is built."""
_STAMPS = {"dockerd": "dockerversion.Version", "docker": "cli/version.Version"}


@dataclass(frozen=True)
class Release:
    """A release of Docker that is built.

    Attributes:
        version: the version that the programs say.
        go: the line `go` in the newest of the modules' go.mod.
        engine: the module of the daemon and of the proxy, `MODULE@VERSION`.
        engine_checksum: of the module's files, as in a go.sum. The module's own go.sum pins its dependencies.
        client: the module of the client.
        client_checksum: of that module's files.
    """

    version: str
    go: tuple[int, ...]
    engine: str
    engine_checksum: str
    client: str
    client_checksum: str

    @property
    def recipe(self) -> str:
        """The hash of everything that makes a difference."""
        return hashlib.sha256(f"{asdict(self)} 1".encode()).hexdigest()


# The modules of the engine and of the client are of 2026-09-15 both, and need the same moby/api 1.56.0.
NEWEST = Release(
    "29.8.1",
    (1, 26, 3),
    f"{_MOBY}@v2.0.0-beta.24",
    "h1:sWv7EckkDJhpraR9yUjkw1XeVf39+MWd58E22PYloNA=",
    f"{_CLIENT}@v29.8.1+incompatible",
    "h1:qYL1bCp6cRw2SB1xmLlIOPyV171dilw9W2Jew38vy9c=",
)
OLDER = Release(
    "28.5.2",
    (1, 24, 0),
    f"{_OLD}@v28.5.2+incompatible",
    "h1:DBX0Y0zAjZbSrm1uzOkdr1onVghKaftjlSWt4AFexzM=",
    f"{_CLIENT}@v28.5.2+incompatible",
    "h1:XmG99IHcBmIAoC1PPg9eLBZPlTrNUAijsHLm8PjhBlg=",
)


@dataclass(frozen=True)
class Built:
    """A built Docker.

    Attributes:
        folder: the folder of the programs.
        version: the version.
        modules: the modules of the engine and of the client.
        seconds: how long the build took.
        work: seconds of processor time in the build.
        go: the version of Go.
        cores: the cores of the machine.
    """

    folder: str
    version: str
    modules: str
    seconds: int
    work: int
    go: str
    cores: int

    @property
    def words(self) -> str:
        """The source and the build in words for the page."""
        return (
            f"Go modules {self.modules}, built here with Go {self.go}, with the distribution's containerd and runc:"
            f" {self.work / 60:.0f} minutes of processor time, {self.seconds / 60:.0f} minutes on {self.cores} cores,"
            " both without what Go's cache had"
        )


def programs() -> list[Program]:
    """Build both releases where they are missing, and return them for the page.

    Raises:
        InstallError: Docker 29 cannot be built; see `installed`.
    """
    shop = Workshop(default_folder())
    newest, older = installed(shop, NEWEST), older_if_it_builds(shop)
    return [
        Program("Docker", newest.version, newest.words),
        Program("Docker", OLDER.version, older if isinstance(older, str) else older.words),
    ]


def older_if_it_builds(shop: Workshop, usual_go: str = go.USUAL) -> Built | str:
    """Return Docker 28, or the words for the page where Docker 28 is not built.

    The module has no go.mod, so one day a newer Go may refuse the module; Docker 29 is tried all the same.

    Args:
        shop: the workshop. `WITHOUT` in the environment of the workshop is a reason to leave the build out.
        usual_go: a path of Go beside those in PATH.
    """
    if reason := shop.environment.get(WITHOUT):
        return f"not built: {reason}"
    try:
        return installed(shop, OLDER, usual_go)
    except InstallError as error:
        return f"not built: {error}"


def installed(shop: Workshop, release: Release, usual_go: str = go.USUAL) -> Built:
    """Return Docker's programs; missing programs are built first.

    Args:
        shop: the workshop.
        release: the release.
        usual_go: a path of Go beside those in PATH.

    Raises:
        InstallError: no Go, a module is not to be had or is another one, or a module no longer builds; the text says
            which.
    """
    folder = shop.folder / f"docker-{release.version}"
    stamp = folder / "built.json"
    if stamp.is_file() and all((folder / name).is_file() for name in PROGRAMS):
        known = json.loads(stamp.read_text())
        if known["recipe"] == release.recipe:
            return Built(**known["built"])
    compiler = go.find(shop, usual_go, release.go, f"Docker {release.version}")
    begun, worked = time.monotonic(), module.processor_time()
    folder.mkdir(parents=True, exist_ok=True)
    _build(shop, compiler, release, folder)
    modules = f"{release.engine} ({release.engine_checksum}) and {release.client} ({release.client_checksum})"
    seconds, work = round(time.monotonic() - begun), round(module.processor_time() - worked)
    cores = len(os.sched_getaffinity(0))
    made = Built(str(folder), release.version, modules, seconds, work, compiler.version, cores)
    stamp.write_text(json.dumps({"recipe": release.recipe, "built": asdict(made)}))
    return made


def _build(shop: Workshop, compiler: go.Go, release: Release, folder: Path) -> None:
    engine = _source(shop, compiler, release.engine, release.engine_checksum)
    for name in ("dockerd", "docker-proxy"):
        _program(shop, compiler, release, release.engine, engine, folder / name)
    client = _source(shop, compiler, release.client, release.client_checksum)
    _program(shop, compiler, release, release.client, client, folder / "docker")


def _source(shop: Workshop, compiler: go.Go, name: str, checksum: str) -> Path:
    return module.with_go_mod(shop, module.fetched(shop, compiler, name, checksum))


def _program(shop: Workshop, compiler: go.Go, release: Release, name: str, source: Path, target: Path) -> None:
    shop.say(f"building {target.name} {release.version} with Go {compiler.version}: up to 5 minutes of a processor")
    environment = {**module.environment(shop), "CGO_ENABLED": "0", "GOFLAGS": module.READONLY}
    stamp = _STAMPS.get(target.name)
    flags = f"-s -w -X={name.partition('@')[0]}/{stamp}={release.version}" if stamp else "-s -w"
    words = [compiler.program, "build", "-trimpath", "-ldflags", flags, "-o", f"{target}.new", f"./cmd/{target.name}"]
    advice = (
        f"If the module no longer builds with this compiler (Go {compiler.version}), pin another release in"
        " tests/real/install/docker.py. Then type make test-real PARTS=docker again."
    )
    shop.run(words, f"building {target.name} of the Go module {name}", advice, folder=source, **environment)
    if stamp:
        said = shop.run([f"{target}.new", "--version"], f"starting the built {target.name}", advice)
        if not re.search(rf"\bversion {re.escape(release.version)}\b", said):
            raise InstallError(
                f"the built {target.name} does not say its version {release.version}: {said[-300:]!r}. {advice}"
            )
    shutil.move(f"{target}.new", target)
