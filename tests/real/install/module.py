"""Go modules: fetched with a pinned checksum, and the environment of their builds."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

from tests.real.install.go import Go
from tests.real.install.workshop import InstallError, Workshop

FETCH = "Look at `go env GOPROXY GOSUMDB`: let this machine reach its Go module proxy, then type make test-real again."
READONLY = "-mod=readonly -buildvcs=false"


def environment(shop: Workshop) -> dict[str, str]:
    """Return the environment of Go: modules and objects stay below the workshop, and no other Go is downloaded.

    Args:
        shop: the workshop.
    """
    home = {"GOPATH": str(shop.folder / "go"), "GOCACHE": str(shop.folder / "go-build")}
    return {**home, "GOTOOLCHAIN": "local", "GOWORK": "off"}


def fetched(shop: Workshop, compiler: Go, module: str, checksum: str) -> Path:
    """Return the folder of a module; a missing module is fetched.

    Args:
        shop: the workshop.
        compiler: the Go program.
        module: `MODULE@VERSION` in Go's words.
        checksum: of the module's files, as in a go.sum.

    Raises:
        InstallError: the module is not to be had, or has another checksum.
    """
    doing = f"fetching the Go module {module}"
    shop.say(doing)
    words = [compiler.program, "mod", "download", "-json", module]
    said = shop.run(words, doing, FETCH, **environment(shop), GOFLAGS="-mod=mod")
    try:
        answer: dict[str, Any] = json.loads(said[said.index("{") :])
        folder, found = Path(answer["Dir"]), answer["Sum"]
    except (ValueError, KeyError):
        raise InstallError(f"{doing} failed: go says {said[-300:]!r}. {FETCH}") from None
    if found != checksum:
        raise InstallError(
            f"the Go module {module} has the checksum {found}, and {checksum} is pinned: the proxy"
            " serves another module. Do not build that module: ask who runs the proxy."
        )
    return folder


def with_go_mod(shop: Workshop, folder: Path) -> Path:
    """Return a copy of a module without go.mod, whose vendor.mod and vendor.sum have become go.mod and go.sum.

    docker/cli, and docker/docker up to 28, name their dependencies only there. A folder with a go.mod is returned as
    the folder is.

    Args:
        shop: the workshop.
        folder: the folder of the fetched module.

    Raises:
        InstallError: the module has no vendor.mod either.
    """
    if (folder / "go.mod").is_file():
        return folder
    if not (folder / "vendor.mod").is_file():
        raise InstallError(f"the Go module in {folder} has neither go.mod nor vendor.mod: nothing names what it needs")
    copy = shop.folder / f"source-{folder.parent.name}-{folder.name}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=lambda at, _: ["vendor"] if Path(at) == folder else [])
    copy.chmod(0o755)  # a fetched module is read-only
    for part in ("mod", "sum"):
        shutil.copyfile(folder / f"vendor.{part}", copy / f"go.{part}")
    return copy


def processor_time() -> float:
    """Return the seconds of processor time in ended programs of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
