"""The functions of the build that bring nginx' JavaScript module. apt is a stand-in; dpkg-deb is the real program."""

import os
import subprocess
from pathlib import Path

import pytest

from provision.steps.base import Answer
from provision.steps.nginx.build import Build
from provision.steps.nginx.build_scripts import APPLY, MODULE
from provision.steps.nginx.source import Njs, Source

HEAD = """
set -eu
as() { "$@" </dev/null; }
fetch() { cp -- "$1" "$3"; }
log=$PWD/../log out=../out work=..
"""
CONTROL = (
    "Package: libnginx-mod-http-js\nVersion: 0.8.9-1\nArchitecture: all\nMaintainer: a <a@b.example>\nDescription: a\n"
)


class Machine:
    """The folders of a build, and stand-ins for apt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("source", "out", "bin"):
            (folder / name).mkdir()

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def package(self, *, depends: str, module: str | None) -> None:
        """Offer a package: its dependencies by apt-cache, the package itself by apt-get."""
        root = self.folder / "deb"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(CONTROL)
        if module is not None:
            path = root / "usr/lib/nginx" / MODULE
            path.parent.mkdir(parents=True)
            path.write_text(module)
        file = self.folder / "module.deb"
        subprocess.run(["dpkg-deb", "--build", root, file], check=True, capture_output=True, timeout=60)
        self.program("apt-cache", f"printf 'Package: libnginx-mod-http-js\\nDepends: {depends}\\n'")
        self.program("apt-get", f'[ "$*" = "-q download libnginx-mod-http-js" ] && cp {file} libnginx-mod-http-js.deb')

    def call(self, function: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-s", "--", *words],
            input=f'{HEAD}{APPLY}\n{function} "$@"\n',
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.folder / "source",
            env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_module_is_taken_out_of_the_package_for_this_version(machine: Machine) -> None:
    machine.package(depends="nginx-abi-1.26.3-1, libc6 (>= 2.38), libxml2 (>= 2.7.4)", module="the module")
    done = machine.call("packaged_njs", "1.26.3")
    assert done.returncode == 0, done.stderr
    assert (machine.folder / "out" / MODULE).read_text() == "the module"


@pytest.mark.parametrize("depends", ["nginx-abi-1.22.1-7, libc6", "libc6", "nginx-abi-1.26.30-1"])
def test_a_package_for_another_version_is_refused_and_the_ways_out_are_named(machine: Machine, depends: str) -> None:
    machine.package(depends=depends, module="the module")
    done = machine.call("packaged_njs", "1.26.3")
    assert done.returncode == 1
    assert "and nginx 1.26.3 is built" in done.stderr
    assert "nginx.njs" in done.stderr
    assert "/models/NAME/" in done.stderr
    assert not (machine.folder / "out" / MODULE).exists()


def test_a_package_without_the_module_ends_the_build(machine: Machine) -> None:
    machine.package(depends="nginx-abi-1.26.3-1", module=None)
    assert machine.call("packaged_njs", "1.26.3").returncode != 0


def test_a_failed_download_ends_the_build_with_the_words_of_apt(machine: Machine) -> None:
    machine.package(depends="nginx-abi-1.26.3-1", module="the module")
    machine.program("apt-get", "echo 'E: no network' >&2; exit 100")
    done = machine.call("packaged_njs", "1.26.3")
    assert (done.returncode, done.stderr.strip()) == (1, "E: no network")


@pytest.mark.parametrize(("name", "status"), [("nginx/config", 0), ("readme", 1)])
def test_a_source_has_to_be_one_of_njs(machine: Machine, tmp_path: Path, name: str, status: int) -> None:
    file = tmp_path / "packed/njs-0.8.9" / name
    file.parent.mkdir(parents=True)
    file.write_text("a")
    archive = tmp_path / "packed.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path / "packed", "njs-0.8.9"], check=True, timeout=60)
    done = machine.call("njs_of_source", str(archive), "0" * 64)
    assert (done.returncode, "is no source of njs" in done.stderr) == (status, bool(status))


def test_a_module_that_nginx_does_not_load_ends_the_build(machine: Machine) -> None:
    machine.program("nginx", "grep -q 'load_module /there/m.so;' ../test.conf")
    nginx = str(machine.folder / "bin/nginx")
    assert machine.call("loads", nginx, "/there/m.so").returncode == 0
    assert machine.call("loads", nginx, "/else/m.so").returncode != 0


STAMP = "recipe R\nplatform P\nsha256 {a}\nmodule {b}\nnow {a}\n"


@pytest.mark.parametrize(
    ("njs", "answer", "intact"),
    [
        (Njs(), f"{STAMP}has {{b}}  -\n", True),
        (Njs(), f"{STAMP}has {{a}}  -\n", False),
        (Njs(), STAMP, False),
        (Njs(), "recipe R\nplatform P\nsha256 {a}\nnow {a}\n", False),
        (None, "recipe R\nplatform P\nsha256 {a}\nnow {a}\n", True),
        (None, "recipe R\nplatform P\nsha256 {a}\nnow {a}\nhas {b}  -\n", False),
    ],
)
def test_a_build_is_intact_with_the_module_of_its_stamp(njs: Njs | None, answer: str, intact: bool) -> None:
    build = Build(source=Source(version="1.26.3", sha256="a" * 64, url="http://m.example/n.tar.gz", njs=njs))
    text = answer.format(a="a" * 64, b="b" * 64)
    state = build.fact().parse(Answer(0, text.encode(), b""))
    assert state is not None
    assert state["intact"] is intact
