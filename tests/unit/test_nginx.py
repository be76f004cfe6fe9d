"""The build of nginx: settings, warnings, and the scripts that run on a host."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provision.command import Obtain, Run
from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.render import render
from provision.roles import nginx
from provision.steps.facts import HostFacts
from provision.steps.nginx.build import Build
from provision.steps.nginx.build_scripts import INSTALL, READ
from provision.steps.nginx.generation_scripts import INSTALL as ACTIVATE
from provision.steps.nginx.generation_scripts import PREPARE, STAMP
from provision.steps.nginx.source import LAYOUT
from provision.steps.system.link import SWAP
from tests.unit.balancer_fleet import fleet, host

DEBIAN = HostFacts(distribution="debian", version="13", architecture="amd64")


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"version": "1.31.6"}, ("sha256",)),
        ({"version": "1.31.6-1", "sha256": "0" * 64}, ("version",)),
        ({"version": "1.24.0", "sha256": "0" * 64}, ("version",)),
        ({"configure_args": ("--prefix=/x",)}, ("configure_args", 0)),
        ({"configure_args": ("--with-threads", "--with-cc=/bin/evil")}, ("configure_args", 1)),
        ({"configure_args": ("--with-ld-opt=$(touch /x)",)}, ("configure_args", 0)),
        ({"configure_args": ("--add-module=/x",)}, ("configure_args", 0)),
        ({"configure_args": ("--without-http_upstream_zone_module",)}, ("configure_args", 0)),
    ],
)
def test_impossible_settings_are_reported(settings: dict[str, Any], path: tuple[Any, ...]) -> None:
    assert [where for where, _ in nginx.Settings(**settings).problems()] == [path]


@pytest.mark.parametrize("version", sorted(nginx.KNOWN))
def test_known_versions_need_no_hash(version: str) -> None:
    settings = nginx.Settings(version=version)
    assert not list(settings.problems())
    assert settings.built(njs=False).url == f"https://nginx.org/download/nginx-{version}.tar.gz"


def test_the_prefix_follows_the_recipe_and_not_the_mirror() -> None:
    plain = nginx.Settings().built(njs=False)
    assert nginx.Settings(url="http://mirror.example/x.tar.gz").built(njs=False).prefix == plain.prefix
    assert nginx.Settings(configure_args=("--with-threads",)).built(njs=False).prefix != plain.prefix


def test_mode_once_obtains_a_build_and_mode_each_compiles() -> None:
    source = nginx.Settings().built(njs=False)
    want = Build(source=source).want(DEBIAN, None)
    [obtain] = [c for c in Build(source=source, host="lb-01").commands(None, want) if isinstance(c, Obtain)]
    assert (obtain.key, obtain.host) == (f"nginx {source.recipe} debian-13-amd64", "lb-01")
    jobs = [c for c in Build(source=source, mode="each").commands(None, want) if isinstance(c, Run) and c.job]
    assert [job.title for job in jobs][-1] == "compile nginx 1.26.3"
    assert jobs[-1].words[-len(source.arguments) :] == source.arguments
    assert set(LAYOUT) <= set(jobs[-1].words)


@given(st.text() | st.text(st.sampled_from("-with=a $`'\"\n\\;|&()#")))
def test_no_argument_of_configure_has_a_special_character_of_a_shell(text: str) -> None:
    try:
        settings = nginx.Settings(configure_args=(text,))
    except ValidationError:
        return
    if not list(settings.problems()):
        assert not set(text) & set("$`'\"\n\\;|&()<>*?[]{}!#~")


INVENTORY = """
all:
  vars: {nginx: {accept_known_vulnerabilities: true}}
  children:
    gpu:
      hosts:
        a: {ollama: {image: "ollama/ollama:0.34.4", models: ["m:1"], instances: [{gpus: [0], port: 3008}]}}
    balancer:
      hosts:
        a: {nginx: {build_host: b}, balancer: {status_port: 3009}}
        lb-01: {nginx: {build_host: a}}
"""


def test_conflicts_with_the_rest_of_the_inventory_are_reported_with_line_and_path(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    with pytest.raises(InventoryError) as refused:
        role_interface.load(str(path))
    said = sorted(
        (problem.line, problem.path.rpartition(".")[2], problem.message) for problem in refused.value.problems
    )
    assert said == [
        (10, "build_host", "must be one of the balancers: a, lb-01"),
        (10, "port", "is the port of ollama1 on this host"),
    ]


def test_hosts_that_do_not_balance_get_no_nginx() -> None:
    assert not list(nginx.steps(fleet().host("gpu-01"), fleet()))
    alone = Inventory(path="x", hosts=(host("a", "gpu", count=1),))
    assert list(nginx.steps(alone.host("a"), alone))


def shell(script: str, *args: object, ok: bool = True) -> str:
    """Run a constant script as a host would."""
    words = ["sh", "-s", "--", *map(str, args)]
    done = subprocess.run(words, input="set -eu\n" + script, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout


def archive(folder: Path, recipe: str, body: str = "exit 0") -> Path:
    """Return a build in the format of MAKE, with a script for the program."""
    script = """
    mkdir -p "$1/out/sbin"; printf '#!/bin/sh\\n%s\\n' "$3" >"$1/out/sbin/nginx"; chmod 755 "$1/out/sbin/nginx"
    sum=$(sha256sum <"$1/out/sbin/nginx" | cut -c1-64)
    printf 'recipe %s\\nplatform p\\nsha256 %s\\n' "$2" "$sum" >"$1/out/.provision"
    tar -C "$1/out" -cf "$1/$2.tar" sbin .provision
    """
    shell(script, folder, recipe, body)
    return folder / f"{recipe}.tar"


def test_installing_keeps_the_build_in_use_and_removes_older_builds(tmp_path: Path) -> None:
    root = tmp_path / "nginx"
    for name in ("1-a", "1-b", "1-c"):
        shell(INSTALL, archive(tmp_path, name), root / name, name, "p")
        shell(SWAP, root / "current", root / name)
    assert sorted(path.name for path in root.iterdir()) == ["1-b", "1-c", "current"]
    assert (root / "current").readlink() == root / "1-c"
    assert "recipe 1-c" in shell(READ, root / "1-c")


@pytest.mark.parametrize(("recipe", "body"), [("other", "exit 0"), ("1-a", "exit 1")])
def test_a_wrong_or_broken_build_is_not_installed(tmp_path: Path, recipe: str, body: str) -> None:
    root = tmp_path / "nginx"
    shell(INSTALL, archive(tmp_path, recipe, body), root / "1-a", "1-a", "p", ok=False)
    assert not list(root.iterdir())


def test_an_edited_program_is_noticed(tmp_path: Path) -> None:
    prefix = tmp_path / "nginx" / "1-a"
    shell(INSTALL, archive(tmp_path, "1-a"), prefix, "1-a", "p")
    with (prefix / "sbin/nginx").open("a") as program:
        program.write("#")
    said = dict(line.split(" ", 1) for line in shell(READ, prefix).splitlines())
    assert said["now"] != said["sha256"]


def test_a_link_is_not_swapped_to_a_missing_build(tmp_path: Path) -> None:
    shell(SWAP, tmp_path / "link", tmp_path / "nowhere", ok=False)
    assert not os.path.lexists(tmp_path / "link")


def test_a_configuration_refused_by_nginx_changes_nothing(tmp_path: Path) -> None:
    good, bad = (
        _program(tmp_path / "good", "exit 0"),
        _program(tmp_path / "bad", "echo 'no such directive' >&2; exit 1"),
    )
    link, generations, pid = tmp_path / "etc/nginx", tmp_path / "lib", tmp_path / "run/nginx.pid"
    shell(PREPARE, generations / ".new")
    shell(ACTIVATE, link, generations, "0123456789ab", good, pid)
    shell(PREPARE, generations / ".new")
    shell(ACTIVATE, link, generations, "ba9876543210", bad, pid, ok=False)
    assert link.readlink() == generations / "0123456789ab"


def test_only_five_generations_are_kept(tmp_path: Path) -> None:
    good, link, generations = _program(tmp_path / "good", "exit 0"), tmp_path / "etc/nginx", tmp_path / "lib"
    for number in range(8):
        shell(PREPARE, generations / ".new")
        os.utime(generations / ".new", (number, number))
        shell(ACTIVATE, link, generations, f"{number:012x}", good, tmp_path / "run/nginx.pid")
    assert sorted(path.name for path in generations.iterdir()) == [f"{n:012x}" for n in range(3, 8)]


def _program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_unit_lists_files_in_the_format_of_the_step() -> None:
    """Unit and step both write the list of the files that nginx reads, and the step compares whole lines."""
    unit = render("nginx/provision-nginx.service.j2", engine="x").decode()
    noted = [line for line in unit.splitlines() if "/run/provision-nginx/loaded" in line]
    stamp = STAMP.replace("%", "%%").replace("\\", "\\\\")
    find = f'/usr/bin/find /etc/provision/nginx/ -fprintf /run/provision-nginx/loaded "{stamp}"'
    assert noted == [f"ExecStartPre=-{find}", f"ExecReload=-{find}"]
