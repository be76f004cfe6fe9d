"""The kernel's side of the driver: nouveau in its place, and Secure Boot with a module that nobody signed.

Sources: proc(5) for /proc/modules; the variable SecureBoot of UEFI 2.10, 3.3, whose value follows four bytes of
attributes; modinfo(8) `-F signer`; a kernel under Secure Boot loads no unsigned module (kernel_lockdown(7)). Keys of
DKMS: /var/lib/dkms/mok.pub in Debian, /var/lib/shim-signed/mok/MOK.der in Ubuntu.
"""

from collections.abc import Iterator

from provision.command import Answer, Script, look
from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory
from provision.steps.base import State, UnreadableError

LOOK = look(
    Script(
        "doctor/kernel",
        """
echo "modules $(sed -nE 's/^(nouveau|nvidia|nvidia_uvm) .*/\\1/p' /proc/modules | tr '\\n' ' ')"
at=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
echo "secure_boot $(od -An -tu1 -j4 -N1 "$at" 2>/dev/null | tr -d ' ')"
echo "module $(modinfo -F filename nvidia 2>/dev/null | head -n 1)"
echo "signer $(modinfo -F signer nvidia 2>/dev/null | head -n 1)"
""",
    ),
    title="look at the kernel's modules",
)
BLACKLIST = (
    r"printf 'blacklist nouveau\noptions nouveau modeset=0\n' >/etc/modprobe.d/blacklist-nouveau.conf"
    " && update-initramfs -u && reboot"
)
ENROL = {
    "debian": "mokutil --import /var/lib/dkms/mok.pub && reboot",
    "ubuntu": "mokutil --import /var/lib/shim-signed/mok/MOK.der && reboot",
}
CONSOLE = "the boot then asks for the new key on the console (MOK manager)"


def _of_gpu_hosts(host: Host, inventory: Inventory) -> Look | None:
    return alone(LOOK, _state) if host.instances else None


def _state(answer: Answer) -> State:
    pairs = dict(line.partition(" ")[::2] for line in answer.text.splitlines())
    if "modules" not in pairs:
        raise UnreadableError(answer.complaint or "no list of modules")
    return {
        "modules": pairs["modules"].split(),
        "secure_boot": pairs.get("secure_boot", "").strip() == "1",
        "module": pairs.get("module", "").strip()[:400],
        "signer": pairs.get("signer", "").strip()[:200],
    }


def _nouveau(state: State, subject: Subject) -> Iterator[Finding]:
    modules = (state or {})["modules"]
    if "nouveau" not in modules:
        yield good("the kernel has not loaded nouveau")
    elif "nvidia" in modules:
        yield risk("nouveau is loaded beside NVIDIA's driver, and may take a card at the next boot", BLACKLIST)
    else:
        yield bad("nouveau is loaded and holds the cards, so NVIDIA's driver cannot load", BLACKLIST)


def _secure_boot(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    if not state["secure_boot"]:
        yield good("Secure Boot is off, or this host has none")
        return
    loaded = "nvidia" in state["modules"]
    signer = state["signer"] or "nobody"
    evidence = f"{state['module']} signed by {signer}" if state["module"] else "no module nvidia"
    cure = ENROL.get(subject.facts.distribution, ENROL["debian"])
    if loaded:
        yield good("Secure Boot is on, and the kernel has loaded NVIDIA's module", evidence)
    elif not state["module"]:
        says = "Secure Boot is on: the kernel will load NVIDIA's module only with a signature of an enrolled key"
        yield risk(says, "mokutil --sb-state; mokutil --list-enrolled", evidence)
    elif state["signer"]:
        says = f"Secure Boot is on, and NVIDIA's module of {signer} is not loaded: the key may not be enrolled"
        yield bad(says, cure, f"{evidence}; {CONSOLE}")
    else:
        says = "Secure Boot is on, and NVIDIA's module has no signature: the kernel refuses the module"
        yield bad(says, f"apt-get install --reinstall nvidia-kernel-dkms && {cure}", f"{evidence}; {CONSOLE}")


CHECKS = (Check("nouveau", _of_gpu_hosts, _nouveau), Check("secure boot", _of_gpu_hosts, _secure_boot))
