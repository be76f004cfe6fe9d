"""The .deb packages of the lab: Debian's Docker under Docker's own names, and the simulated NVIDIA toolkit."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision.lab import paths
from provision.lab.base import discard
from provision.lab.shell import LabError, output, run

TOOLKIT_VERSIONS = ("1.20.0", "1.19.1")
_MAINTAINER = "provision lab <lab@localhost>"


@dataclass(frozen=True)
class Package:
    """A package that the lab makes itself.

    Args:
        name: name of the package.
        version: version of the package.
        summary: one line, which tells the simulated part.
        depends: the Depends field.
        files: path in the package (without leading slash) -> source file; all executable.
    """

    name: str
    version: str
    summary: str
    depends: str = ""
    files: dict[str, Path] = field(default_factory=dict)


def architecture() -> str:
    """The machine's architecture in Debian's words."""
    return output(["dpkg", "--print-architecture"])


def build(package: Package, target: Path) -> None:
    """Build one of the lab's packages into the directory `target`."""
    tree = target / f".{package.name}"
    discard(tree)
    for path, source in package.files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, tree / path)
        (tree / path).chmod(0o755)
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": architecture(),
        "Maintainer": _MAINTAINER,
        "Depends": package.depends,
        "Description": f"{package.summary}\n Made by the lab of `provision`; not what its name says elsewhere.",
    }
    _pack(tree, {key: value for key, value in fields.items() if value}, target)


def toolkit(version: str) -> list[Package]:
    """The four packages of the NVIDIA Container Toolkit, simulated."""
    full = f"{version}-1"
    simulated = "SIMULATED NVIDIA Container Toolkit"

    def programs(*names: str) -> dict[str, Path]:
        return {f"usr/bin/{name}": paths.SIMULATED / name for name in names}

    base = programs("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook")
    return [
        Package(
            "nvidia-container-toolkit",
            full,
            f"{simulated}: runtime hook",
            f"nvidia-container-toolkit-base (= {full}), libnvidia-container-tools (>= {full}), python3",
            programs("nvidia-container-runtime-hook"),
        ),
        Package("nvidia-container-toolkit-base", full, f"{simulated}: nvidia-ctk", "python3", base),
        Package(
            "libnvidia-container-tools",
            full,
            f"{simulated}: nvidia-container-cli",
            f"libnvidia-container1 (>= {full}), python3",
            programs("nvidia-container-cli"),
        ),
        Package("libnvidia-container1", full, f"{simulated}: library (empty)"),
    ]


def docker(originals: dict[str, Path], suffix: str, target: Path) -> str:
    """Build Docker's five packages from the distribution's, and return the engine's version.

    Args:
        originals: docker.io, docker-cli (where the distribution has one), containerd and runc, as .deb files.
        suffix: end of the version, such as `1~debian.13~trixie`.
        target: directory for the packages.
    """
    engine = _field(originals["docker.io"], "Version").split("+")[0].split("-")[0].removeprefix("5:")
    version = f"5:{engine}-{suffix}"
    daemon = _unpacked(originals["docker.io"], target)
    _repack(daemon, "docker-ce", version, "docker.io", target)
    if "docker-cli" in originals:
        _repack(_unpacked(originals["docker-cli"], target), "docker-ce-cli", version, "docker-cli", target)
    else:
        build(Package("docker-ce-cli", version, "Empty: this distribution has the client in docker-ce"), target)
    containerd = _unpacked(originals["containerd"], target)
    run(["dpkg-deb", "--extract", originals["runc"], containerd])
    number = _field(originals["containerd"], "Version").split("~")[0].split("+")[0].split("-")[0]
    _repack(containerd, "containerd.io", f"{number}-{suffix}", "containerd, runc", target)
    for plugin in ("buildx", "compose"):
        empty = f"Empty stand-in for the {plugin} plugin"
        build(Package(f"docker-{plugin}-plugin", f"1.0.0-{suffix}", empty), target)
    return engine


def upgraded(package: Path, version: str, programs: Mapping[str, Path], origin: str, target: Path) -> Path:
    """Build a package again with another version and other programs, and return the new package.

    Args:
        package: the .deb file; its scripts, units and dependencies stay.
        version: the new version, with epoch.
        programs: path in the package (without leading slash) -> program.
        origin: where the programs come from, a line.
        target: directory for the package.

    Raises:
        LabError: the package has no file at a path of `programs`.
    """
    tree = _unpacked(package, target)
    for path, program in programs.items():
        if not (tree / path).is_file():
            raise LabError(f"{package.name} has no {path} to replace")
        shutil.copyfile(program, tree / path)
    fields = _read_control(tree)
    origin = f"{fields['Package']} with other programs\n {origin}"
    _pack(tree, {**fields, "Version": version, "Description": origin}, target)
    return target / f"{fields['Package']}_{version.partition(':')[2]}_{fields['Architecture']}.deb"


def _field(package: Path, name: str) -> str:
    return output(["dpkg-deb", "--field", package, name])


def _unpacked(package: Path, target: Path) -> Path:
    tree = target / f".{package.name}"
    discard(tree)
    run(["dpkg-deb", "--raw-extract", package, tree])
    return tree


def _repack(tree: Path, name: str, version: str, replaced: str, target: Path) -> None:
    """Rename an unpacked package of the distribution, and build it."""
    old = _read_control(tree)
    rest: dict[str, str] = {key: old[key] for key in ("Architecture", "Installed-Size", "Pre-Depends") if key in old}
    fields: dict[str, str] = {
        "Package": name,
        "Version": version,
        **rest,
        "Maintainer": _MAINTAINER,
        "Depends": _depends(old.get("Depends", ""), name),
        "Conflicts": replaced,
        "Replaces": replaced,
        "Description": f"The distribution's {replaced}, under Docker's name\n"
        f" Repacked by the lab of `provision`; the programs are the distribution's, unchanged.",
    }
    _pack(tree, fields, target)


def _depends(old: str, name: str) -> str:
    """Dependencies with Docker's packages in place of the distribution's."""
    own = {"containerd", "runc", "docker-cli", "docker.io"}
    rest = [part.strip() for part in old.split(",") if re.split(r"[ (:|]", part.strip())[0] not in own]
    added = {"docker-ce": ["docker-ce-cli", "containerd.io"]}.get(name, [])
    return ", ".join([*rest, *added])


def _read_control(tree: Path) -> dict[str, str]:
    lines = (tree / "DEBIAN/control").read_text().splitlines()
    pairs = (line.partition(": ") for line in lines if not line.startswith(" "))
    return {name: value for name, separator, value in pairs if separator}


def _pack(tree: Path, fields: dict[str, str], target: Path) -> None:
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    tree.chmod(0o755)
    (tree / "DEBIAN").chmod(0o755)
    run(["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", tree, target])
    discard(tree)
