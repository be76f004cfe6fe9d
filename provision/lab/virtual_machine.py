"""One virtual machine under QEMU: a kernel and a systemd of its own. Hosts of a lab use one, and so can a test.

    image = vm_image.ensure("trixie", print)
    machine = VirtualMachine("carrier", Path("/var/tmp/carrier"), image, Shape(2048, 2), UserNetwork(2222))
    machine.furnish(vm_files.identity("carrier", machine_id(), host_key, login))
    machine.start()
    machine.wait()
    machine.run(["systemctl", "is-system-running"], check=False)
    machine.discard()

No argument of QEMU is a secret. Keys come to the machine in the archive of its files.
"""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.lab import acceleration, cgroups, paths, vm_image
from provision.lab.shell import LabError, run, start
from provision.lab.vm_agent import Agent
from provision.lab.vm_files import GuestFile, archive
from provision.lab.vm_image import Image

BOOT_SECONDS = 60
"""How long a machine may take to boot with KVM; `acceleration.factor` tells how much longer emulation takes."""


@dataclass(frozen=True)
class Shape:
    """The size of a machine.

    Args:
        memory: memory in MiB.
        cpus: number of processors.
    """

    memory: int = 1024
    cpus: int = 2


@dataclass(frozen=True)
class Tap:
    """A cable into a network namespace of this machine.

    Args:
        device: name of a tap device that exists.
        netns: name of the network namespace of the device.
        mac: hardware address in the machine.
    """

    device: str
    netns: str
    mac: str

    def words(self) -> list[str]:
        """QEMU's words for the network."""
        cable = f"tap,id=net,ifname={self.device},script=no,downscript=no"
        return ["-netdev", cable, "-device", f"virtio-net-pci,netdev=net,romfile=,mac={self.mac}"]

    def enter(self) -> list[str]:
        """Words before QEMU's own: the device is in the namespace."""
        return ["nsenter", f"--net={paths.NETNS / self.netns}", "--"]


@dataclass(frozen=True)
class UserNetwork:
    """A network without root's help: the machine reaches the world through QEMU by DHCP, and only SSH comes in.

    Args:
        port: port on 127.0.0.1 that leads to the machine's port 22.
        mac: hardware address in the machine.
    """

    port: int
    mac: str = "52:54:00:12:34:56"

    def words(self) -> list[str]:
        """QEMU's words for the network."""
        cable = f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        return ["-netdev", cable, "-device", f"virtio-net-pci,netdev=net,romfile=,mac={self.mac}"]

    def enter(self) -> list[str]:
        """No words: QEMU runs in our own namespace."""
        return []


class VirtualMachine:
    """A virtual machine to start, stop and run commands in.

    Args:
        name: name of the machine.
        home: its directory; holds disk, console.log, the agent's socket and the files. The path has at most 80
            characters, because a socket's address has at most 107.
        image: the image that the machine starts from.
        shape: memory and processors.
        network: `Tap` or `UserNetwork`.
        group: the first name of its cgroup; `lab down` kills the group `LAB.vm`.
        accelerated: returns `kvm` or `tcg`.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        image: Image,
        shape: Shape,
        network: Tap | UserNetwork,
        group: str = "_machines",
        accelerated: Callable[[Image], str] = acceleration.acceleration,
    ) -> None:
        self.name = name
        self.home = home
        self.image = image
        self.shape = shape
        self.network = network
        self.group = group
        self._accelerated = accelerated

    @property
    def disk(self) -> Path:
        """The overlay with everything that the machine wrote."""
        return self.home / "disk.qcow2"

    @property
    def console(self) -> Path:
        """What the machine wrote to its serial port, from all boots."""
        return self.home / "console.log"

    @property
    def agent(self) -> Agent:
        """The guest agent."""
        return Agent(self.home / "agent.sock", patience=2 * self.factor + 3)

    @property
    def factor(self) -> int:
        """By how much every wait for this machine is longer than with KVM."""
        return acceleration.factor(self._accelerated(self.image))

    @property
    def running(self) -> bool:
        """Whether QEMU runs. The pid file alone proves nothing: the cgroup has to have the process."""
        with suppress(OSError, ValueError):
            return int((self.home / "qemu.pid").read_text()) in cgroups.processes(self.group, self.name)
        return False

    def furnish(self, files: Iterable[GuestFile]) -> None:
        """Give the machine files that every boot puts in place before systemd starts."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)  # disk and files hold keys
        archive(files, self.home / "files.tar")

    def start(self) -> None:
        """Boot the machine, unless it runs; return without waiting.

        Raises:
            LabError: QEMU is missing or did not start; the message has QEMU's own words.
        """
        if self.running:
            return
        self.stop()
        if not self.disk.exists():
            make_overlay(self.disk, self.image.disk)
        (self.home / "backing").write_text(f"{self.image.disk}\n")  # keeps the image in the cache
        argv = [*self.network.enter(), *self.words()]
        joined = cgroups.make(self.group, self.name, confine=lambda group: None)  # the guest is confined by QEMU
        log = self.home / "qemu.log"
        log.unlink(missing_ok=True)
        start(argv, cgroups=joined, log=log, env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"})
        deadline = time.monotonic() + 10 * self.factor
        while not self.running:
            complaint = log.read_text(errors="replace")[-1000:]
            gone = complaint and not cgroups.processes(self.group, self.name)
            if gone or time.monotonic() > deadline:
                raise LabError(f"QEMU did not start {self.name}: {complaint or 'no word from QEMU'}", f"see {log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Cut the power: kill QEMU. The disk stays."""
        cgroups.kill(self.group, self.name)
        cgroups.remove(self.group, self.name)
        for name in ("qemu.pid", "agent.sock"):
            (self.home / name).unlink(missing_ok=True)

    def shutdown(self, timeout: float = 30) -> None:
        """Shut down as a person would, then cut the power.

        Args:
            timeout: seconds until the power is cut, with KVM.
        """
        if self.running:
            with suppress(LabError):
                self.run(["systemctl", "poweroff", "--no-wall"], check=False)
        deadline = time.monotonic() + timeout * self.factor
        while self.running and time.monotonic() < deadline:
            time.sleep(0.1)
        self.stop()

    def wait(self, timeout: float = BOOT_SECONDS) -> None:
        """Wait until the machine has booted: its agent answers, and users may log in.

        Args:
            timeout: seconds with KVM.

        Raises:
            LabError: the machine did not boot; the message has the end of its console.
        """
        deadline = time.monotonic() + timeout * self.factor
        while not self.booted():
            if not self.running or time.monotonic() > deadline:
                text = self.console.read_text(errors="replace")[-1500:] if self.console.exists() else ""
                state = f"not booted after {timeout * self.factor:g} s" if self.running else "no longer running"
                raise LabError(f"the virtual machine {self.name} is {state}; the end of {self.console}:\n{text}")
            time.sleep(0.2)

    def booted(self) -> bool:
        """Whether the agent answers and systemd lets users log in (systemd-user-sessions.service)."""
        if not self.running or not self.agent.answers():
            return False
        ready = "test ! -e /run/nologin && systemctl --quiet is-active ssh.service"
        with suppress(LabError):
            return self.run(["sh", "-c", ready], check=False, timeout=20).returncode == 0
        return False

    def run(
        self, words: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run words as root in the machine by its agent, without SSH and network.

        Args:
            words: the command.
            stdin: its standard input.
            check: whether an exit code other than 0 is an error.
            timeout: seconds with KVM until the command is killed.

        Raises:
            LabError: the machine is down, or the command failed.
        """
        if not self.running:
            raise LabError(f"the virtual machine {self.name} is not running", "start it first")
        return self.agent.run(words, stdin=stdin, check=check, timeout=timeout * self.factor)

    def discard(self) -> None:
        """Cut the power and delete the machine with all its files."""
        self.stop()
        cgroups.remove_unused(self.group)
        shutil.rmtree(self.home, ignore_errors=True)

    def words(self) -> list[str]:
        """The words that start QEMU, as a process of its own in the background of the caller."""
        board, word = vm_image.architecture(), self._accelerated(self.image)
        append = f"root=/dev/vda rw console={board.console} net.ifnames=0 panic=5 fsck.mode=skip"
        append += " systemd.show_status=error random.trust_cpu=on"
        if word == acceleration.EMULATED:
            append += " mitigations=off"  # guards of a real processor, which cost an emulated guest much
        return [
            board.emulator,
            *("-name", self.name, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", board.machine, "-accel", word, "-cpu", "host" if word == acceleration.KVM else "max"),
            *("-m", str(self.shape.memory), "-smp", str(self.shape.cpus)),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", append),
            # a throw-away machine needs no fsync on this machine's disk
            *("-drive", f"file={_escaped(self.disk)},if=virtio,format=qcow2,cache=unsafe,discard=unmap"),
            *("-drive", f"file={_escaped(self.home / 'files.tar')},if=virtio,format=raw,readonly=on"),
            *self.network.words(),
            *("-chardev", f"socket,id=agent,path={_escaped(self.home / 'agent.sock')},server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
            *("-device", "virtio-rng-pci"),
            *("-chardev", f"file,id=console,path={_escaped(self.console)},append=on", "-serial", "chardev:console"),
            *("-pidfile", str(self.home / "qemu.pid")),
        ]


def make_overlay(disk: Path, backing: Path) -> None:
    """Make an empty disk over another file, which is not written to.

    Args:
        disk: the new file, in the format qcow2.
        backing: an image (`.raw`), or an older overlay.
    """
    disk.parent.mkdir(parents=True, exist_ok=True)
    kind = "raw" if backing.suffix == ".raw" else "qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", kind, "-b", backing, disk])


def machine_id() -> str:
    """A new id for a machine, as in /etc/machine-id."""
    return uuid.uuid4().hex


def _escaped(path: Any) -> str:
    """A path in a list of QEMU's options, where a comma is doubled."""
    return str(path).replace(",", ",,")
