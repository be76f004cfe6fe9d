"""The build of Docker for `make test-real` names what is missing; Go here is a fake on PATH."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from tests.real import docker_packages
from tests.real.install import docker
from tests.real.install.docker import OLDER, PROGRAMS, Release
from tests.real.install.workshop import InstallError, Workshop

NOWHERE = "/nonexistent/go"
RELEASE = dataclasses.replace(OLDER, engine_checksum="h1:good", client_checksum="h1:good")
GO = """#!/bin/sh
case "$*" in
  version) echo "go version go1.26.8 linux/amd64" ;;
  mod*) for last; do :; done; printf '{"Dir": "MODULES/%s", "Sum": "h1:good"}' "${last%@*}" ;;
  build*) [ -f go.mod ] || { echo 'go: go.mod file not found'; exit 1; }
    echo "$*" >>MODULES/builds
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho "Docker version SAYS, build library-import"\\n' >"$2"; chmod +x "$2" ;;
esac
"""


class Machine:
    """A workshop whose Go is the test's own script, with two modules without go.mod."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("github.com/docker/docker", "github.com/docker/cli"):
            module = folder / "modules" / name
            (module / "vendor").mkdir(parents=True)
            (module / "vendor.mod").write_text(f"module {name}\n")
            (module / "vendor.sum").write_text("")
        (folder / "bin").mkdir()
        self.put_go()
        self.shop = Workshop(folder / "cache", {"PATH": f"{folder}/bin:/usr/bin:/bin"}, say=lambda _: None)

    def put_go(self, text: str = GO, says: str = RELEASE.version) -> None:
        program = self.folder / "bin/go"
        program.write_text(text.replace("MODULES", str(self.folder / "modules")).replace("SAYS", says))
        program.chmod(0o755)

    def builds(self) -> list[str]:
        return (self.folder / "modules/builds").read_text().splitlines()

    def refusal(self, release: Release = RELEASE) -> str:
        with pytest.raises(InstallError) as caught:
            docker.installed(self.shop, release, NOWHERE)
        return str(caught.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_module_without_go_mod_is_built_by_its_vendor_mod(machine: Machine) -> None:
    made = docker.installed(machine.shop, RELEASE, NOWHERE)
    assert sorted(path.name for path in Path(made.folder).iterdir() if path.name != "built.json") == sorted(PROGRAMS)
    flags = [line.split("-o ")[0] for line in machine.builds()]
    assert "-X=github.com/docker/docker/dockerversion.Version=28.5.2" in flags[0]
    assert "-X=" not in flags[1], "the proxy says no version"
    assert "-X=github.com/docker/cli/cli/version.Version=28.5.2" in flags[2]
    assert "h1:good" in made.words
    assert not list((machine.folder / "modules").rglob("go.mod")), "a fetched module stays as the proxy sent it"


def test_docker_is_built_once(machine: Machine) -> None:
    first = docker.installed(machine.shop, RELEASE, NOWHERE)
    assert docker.installed(machine.shop, RELEASE, NOWHERE) == first
    assert len(machine.builds()) == 3
    docker.installed(machine.shop, dataclasses.replace(RELEASE, go=(1, 24, 1)), NOWHERE)
    assert len(machine.builds()) == 6, "another recipe is built anew"


def test_a_module_that_no_longer_builds_is_named(machine: Machine) -> None:
    machine.put_go(GO.replace("  build*)", "  build*) echo 'daemon.go:7: undefined: cgroups'; exit 1 ;;\n  x)"))
    said = machine.refusal()
    assert "building dockerd of the Go module github.com/docker/docker@v28.5.2+incompatible failed" in said
    assert "daemon.go:7: undefined: cgroups" in said
    assert (
        "no longer builds with this compiler (Go 1.26.8), pin another release in tests/real/install/docker.py" in said
    )


def test_an_older_docker_that_does_not_build_is_named_and_does_not_stop_the_part(machine: Machine) -> None:
    said = docker.older_if_it_builds(machine.shop, NOWHERE)
    assert isinstance(said, str)
    assert said.startswith("not built: the Go module github.com/docker/docker@v28.5.2+incompatible has the checksum")
    without = dataclasses.replace(machine.shop, environment={docker.WITHOUT: "no time"})
    assert docker.older_if_it_builds(without) == "not built: no time"


def test_another_module_under_the_same_version_is_refused(machine: Machine) -> None:
    said = machine.refusal(OLDER)
    assert f"has the checksum h1:good, and {OLDER.engine_checksum} is pinned" in said


def test_a_module_that_names_no_dependencies_is_refused(machine: Machine) -> None:
    (machine.folder / "modules/github.com/docker/docker/vendor.mod").unlink()
    assert "has neither go.mod nor vendor.mod" in machine.refusal()


def test_a_build_of_another_version_is_refused(machine: Machine) -> None:
    machine.put_go(says="dev")
    assert "the built dockerd does not say its version 28.5.2: 'Docker version dev" in machine.refusal()


def test_a_machine_without_a_go_that_is_new_enough_is_named(machine: Machine) -> None:
    machine.put_go("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    (machine.folder / "bin/python3").write_text("#!/bin/sh\necho no index\nexit 1\n")
    (machine.folder / "bin/python3").chmod(0o755)
    shop = dataclasses.replace(machine.shop, python=str(machine.folder / "bin/python3"))
    with pytest.raises(InstallError) as caught:
        docker.installed(shop, RELEASE, NOWHERE)
    assert "no Go for Docker 28.5.2, which needs Go 1.24.0 or newer" in str(caught.value)
    assert f"{machine.folder}/bin/go is Go 1.19.8, too old" in str(caught.value)


def test_an_upgrade_of_a_package_restarts_the_daemon(tmp_path: Path) -> None:
    tree = tmp_path / "tree/DEBIAN"
    tree.mkdir(parents=True)
    (tree / "control").write_text("Package: docker-ce\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: b\n")
    script = "#!/bin/sh\ndeb-systemd-invoke start 'docker.service' 'docker.socket' >/dev/null || true\n"
    (tree / "postinst").write_text(script)
    (tree / "postinst").chmod(0o755)
    package = tmp_path / "docker-ce_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree.parent, package], check=True, capture_output=True)
    shop = Workshop(tmp_path / "shop", say=lambda _: None)
    docker_packages.restarting(shop, package)
    subprocess.run(["dpkg-deb", "--control", package, tmp_path / "made"], check=True)
    assert (tmp_path / "made/postinst").read_text() == script.replace("invoke start", "invoke restart")
    with pytest.raises(InstallError, match=r"the script postinst of docker-ce_1_all\.deb has no line"):
        docker_packages.restarting(shop, package)
