"""The build of NVIDIA's toolkit for `make test-real` names what is missing, and packs real programs. Go here is a fake
on PATH."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.real import toolkit_packages
from tests.real.install import toolkit
from tests.real.install.toolkit import PINNED, PROGRAMS
from tests.real.install.workshop import InstallError, Workshop

RELEASE = dataclasses.replace(PINNED, checksum="h1:good")
GO = """#!/bin/sh
case "$*" in
  version) echo "go version go1.26.8 linux/amd64" ;;
  mod*) printf '{"Dir": "HERE", "Sum": "h1:good"}' ;;
  build*) [ "$CGO_ENABLED" = 1 ] || exit 1
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho "version SAYS"\\n' >"$2"; chmod +x "$2" ;;
esac
"""
DPKG = "#!/bin/sh\necho installed\n"


def shop(folder: Path, says: str = RELEASE.version, go: str = GO) -> Workshop:
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in (("go", go), ("dpkg-query", DPKG), ("apt-get", DPKG)):
        program = folder / "bin" / name
        program.write_text(text.replace("HERE", str(folder)).replace("SAYS", says))
        program.chmod(0o755)
    return Workshop(folder / "cache", {"PATH": f"{folder}/bin:/usr/bin:/bin"}, say=lambda _: None)


def refusal(made: Workshop, release: toolkit.Release = RELEASE) -> str:
    with pytest.raises(InstallError) as caught:
        toolkit.installed(made, release, "/nonexistent/go")
    return str(caught.value)


def test_the_programs_are_built_once(tmp_path: Path) -> None:
    made = toolkit.installed(shop(tmp_path), RELEASE, "/nonexistent/go")
    assert sorted(path.name for path in Path(made.folder).iterdir()) == sorted([*PROGRAMS, "built.json"])
    assert "h1:good" in made.words
    assert toolkit.installed(shop(tmp_path, go="#!/bin/sh\nexit 9\n"), RELEASE, "/nonexistent/go") == made


def test_another_module_or_a_program_of_another_version_is_named(tmp_path: Path) -> None:
    assert "the proxy serves another module" in refusal(shop(tmp_path), PINNED)
    said = refusal(shop(tmp_path, says="0.9"))
    assert said.startswith("the built nvidia-ctk does not say its version 1.20.2")
    assert "PARTS=toolkit" in said


def test_a_module_that_no_longer_builds_is_named(tmp_path: Path) -> None:
    said = refusal(shop(tmp_path, go=GO.replace('[ "$CGO_ENABLED" = 1 ] || exit 1', "echo 'undefined: x'; exit 1")))
    assert "building nvidia-ctk of the Go module github.com/NVIDIA/nvidia-container-toolkit@v1.20.2 failed" in said
    assert "undefined: x" in said


def test_the_packages_have_the_real_programs_and_say_what_is_simulated(tmp_path: Path) -> None:
    made = shop(tmp_path)
    folder = toolkit_packages.folder(made, toolkit.installed(made, RELEASE, "/nonexistent/go"))
    packages = {path.name.partition("_")[0]: path for path in folder.glob("*.deb")}
    assert len(packages) == 4
    subprocess.run(["dpkg-deb", "-x", packages["nvidia-container-toolkit-base"], tmp_path / "x"], check=True)
    assert "version 1.20.2" in (tmp_path / "x/usr/bin/nvidia-ctk").read_text()
    shown = subprocess.run(["dpkg-deb", "-f", packages["libnvidia-container-tools"]], capture_output=True, text=True)
    assert "SIMULATED" in shown.stdout


def test_the_cdi_file_has_the_form_of_nvidias() -> None:
    spec = yaml.safe_load(toolkit_packages.cdi_file(["GPU-a", "GPU-b"]))
    assert spec["kind"] == "nvidia.com/gpu"
    nodes = {
        device["name"]: [node["path"] for node in device["containerEdits"]["deviceNodes"]] for device in spec["devices"]
    }
    assert nodes == {
        "0": ["/dev/nvidia0"],
        "1": ["/dev/nvidia1"],
        "GPU-a": ["/dev/nvidia0"],
        "GPU-b": ["/dev/nvidia1"],
        "all": ["/dev/nvidia0", "/dev/nvidia1"],
    }
    assert spec["containerEdits"]["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
