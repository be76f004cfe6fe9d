"""A host of a lab that is a virtual machine: a kernel, cgroup v2 and AppArmor of its own.

The methods are those of `Host`. A command runs by the machine's guest agent, a disturbance of packets is a rule inside
of the machine (and gone after a reboot), and a saved state is an overlay of the disk.
"""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from provision.lab import keys, machine, vm_files, vm_image
from provision.lab.disk import Disk
from provision.lab.host import Host
from provision.lab.network import DISTURBANCES, Network
from provision.lab.shell import LabError
from provision.lab.spec import GPU, HostSpec
from provision.lab.virtual_machine import BOOT_SECONDS, Shape, Tap, VirtualMachine, make_overlay
from provision.lab.vm_files import GuestFile
from provision.lab.vm_image import Image

_SHAPES = {True: Shape(1536, 2), False: Shape(1024, 2)}  # with and without containers
DISK_GIB = 2  # a deployed host takes about 1 GiB of this machine's disk
_OVERHEAD = 200  # MiB of QEMU itself for each machine
_WRITE = """\
set -eu
mkdir -p "$(dirname "$1")"
cat > "$1.partial"
chmod "$2" "$1.partial"
mv -f "$1.partial" "$1"
"""


class VirtualDisk(Disk):
    """The disk of a virtual machine: an overlay on the image, or on a saved overlay.

    Args:
        home: the host's directory in the lab's state.
        image: the image that the machine starts from.
        overlay: makes an empty disk over another file.
    """

    def __init__(self, home: Path, image: Image, overlay: Callable[[Path, Path], None] = make_overlay) -> None:
        super().__init__(home, image.folder)
        self._image = image
        self._overlay = overlay
        self._file = home / "disk.qcow2"

    def save(self, label: str) -> None:
        """Keep the present state under a label; the host must not run.

        Raises:
            LabError: the label is taken.
        """
        self.require(label, saved=False)
        point = self._point(label)
        point.parent.mkdir(parents=True, exist_ok=True)
        self._file.rename(point)
        self._overlay(self._file, point)

    def restore(self, label: str) -> None:
        """Go back to a saved state, or with an empty label to the bare image; the host must not run.

        Raises:
            LabError: nothing was saved under that label.
        """
        self.require(label, saved=True)
        self._file.unlink(missing_ok=True)
        self._overlay(self._file, self._point(label) if label else self._image.disk)

    def saved(self) -> list[str]:
        """The labels that `restore` accepts."""
        return sorted(path.stem for path in self.home.glob("saved/*.qcow2"))

    def _point(self, label: str) -> Path:
        return self.home / "saved" / f"{label}.qcow2"


class VirtualHost(Host):
    """A virtual machine to start, stop, save and run commands on, without SSH.

    Args:
        spec: its name, group and number.
        network: the lab's network.
        home: its directory in the lab's state.
        image: the image that the machine starts from.
        files: files that every boot puts in place, path (without leading slash) -> text.
    """

    def __init__(self, spec: HostSpec, network: Network, home: Path, image: Image, files: dict[str, str]) -> None:
        super().__init__(spec, network, home, image.folder, files)
        self.disk: Disk = VirtualDisk(home, image)
        cable = Tap(network.cable(spec.number), network.netns, network.mac(spec.number))
        self.machine = VirtualMachine(spec.name, home, image, shape(spec), cable, group(network.lab))

    @property
    def leader(self) -> int | None:
        """Process id of QEMU; None while the host is down."""
        return int((self.home / "qemu.pid").read_text()) if self.running else None

    @property
    def patience(self) -> int:
        """By how much every wait for the host is longer than with KVM."""
        return self.machine.factor

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self.machine.running

    def start(self) -> None:
        """Boot the host, unless it runs; return without waiting."""
        if self.running:
            return
        self.stop()
        self._network.add_tap(self.spec.number)
        self._furnish()
        self.machine.start()

    def stop(self) -> None:
        """Cut the power and remove the cable. The disk stays."""
        self.machine.stop()
        self._network.remove_tap(self.spec.number)

    def shutdown(self, timeout: float = 30) -> None:
        """Shut the host down as a person would, then take the power away.

        Args:
            timeout: seconds until the power is cut, with KVM.
        """
        self.machine.shutdown(timeout)
        self.stop()

    def wait(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until the host has booted and its sshd answers the machine.

        Args:
            timeout: seconds with KVM.

        Raises:
            LabError: the host did not answer; the message has the end of its console.
        """
        deadline = time.monotonic() + timeout * self.machine.factor
        self.machine.wait(timeout)
        self._forget_pending()
        while not self._greets(self.machine.factor):
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name} has booted, and its sshd does not answer on {self.address}:22",
                    f"look at {self.machine.console}",
                )
            time.sleep(0.2)

    def run(
        self, words: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run words as root on the host by its guest agent: works without the host's SSH and network.

        Args:
            words: the command.
            stdin: its standard input.
            check: whether an exit code other than 0 is an error.
            timeout: seconds with KVM until the command is killed.

        Raises:
            LabError: the host is down, or the command failed.
        """
        return self.machine.run(words, stdin=stdin, check=check, timeout=timeout)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the host; a host that is down gets the file at its next boot. `path` is absolute."""
        if self.running:
            self.run(["sh", "-c", _WRITE, "write", path, f"{mode:o}"], stdin=text)
            return
        waiting = {**self._pending(), path.lstrip("/"): [text, mode]}
        self._pending_file.parent.mkdir(parents=True, exist_ok=True)
        self._pending_file.write_text(json.dumps(waiting))

    def disturb(self, kind: str, *, on: bool) -> None:
        """Start or stop disturbing every packet of the host, by rules inside of the host.

        Args:
            kind: a key of `network.DISTURBANCES`.
            on: whether the disturbance is on from now on.
        """
        for table, chain, *rule in DISTURBANCES[kind]:
            if self._has_rule(table, chain, rule) != on:
                self._iptables(table, "-I" if on else "-D", chain, rule)

    def disturbed(self, kind: str) -> bool:
        """Whether a disturbance of this kind is on."""
        table, chain, *rule = DISTURBANCES[kind][0]
        return self._has_rule(table, chain, rule)

    def _has_rule(self, table: str, chain: str, rule: list[str]) -> bool:
        return self._iptables(table, "-C", chain, rule, check=False) == 0

    def _iptables(self, table: str, action: str, chain: str, rule: list[str], *, check: bool = True) -> int:
        return self.run(["iptables", "-w", "-t", table, action, chain, *rule], check=check).returncode

    def _furnish(self) -> None:
        keys.ssh_key(self.key, f"root@{self.name}")
        address = vm_files.fixed_address(self.address, self._network.gateway, self._network.mac(self.spec.number))
        texts = {"etc/hosts": f"127.0.0.1 localhost\n{self.address} {self.name}\n", **self._files}
        files = [
            *vm_files.identity(self.name, self._machine_id().strip(), self.key, self._login()),
            address,
            GuestFile("etc/resolv.conf", machine.resolv_conf()),
            *(GuestFile(path, text, 0o755 if path.startswith("usr/bin/") else 0o644) for path, text in texts.items()),
            *(GuestFile(path, text, mode) for path, (text, mode) in self._pending().items()),
        ]
        self.machine.furnish(files)

    @property
    def _pending_file(self) -> Path:
        return self.home / "pending.json"

    def _pending(self) -> dict[str, tuple[str, int]]:
        """Files that were written while the host was down: path -> text and mode."""
        with suppress(FileNotFoundError):
            return {path: (text, mode) for path, (text, mode) in json.loads(self._pending_file.read_text()).items()}
        return {}

    def _forget_pending(self) -> None:
        self._pending_file.unlink(missing_ok=True)


def image_of(home: Path, release: str) -> Image:
    """The image below the disk of a host, which may be older than the image of our sources; else the present image.

    Args:
        home: the host's directory in the lab's state.
        release: release of the host.
    """
    with suppress(FileNotFoundError):
        return Image(Path((home / "backing").read_text().strip()).parent, release)
    return Image(vm_image.path(release), release)


def group(lab: str) -> str:
    """The cgroup of a lab's virtual machines; no lab has a dot in its name."""
    return f"{lab}.vm"


def shape(host: HostSpec) -> Shape:
    """Memory and processors of a host."""
    return _SHAPES[host.group == GPU]


def needed_memory(host: HostSpec) -> int:
    """MiB that the virtual machine of a host takes from this machine."""
    return shape(host).memory + _OVERHEAD
