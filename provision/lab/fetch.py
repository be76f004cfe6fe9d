"""Packages and sources from the machine's own mirror, fetched without installing them."""

import os
import subprocess
from pathlib import Path

from provision.lab import machine, paths
from provision.lab.base import discard
from provision.lab.shell import LabError, run


class Archive:
    """The machine's mirror, read as a machine of another release would read it.

    Args:
        release: the release whose packages are wanted.
    """

    def __init__(self, release: str) -> None:
        self._home = paths.CACHE / "archive" / release
        self._release = release
        self._ready = False

    def packages(self, names: list[str], target: Path) -> dict[str, Path]:
        """Download .deb files into `target` and return them by package name.

        Raises:
            LabError: the mirror lacks a package.
        """
        files = {}
        for name in names:
            before = set(target.glob("*.deb"))
            self._apt("download", name, cwd=target)
            files[name] = next(iter(set(target.glob("*.deb")) - before))
        return files

    def source_tarball(self, name: str, target: Path) -> Path:
        """Download the upstream tarball of a source package into `target`, byte for byte upstream's.

        The distribution's own part stays behind: it changes with every update, and a mirror may be behind.

        Raises:
            LabError: the mirror lacks the tarball.
        """
        self._apt("source", "--download-only", "--tar-only", name, cwd=target)
        tarballs = [path for path in target.glob(f"{name}_*.orig.tar.*") if path.suffix != ".asc"]
        if not tarballs:
            raise LabError(f"the source package {name} of {self._release} has no upstream tarball")
        return tarballs[0]

    def _apt(self, *words: str, cwd: Path) -> None:
        if not self._ready:
            self._prepare()
            self._run(["update"], cwd)
            self._ready = True
        self._run([*words], cwd)

    def _prepare(self) -> None:
        for name in ("lists/partial", "cache/archives/partial"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / "status").touch()
        # only the main archive: updates and security carry no source package that we need in another version
        main = [source for source in machine.apt_sources() if source.suffix == ""]
        lines = [
            f"{kind} {source.uri} {self._release} {source.component}\n"
            for source in main
            for kind in ("deb", "deb-src")
        ]
        (self._home / "sources.list").write_text("".join(lines))

    def _run(self, words: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
        settings = {
            "Dir::Etc::SourceList": self._home / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::Etc::Preferences": "-",
            "Dir::Etc::PreferencesParts": "-",
            "Dir::State": self._home,
            "Dir::State::status": self._home / "status",
            "Dir::State::lists": self._home / "lists",
            "Dir::Cache": self._home / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        return run(["apt-get", "--quiet", "--yes", *options, *words], cwd=cwd, env=env, timeout=900)


def unpack(package: Path, target: Path) -> None:
    """Empty `target` and unpack a .deb's files into it."""
    discard(target)
    target.mkdir(parents=True)
    run(["dpkg-deb", "--extract", package, target])
