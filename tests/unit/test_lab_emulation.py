"""A machine that is emulated itself: what systemd-detect-virt says of it decides how long the lab waits."""

from pathlib import Path

import pytest

from provision.lab import acceleration, emulation

# what the program prints and its exit code, and the factor
SAYS = {
    "QEMU without KVM": ("echo qemu", 12),
    "KVM": ("echo kvm", 1),
    "another hypervisor": ("echo vmware", 1),
    "no hypervisor, exit code 1": ("echo none; exit 1", 1),
    "a container, of which an old program tells in spite of --vm": ("echo lxc", 1),
    "a program that fails": ("echo 'Failed to check for VM: Permission denied' >&2; exit 1", 1),
    "other words": ("echo qemulator", 1),
    "a container of an emulated machine": ('[ "$*" = --vm ] && echo qemu || echo docker', 12),
}


@pytest.mark.parametrize("case", SAYS)
def test_an_emulated_machine_makes_every_wait_longer(tmp_path: Path, case: str) -> None:
    text, factor = SAYS[case]
    program = tmp_path / "systemd-detect-virt"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    assert emulation.machine_factor(str(program)) == factor


def test_a_machine_without_the_program_waits_as_usual(tmp_path: Path) -> None:
    assert emulation.machine_factor(str(tmp_path / "missing")) == 1


def test_an_emulated_machine_is_as_slow_as_an_emulated_guest() -> None:
    factor = acceleration.factor(acceleration.EMULATED)
    assert f"this machine is emulated: every wait is {factor} times longer" == emulation.EXPLAINED
