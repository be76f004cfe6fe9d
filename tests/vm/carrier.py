"""The carrier: a virtual machine with Debian 12 in which the project runs as on a machine of its own.

The kernel is Debian's own for clouds, and the cgroup hierarchy is unified (cgroup v2). The lab inside is the ordinary
lab of containers: a host of that lab has the carrier's kernel.
"""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from provision.lab import keys, vm_files, vm_image
from provision.lab.virtual_machine import Shape, UserNetwork, VirtualMachine, machine_id
from tests.results import ROOT
from tests.vm import carried
from tests.vm.guest import Login

RELEASE, HOSTS = "bookworm", "trixie"
FOLDER = Path("/var/tmp/provision-vm")
SHAPE = Shape(memory=6144, cpus=2)
KEEP = bool(os.environ.get("PROVISION_KEEP_VM"))
_BOOT = 300  # seconds, longer than a host's: other machines may be at work
OFFLINE = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/carried/wheels PIP_NO_COMPILE=0"
"""With these variables pip takes the carried packages, asks no index, and leaves the compile of a module to its first
use, which saves an emulated machine minutes. "To enable the boolean options --no-compile ... falsy values have to be
used": pip's documentation, Configuration."""


class _Machine(VirtualMachine):
    """A virtual machine with a third disk."""

    def words(self) -> list[str]:
        disk = f"file={self.home / 'parts.raw'},if=virtio,format=raw,cache=unsafe,discard=unmap"
        return [*super().words(), "-drive", disk]


class Carrier:
    """The carrier, booted at the first need.

    Args:
        log: the file for the output of commands.
        say: called with a line before each long step.
    """

    def __init__(self, log: Path, say: Callable[[str], None]) -> None:
        self.log = log
        self.say = say
        self._login: Login | None = None
        self._machine: _Machine | None = None

    @property
    def login(self) -> Login:
        """Root's login in the booted carrier.

        Raises:
            LabError: the machine does not boot; the message has the end of its console.
        """
        if self._login is None:
            self._login = self._booted()
        return self._login

    @property
    def running(self) -> bool:
        """Whether this run booted the carrier."""
        return self._login is not None

    def discard(self) -> None:
        """Cut the power and delete the carrier; PROVISION_KEEP_VM=1 leaves the carrier running for a look."""
        if self._machine and not KEEP:
            self._machine.discard()
            self._login = self._machine = None

    def clone(self) -> str:
        """Clone the project's commit into /root/provision, and return the commit in short."""
        words = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "bundle", "create", "-q", "-", "HEAD"]
        bundle = subprocess.run(words, capture_output=True, check=True).stdout
        self.login.sh("cat > /root/project.bundle", 60, given=bundle)
        said = self.login.sh(
            "rm -rf /root/provision; git clone -q /root/project.bundle /root/provision;"
            " git -C /root/provision rev-parse --short HEAD",
            60,
        )
        return said.text.split()[-1]

    def _booted(self) -> Login:
        home, key = FOLDER / "carrier", FOLDER / "id_ed25519"
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        public, host_key = keys.ssh_key(key, "make test-vm"), FOLDER / "host/ssh_host_ed25519_key"
        keys.ssh_key(host_key, "root@carrier")
        image = vm_image.ensure(RELEASE, self.say)
        port = _port(FOLDER / "port")
        machine = _Machine("carrier", home, image, SHAPE, UserNetwork(port))
        known = FOLDER / "known_hosts"
        known.write_text(keys.known_host(host_key, [f"[127.0.0.1]:{port}"]))
        login = Login(port, key, known, self.log, machine.factor)
        self._machine = machine
        if not (KEEP and machine.running):
            machine.discard()
            home.mkdir(parents=True)
            carried.made(HOSTS, home, self.say)
            machine.furnish(vm_files.identity("carrier", machine_id(), host_key, public))
            self.say("booting the carrier")
            machine.start()
            machine.wait(_BOOT)
            self._furnished(login)
        return login

    @staticmethod
    def _furnished(login: Login) -> None:
        login.sh(
            f"mkdir -p /carried /var/cache/provision-lab; mount LABEL={carried.LABEL} /carried;"
            " mount --bind /carried/cache /var/cache/provision-lab",
            60,
        )


def _port(kept: Path) -> int:
    """A free port of this machine; the port of a carrier that was kept."""
    if KEEP and kept.exists():
        return int(kept.read_text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    kept.write_text(str(port))
    return port
