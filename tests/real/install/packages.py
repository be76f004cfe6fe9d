"""Packages of the distribution and of the Python index, pinned by hash where the index allows a pin."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.real.install.workshop import InstallError, Workshop, pinned

INDEX = "Look at `pip config list`: let this machine reach its package index, then type make test-real again."
APT = "Mend apt on this machine, or install these packages by hand, then type make test-real again."


def distribution(shop: Workshop, names: Sequence[str], purpose: str) -> None:
    """Install missing packages of Debian or Ubuntu.

    Args:
        shop: the workshop.
        names: names of packages.
        purpose: the reason, in words for the reader.

    Raises:
        InstallError: no apt, or a package cannot be installed.
    """
    for program in ("dpkg-query", "apt-get"):
        if not shutil.which(program, path=shop.search_path()):
            raise InstallError(
                f"{purpose} needs the packages {' '.join(names)}, and this machine has no {program}: {program} is part"
                " of Debian and Ubuntu. Run make test-real on a machine with Debian or Ubuntu."
            )
    missing = [name for name in names if not _installed(shop, name)]
    if not missing:
        return
    shop.say(f"installing {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    shop.run([*words, "update"], f"reading the package lists for {' '.join(missing)}", APT, **quiet)
    more = ["install", "--no-install-recommends"]
    shop.run([*words, *more, *missing], f"installing {' '.join(missing)} ({purpose})", APT, **quiet)


def _installed(shop: Workshop, name: str) -> bool:
    try:
        said = shop.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", name], f"asking for {name}", APT)
    except InstallError:  # no such package: dpkg-query exits 1
        return False
    return said.strip() == "installed"


def environment(shop: Workshop, pins: Sequence[str]) -> Path:
    """Install packages into a virtual environment of their own, and return the folder of its programs.

    Args:
        shop: the workshop.
        pins: names of files in `tests/real/pins`; each file has its own environment where the names differ.

    Raises:
        InstallError: a package cannot be installed.
    """
    folder = shop.folder / f"venv-{'-'.join(pins)}"
    stamp = folder / "pinned"
    hashes = "\n".join(pinned(name)[1] for name in pins)
    if not (stamp.is_file() and stamp.read_text() == hashes):
        shop.say(f"installing the Python packages of {', '.join(str(pinned(name)[0].name) for name in pins)}")
        advice = "Install the package python3-venv, then type make test-real again."
        shop.run([shop.python, "-m", "venv", "--clear", folder], "making a virtual environment", advice)
        files = [word for name in pins for word in ("-r", pinned(name)[0])]
        words = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:"]
        shop.run([*words, *files], f"installing {' and '.join(pins)}", INDEX)
        stamp.write_text(hashes)
    return folder / "bin"


def download(shop: Workshop, name: str, target: Path, *, source: bool = False) -> list[Path]:
    """Download the files of a file of pins, and return them.

    Args:
        shop: the workshop.
        name: name of the file in `tests/real/pins`.
        target: the folder for the files; emptied before.
        source: whether the files are source packages. pip reads the metadata of a source package by the packages in
            `build.txt`.

    Raises:
        InstallError: a file is missing, or has another hash.
    """
    python = environment(shop, ["build"]) / "python"
    shutil.rmtree(target, ignore_errors=True)
    kind = ["--no-build-isolation", "--no-binary", ":all:"] if source else ["--only-binary", ":all:"]
    words = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *kind, "-d", target]
    shop.run([*words, "-r", pinned(name)[0]], f"downloading the package of {name}.txt", INDEX)
    return sorted(target.iterdir())
