"""The warning that unattended-upgrades may upgrade the NVIDIA driver, by the output of dpkg-query and apt-config."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from provision.steps.system import driver_upgrades
from provision.steps.system.driver_upgrades import exposed, warning

ON = ["ii  unattended-upgrades", 'APT::Periodic::Unattended-Upgrade "1";']
UBUNTU = ["ii  nvidia-driver-550", "ii  libnvidia-compute-550", "ii  linux-modules-nvidia-550-generic"]
DEBIAN = ["ii  nvidia-driver", "ii  nvidia-kernel-dkms", "ii  libcuda1"]
TOOLKIT = ["ii  nvidia-container-toolkit", "ii  libnvidia-container1", "ii  nvidia-container-toolkit-base"]
BLACKLIST = 'Unattended-Upgrade::Package-Blacklist:: "{}";'


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ([*ON, *UBUNTU], ["libnvidia-compute-550", "linux-modules-nvidia-550-generic", "nvidia-driver-550"]),
        ([*ON, *DEBIAN], ["libcuda1", "nvidia-driver", "nvidia-kernel-dkms"]),
        ([*ON, *TOOLKIT], []),
        (UBUNTU, []),  # nothing upgrades by itself
        (["ii  unattended-upgrades", 'APT::Periodic::Unattended-Upgrade "0";', *UBUNTU], []),
        (["rc  unattended-upgrades", 'APT::Periodic::Unattended-Upgrade "1";', *UBUNTU], []),  # removed
        ([*ON, "hi  nvidia-driver-550", "ii  libnvidia-compute-550"], ["libnvidia-compute-550"]),
        ([*ON, "un  nvidia-driver-550", "rc  nvidia-driver-535"], []),  # not installed
        ([*ON, *UBUNTU, BLACKLIST.format("nvidia-"), BLACKLIST.format("libnvidia-")], [UBUNTU[2].split()[1]]),
        ([*ON, "ii  nvidia-driver-550", BLACKLIST.format("^nvidia-driver-.*$")], []),
        ([*ON, "ii  nvidia-driver-550", BLACKLIST.format("(a+)+$"), BLACKLIST.format("*")], ["nvidia-driver-550"]),
        ([*ON, "ii  nvidia-driver-550", BLACKLIST.format(".*" * 30 + "x")], ["nvidia-driver-550"]),  # takes forever
        ([*ON, "ii  nvidia-$(reboot)", "garbage", ""], []),
    ],
)
def test_the_packages_that_may_be_upgraded(lines: list[str], names: list[str]) -> None:
    assert exposed(lines) == names


def test_the_command_of_the_warning_protects_every_package() -> None:
    text = warning([*ON, *UBUNTU, *DEBIAN])
    assert "libcuda1, libnvidia-compute-550, linux-modules-nvidia-550-generic, nvidia-driver and 2 more" in text
    cure = text.partition("Type on the host: ")[2]
    written = cure.partition("echo '")[2].partition("'")[0]
    patterns = [word.strip('";') for word in written.partition("{")[2].partition("}")[0].split()]
    assert warning([*ON, *UBUNTU, *DEBIAN, *map(BLACKLIST.format, patterns)]) == ""


def test_the_host_is_asked_by_one_command(tmp_path: Path) -> None:
    programs = {
        "dpkg-query": "printf 'ii  unattended-upgrades\\nii  nvidia-driver\\n'; exit 1",  # 1: no package fits a pattern
        "apt-config": """echo 'APT::Periodic::Unattended-Upgrade "1";'""",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(line: str, script: str) -> subprocess.CompletedProcess[str]:
        assert line == "sh -c %s"
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=path, check=False)

    found = driver_upgrades.check(SimpleNamespace(run=run))
    assert found is not None
    assert found.passed
    assert found.name.startswith("warning: unattended-upgrades may upgrade the NVIDIA driver (nvidia-driver)")
