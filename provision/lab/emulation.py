"""Whether QEMU emulates the machine of the lab itself, and how much longer every wait of the lab is there."""

import functools
import subprocess

FACTOR = 12
"""By how much everything takes longer where QEMU emulates."""
EXPLAINED = f"this machine is emulated: every wait is {FACTOR} times longer"


@functools.cache
def machine_factor(program: str = "systemd-detect-virt") -> int:
    """By how much every wait on this machine is longer: 12 where QEMU emulates the machine without KVM, else 1.

    "qemu: QEMU software virtualization, without KVM", and with `--vm` "only detects hardware virtualization", so that a
    container of an emulated machine counts: systemd-detect-virt(1). Without an answer the factor is 1.

    Args:
        program: the program that names the hypervisor.
    """
    try:
        done = subprocess.run([program, "--vm"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 1
    return FACTOR if done.stdout.strip() == "qemu" else 1
