"""The fetch of a real nvidia-smi for `make test-real` names what is missing. apt is a fake on PATH."""

from pathlib import Path

import pytest

from tests.real.install import nvidia_smi
from tests.real.install.workshop import InstallError, Workshop

APT = """#!/bin/sh
case "$*" in
  indextargets*) echo "ROWS" ;;
  *update) exit 0 ;;
  *download*) echo "E: Version '550.163.01-2' for 'nvidia-smi' was not found" >&2; exit 100 ;;
esac
"""
SECURITY = "http://mirror.example/debian-security/ Debian main trixie-security"
MAIN = "http://mirror.example/debian/ Debian main bookworm"


def refusal(folder: Path, rows: str) -> str:
    (folder / "bin").mkdir()
    for name, text in (("apt-get", APT.replace("ROWS", rows)), ("dpkg-query", "#!/bin/sh\necho installed\n")):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    shop = Workshop(folder / "cache", {"PATH": f"{folder}/bin:/usr/bin:/bin"}, say=lambda _: None)
    with pytest.raises(InstallError) as caught:
        nvidia_smi.fetched(shop, folder / "cache" / "nvidia-smi")
    return str(caught.value)


@pytest.mark.parametrize("rows", ["", SECURITY, "http://mirror.example/x/ Other main trixie"])
def test_a_machine_without_a_debian_mirror_is_named(tmp_path: Path, rows: str) -> None:
    said = refusal(tmp_path, rows)
    assert said.startswith("apt of this machine has no lists of Debian's section main")
    assert "PARTS=nvidia_smi" in said


def test_a_mirror_without_this_version_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, f"{SECURITY}\n{MAIN}")
    assert said.startswith("fetching nvidia-smi libnvidia-ml1 550.163.01-2 failed")
    assert "was not found" in said
    source = (tmp_path / "cache/nvidia-smi/debian.list").read_text()
    assert source.endswith(" http://mirror.example/debian/ trixie non-free\n"), "the machine's own mirror"
