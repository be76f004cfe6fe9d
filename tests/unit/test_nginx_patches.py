"""Patches of nginx's source: settings, the identity of a build, and the script that applies patches."""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from provision import cli
from provision.roles import nginx
from provision.steps.facts import HostFacts
from provision.steps.nginx.build import Build
from provision.steps.nginx.build_scripts import APPLY, INSTALL, READ

DEBIAN = HostFacts(distribution="debian", version="13", architecture="amd64")
A, B = "a" * 64, "b" * 64
ONE, TWO = ({"url": f"http://mirror.example/{name}.patch", "sha256": sha256} for name, sha256 in (("1", A), ("2", B)))
INVENTORY = """
all: {vars: {nginx: {patches: PATCHES}}}
gpu: {hosts: {a: {ollama: {instances: [{gpus: [0]}]}}}}
"""
FIRST = """\
Description: a first change
--- a/src/core/nginx.h
+++ b/src/core/nginx.h
@@ -1,3 +1,3 @@
 line 1
-line 2
+second line
 line 3
"""
SECOND = FIRST.replace("-line 2", "-second line").replace("+second line", "+line two")


def settings(*patches: dict[str, str]) -> nginx.Settings:
    return nginx.Settings(patches=patches)


def test_patches_are_part_of_the_identity_of_a_build_in_their_order() -> None:
    plain, first, both = (
        settings().built(njs=False),
        settings(ONE).built(njs=False),
        settings(ONE, TWO).built(njs=False),
    )
    other = settings(TWO, ONE).built(njs=False)
    assert len({source.recipe for source in (plain, first, both, other)}) == 4
    assert len({source.prefix for source in (plain, first, both, other)}) == 4
    moved = settings({**ONE, "url": "http://elsewhere.example/x.patch"}).built(njs=False)
    assert moved.recipe == first.recipe, "the address makes no difference"


def test_a_build_without_patches_keeps_the_recipe_of_earlier_releases() -> None:
    assert nginx.Settings(configure_args=("--with-threads",)).built(njs=False).recipe[:8] == "85e3ce74"


def test_the_cost_names_the_patches() -> None:
    build = Build(source=settings(ONE, TWO).built(njs=False))
    want = build.want(DEBIAN, None)
    assert "compiles nginx 1.26.3 with patches" in build.impact(None, want)
    assert want is not None
    assert want["patches"] == [A, B]
    assert any(A in line for line in build.diff(None, want))


@pytest.mark.parametrize(
    ("patches", "path", "says"),
    [
        ([{"url": "file:///etc/passwd", "sha256": A}], "patches[0].url", "must be an http:// or https:// URL"),
        ([{"url": "http://m/1.patch", "sha256": "abc"}], "patches[0].sha256", "must be a sha256"),
        ([{"url": "http://m/1.patch"}], "patches[0].sha256", "is required"),
        ([ONE, TWO, {**TWO, "url": "http://m/3.patch"}], "patches[2].sha256", "is that of patches[1]"),
        ([{**ONE, "sha256": f"{n:064x}"} for n in range(101)], "patches", "at most 100"),
        ("http://m/1.patch", "patches", "must be a list"),
    ],
)
def test_a_wrong_entry_is_reported_with_its_path(
    tmp_path: Path, patches: Any, path: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "i.yaml"
    file.write_text(INVENTORY.replace("PATCHES", json.dumps(patches)))
    assert cli.execute(["inventory", "check", "-i", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"all.vars.nginx.{path}: " in said
    assert says in said


def test_with_patches_the_operator_vouches_and_the_plan_says_what_nobody_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "i.yaml"
    file.write_text(INVENTORY.replace("PATCHES", json.dumps([ONE])))
    assert cli.execute(["inventory", "check", "-i", str(file)]) == 0
    said = capsys.readouterr().err
    assert "is built with nginx.patches" in said
    assert "cannot tell which of the vulnerabilities the patches close" in said


# -- the script


class Tree:
    """A source on this machine, and the functions that patch the source; the builder is the user of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.header = folder / "source/src/core/nginx.h"
        self.header.parent.mkdir(parents=True)
        self.header.write_text("line 1\nline 2\nline 3\n")

    def call(self, function: str, *words: str) -> subprocess.CompletedProcess[str]:
        head = 'set -eu\nas() { "$@" </dev/null; }\nlog=../log\n'
        script = f'{head}{APPLY}\n{function} "$@"\n'
        return subprocess.run(
            ["sh", "-s", "--", *words],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.folder / "source",
        )

    def single(self, text: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "patch").write_text(text)
        return self.call("one_patch", "../patch", "http://mirror.example/1.patch")

    def series(self, names: str, **patches: str) -> subprocess.CompletedProcess[str]:
        with tarfile.open(self.folder / "patch", "w:xz") as tar:
            for name, text in {
                "series": names,
                **{key.replace("_", "."): text for key, text in patches.items()},
            }.items():
                member = tarfile.TarInfo(f"debian/patches/{name}")
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        return self.call("series", "../patch", "http://mirror.example/debian.tar.xz")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_patch_is_applied(tree: Tree) -> None:
    done = tree.single(FIRST)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "==> applying http://mirror.example/1.patch\n"
    assert tree.header.read_text() == "line 1\nsecond line\nline 3\n"


def test_a_series_is_applied_in_its_order(tree: Tree) -> None:
    done = tree.series("# Debian's\n\na.patch\nb.patch -p1 # with a remark\n", a_patch=FIRST, b_patch=SECOND)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree.header.read_text() == "line 1\nline two\nline 3\n"
    assert "==> applying b.patch of http://mirror.example/debian.tar.xz" in done.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (FIRST.replace("line 2", "line 9"), "src/core/nginx.h: Hunk #1 FAILED at 1"),
        (FIRST.replace("line 1", "line 0"), "src/core/nginx.h: Hunk #1 FAILED at 1"),
        (SECOND, "src/core/nginx.h: Hunk #1 FAILED at 1"),
        (FIRST.replace("nginx.h", "absent.h"), "can't find file to patch"),
        ("<!DOCTYPE html>\n<html>not found</html>\n", "garbage was found"),
        ("", "names no file"),
        ("1,2d\n.\nw /tmp/x\n!touch pwned\n", "garbage was found"),
    ],
    ids=["other text", "fuzz", "another state", "no such file", "a web page", "empty", "an ed script"],
)
def test_a_patch_that_does_not_apply_is_named_with_file_and_hunk(tree: Tree, text: str, says: str) -> None:
    done = tree.single(text)
    assert done.returncode == 1
    assert "http://mirror.example/1.patch does not apply to the source of nginx: " in done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert tree.header.read_text() == "line 1\nline 2\nline 3\n"
    assert not list(tree.folder.rglob("pwned"))


def test_a_patch_that_was_applied_before_is_refused(tree: Tree) -> None:
    tree.single(FIRST)
    assert "previously applied" in tree.single(FIRST).stderr


CREATE = "--- /dev/null\n+++ {}\n@@ -0,0 +1 @@\n+x\n"
LINK = """\
diff --git a/away b/away
new file mode 120000
--- /dev/null
+++ b/away
@@ -0,0 +1 @@
+/tmp
\\ No newline at end of file
"""


@pytest.mark.parametrize(
    "text",
    [
        CREATE.format("b/../../escaped"),
        CREATE.format("../escaped"),
        CREATE.format("/tmp/escaped"),
        CREATE.format('"/tmp/escaped"'),
        "diff --git a/src/core/nginx.h b/../../escaped\nrename from src/core/nginx.h\nrename to ../escaped\n",
        LINK,
    ],
    ids=["dots", "leading dots", "absolute", "quoted", "rename", "symbolic link"],
)
def test_a_patch_that_reaches_beyond_the_source_is_refused(tree: Tree, text: str) -> None:
    done = tree.single(text)
    assert done.returncode == 1
    assert "is refused: it reaches beyond the files of the source" in done.stderr
    assert sorted(path.name for path in tree.folder.iterdir()) == ["patch", "source"]
    assert [path.name for path in (tree.folder / "source").iterdir()] == ["src"]


def test_a_patch_may_add_a_file_of_the_source(tree: Tree) -> None:
    assert tree.single(CREATE.format("b/src/new.h")).returncode == 0
    assert (tree.folder / "source/src/new.h").read_text() == "x\n"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("../../../escaped.patch\n", "series names ../../../escaped.patch"),
        ("/etc/passwd\n", "series names /etc/passwd"),
        ("a.patch -p0\n", "has the option -p0 for a.patch, and only -p1 is known"),
        ("# nothing\n", "names no patch"),
        ("b.patch\n", "b.patch of http://mirror.example/debian.tar.xz does not apply"),
    ],
)
def test_a_wrong_series_is_refused(tree: Tree, names: str, says: str) -> None:
    done = tree.series(names, a_patch=FIRST)
    assert done.returncode == 1
    assert says in done.stderr
    assert tree.header.read_text() == "line 1\nline 2\nline 3\n"


def test_a_tarball_without_a_series_is_refused(tree: Tree) -> None:
    with tarfile.open(tree.folder / "patch", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("debian/changelog"))
    done = tree.call("series", "../patch", "http://mirror.example/debian.tar.gz")
    assert done.returncode == 1
    assert "has no debian/patches/series" in done.stderr


def test_the_stamp_of_a_build_names_the_patches(tmp_path: Path) -> None:
    script = """
    mkdir -p "$1/out/sbin"; printf '#!/bin/sh\\n' >"$1/out/sbin/nginx"; chmod 755 "$1/out/sbin/nginx"
    sum=$(sha256sum <"$1/out/sbin/nginx" | cut -c1-64)
    printf 'recipe r\\nplatform p\\nsha256 %s\\npatch %s\\n' "$sum" "$2" >"$1/out/.provision"
    tar -C "$1/out" -cf "$1/build.tar" sbin .provision
    """

    def shell(text: str, *words: object) -> subprocess.CompletedProcess[str]:
        given = ["sh", "-s", "--", *map(str, words)]
        return subprocess.run(given, input="set -eu\n" + text, capture_output=True, text=True, timeout=30, check=False)

    assert shell(script, tmp_path, A).returncode == 0
    prefix = tmp_path / "nginx/1-r"
    assert shell(INSTALL, tmp_path / "build.tar", prefix, "r", "p", B).returncode, "built with another patch"
    assert shell(INSTALL, tmp_path / "build.tar", prefix, "r", "p").returncode, "built with a patch too many"
    assert shell(INSTALL, tmp_path / "build.tar", prefix, "r", "p", A).returncode == 0
    assert f"patch {A}\n" in shell(READ, prefix).stdout


def test_more_than_a_hundred_patches_are_refused() -> None:
    with pytest.raises(ValidationError):
        nginx.Settings(patches=tuple({"url": "http://m/1", "sha256": f"{n:064x}"} for n in range(101)))
