"""Whether KVM works on this machine, and how much longer every wait is where QEMU emulates.

KVM's device may be there and yet no guest boots (seen: a machine that is itself a virtual machine), so a trial boot
decides. The answer holds until the machine boots again.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from provision.lab import emulation, paths
from provision.lab.vm_image import Image, architecture

KVM, EMULATED = "kvm", "tcg"
TRIAL_SECONDS = 20
"""The longest trial boot. With KVM a guest needs less than a second to the first process."""
_FACTORS = {KVM: 1, EMULATED: emulation.FACTOR}
_STARTED = b"Run /init as init process"  # init/main.c of Linux, when the kernel is up
_DEVICE = Path("/dev/kvm")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def acceleration(
    image: Image,
    *,
    trial: Callable[[Image], bool] | None = None,
    device: Path = _DEVICE,
    record: Path = paths.CACHE / "vm" / "acceleration.json",
) -> str:
    """Return `kvm` or `tcg`, QEMU's words for KVM and for emulation; the first call of a boot may take 20 seconds.

    Args:
        image: an image to boot for a trial; its disk is not touched.
        trial: boots the image with KVM, and returns whether the kernel came up; QEMU by default.
        device: KVM's device.
        record: the file that keeps the answer until the next boot of this machine.
    """
    if not os.access(device, os.R_OK | os.W_OK):
        return EMULATED
    boot = _BOOT.read_text().strip()
    try:
        known = json.loads(record.read_text())
    except (OSError, ValueError):
        known = {}
    if known.get("boot") != boot or known.get("acceleration") not in _FACTORS:
        works = (trial or boots_with_kvm)(image)
        known = {"boot": boot, "acceleration": KVM if works else EMULATED}
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(known))
    return str(known["acceleration"])


def factor(word: str) -> int:
    """By how much every wait for a virtual machine is longer: 1 with KVM, 12 where QEMU emulates.

    All waits of the lab and of its tests for a virtual machine multiply by this number.

    Args:
        word: an answer of `acceleration`.
    """
    return _FACTORS[word]


def explained(word: str) -> str:
    """One line for a person about an answer of `acceleration`."""
    if word == KVM:
        return "virtual machines run with KVM"
    reason = f"no guest boots with KVM in {TRIAL_SECONDS} s" if _DEVICE.exists() else "this machine has no /dev/kvm"
    return f"virtual machines are emulated ({reason}): every wait is {factor(word)} times longer"


def boots_with_kvm(image: Image, seconds: float = TRIAL_SECONDS) -> bool:
    """Whether a guest's kernel comes up with KVM.

    Args:
        image: the kernel and the initramfs to boot.
        seconds: the longest wait.
    """
    words = architecture()
    argv = [words.emulator, "-accel", "kvm", "-cpu", "host", "-machine", words.machine, "-m", "256", "-nodefaults"]
    argv += ["-no-user-config", "-display", "none", "-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    argv += ["-append", f"console={words.console} panic=-1", "-no-reboot"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "console"
        argv += ["-chardev", f"file,id=console,path={log}", "-serial", "chardev:console"]
        guest = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return _comes_up(guest, log, seconds)
        finally:
            guest.kill()
            guest.wait()


def _comes_up(guest: "subprocess.Popen[bytes]", log: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if log.exists() and _STARTED in log.read_bytes():
            return True
        if guest.poll() is not None:
            return False
        time.sleep(0.1)
    return False
