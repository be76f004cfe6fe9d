"""One host of a lab: a real systemd with sshd, in a container."""

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from provision.lab import cgroups, keys, machine
from provision.lab.disk import BOUND, Disk
from provision.lab.emulation import machine_factor
from provision.lab.network import Network
from provision.lab.shell import LabError, run, start
from provision.lab.spec import HostSpec

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# All of Docker's capabilities, less those that would let root on a host at the machine's kernel (the disk: devices.py).
_CAPABILITIES = ("--capability=all", "--drop-capability=CAP_SYS_MODULE,CAP_SYS_RAWIO")
# Docker starts no container where a cgroup stayed read-only.
_LOST_CGROUP = "grep -q '^cgroup /sys/fs/cgroup/[^ ]* cgroup ro' /proc/mounts"


class Host:
    """A host to start, stop, save and run commands on, without SSH.

    Args:
        spec: its name, group and number.
        network: the lab's network.
        home: its directory in the lab's state.
        base: root of the cached base.
        files: files that every boot puts in place, path (without leading slash) -> text.
    """

    def __init__(self, spec: HostSpec, network: Network, home: Path, base: Path, files: dict[str, str]) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = network.address(spec.number)
        self.home = home
        self.disk = Disk(home, base)
        self._network = network
        self._files = files

    @property
    def key(self) -> Path:
        """Private host key; made once, so that a reset host keeps its known host key."""
        return self.home / "ssh" / "ssh_host_ed25519_key"

    @property
    def leader(self) -> int | None:
        """Process id of the host's init on the machine; None while the host is down."""
        for pid in cgroups.processes(self._network.lab, self.name):
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                spaces = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
                if len(spaces) == 2 and spaces[1] == "1":
                    return pid
        return None

    @property
    def patience(self) -> int:
        """By how much every wait for the host is longer than for a container of a machine that is not emulated."""
        return machine_factor()

    @property
    def running(self) -> bool:
        """Whether the host's init runs."""
        return self.leader is not None

    def start(self) -> None:
        """Boot the host, unless it runs; return without waiting."""
        if self.running:
            return
        self.stop()
        self.disk.mount()
        self._furnish()
        self._network.add_host(self.name, self.spec.number)
        joined = cgroups.make(self._network.lab, self.name)
        start(self._nspawn(), cgroups=joined, log=self.home / "console.log", env=self._environment())

    def stop(self) -> None:
        """Cut the power: kill every process of the host, remove its network and mounts. Disks stay."""
        cgroups.kill(self._network.lab, self.name)
        cgroups.remove(self._network.lab, self.name)
        self._network.remove_host(self.name)
        self.disk.unmount()

    def shutdown(self, timeout: float = 60) -> None:
        """Shut the host down as a person would, then take the power away.

        Args:
            timeout: seconds until the power is cut, on a machine that is not emulated.
        """
        if self.running:
            self.run(["systemctl", "poweroff", "--no-wall"], check=False)
        deadline = time.monotonic() + timeout * self.patience
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        self.stop()

    def wait(self, timeout: float = 150) -> None:
        """Wait until the host's sshd answers the machine. A host that hangs while it boots is power-cycled, once.

        Args:
            timeout: seconds, on a machine that is not emulated.

        Raises:
            LabError: the host did not answer; the message describes its state.
        """
        seconds = timeout * self.patience
        if self._comes_up(seconds / 2):
            return
        self.stop()
        self.start()
        if not self._comes_up(seconds):
            raise LabError(f"{self.name} did not come up in {seconds:g} seconds, twice:\n{self._state()}")

    def _comes_up(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._answers():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return self.run(["sh", "-c", _LOST_CGROUP], check=False).returncode != 0

    def _state(self) -> str:
        """Console, system state, jobs that hang and addresses: evidence of why a host does not boot."""
        lines = [(self.home / "console.log").read_text(errors="replace")[-1500:], f"init: {self.leader}"]
        lines.append(f"its sshd answers: {self._answers()}")
        for words in (
            ["systemctl", "is-system-running"],
            ["systemctl", "list-jobs", "--no-pager"],
            ["systemctl", "--failed", "--no-pager", "--plain", "--no-legend"],
            ["systemctl", "status", "--no-pager", "lab-cgroups.service"],
            ["grep", "^cgroup", "/proc/mounts"],
            ["ip", "-br", "addr"],
        ):
            with suppress(LabError):
                done = self.run(words, check=False, timeout=10)
                lines.append(f"{' '.join(words)}: {done.stdout.strip()} {done.stderr.strip()}")
        return "\n".join(lines)

    def run(
        self, words: Sequence[str], *, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run words as root on the host, from the machine's side: works without the host's SSH and network.

        Args:
            words: the command.
            stdin: its standard input.
            check: whether an exit code other than 0 is an error.
            timeout: seconds until the command is killed, on a machine that is not emulated.

        Raises:
            LabError: the host is down, or the command failed.
        """
        leader = self.leader
        if leader is None:
            raise LabError(f"{self.name} is not running", f"run `provision lab up --name {self._network.lab}`")
        enter = ["nsenter", "--target", str(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        env = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        return run([*enter, "--root", "--wd=/", "--", *words], stdin=stdin, check=check, timeout=timeout, env=env)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the host, running or not. `path` is absolute; its directory is made."""
        leader = self.leader
        root = Path(f"/proc/{leader}/root") if leader else self.disk.root
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(text)
        partial.chmod(mode)
        partial.rename(target)

    def disturb(self, kind: str, *, on: bool) -> None:
        """Start or stop disturbing every packet of the host.

        Args:
            kind: a key of `network.DISTURBANCES`.
            on: whether the disturbance is on from now on.
        """
        self._network.disturb(self.name, kind, on=on)

    def disturbed(self, kind: str) -> bool:
        """Whether a disturbance of this kind is on."""
        return self._network.disturbed(self.name, kind)

    def _answers(self) -> bool:
        leader = self.leader
        if leader is None or Path(f"/proc/{leader}/root/run/nologin").exists():
            return False  # sshd would already answer, and refuse everybody but root
        return self._greets(self.patience)

    def _greets(self, seconds: float) -> bool:
        """Whether sshd sends its greeting over the lab's network in time."""
        with suppress(OSError), socket.create_connection((self.address, 22), timeout=seconds) as connection:
            connection.settimeout(2 * seconds)
            return connection.recv(4) == b"SSH-"
        return False

    def _furnish(self) -> None:
        """Put in place the files by which this host differs from its base."""
        keys.ssh_key(self.key, f"root@{self.name}")
        shutil.copy(self.key, self.disk.root / "etc/ssh")
        shutil.copy(self.key.with_name(self.key.name + ".pub"), self.disk.root / "etc/ssh")
        (self.disk.root / "etc/machine-id").write_text(self._machine_id())
        self.write("/etc/resolv.conf", machine.resolv_conf())
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        for path, text in self._files.items():
            self.write(path, text, 0o755 if path.startswith("usr/bin/") else 0o644)
        self._authorize()

    def _machine_id(self) -> str:
        """The host's machine id with a newline; made once, so that a reset host keeps the id."""
        file = self.home / "machine-id"
        if not file.exists():
            file.write_text(Path("/proc/sys/kernel/random/uuid").read_text().replace("-", ""))
        return file.read_text()

    def _login(self) -> str:
        """The lab's public key."""
        return (self.home.parent.parent / "id_ed25519.pub").read_text()

    def _authorize(self) -> None:
        public = self._login()
        for home in ("root", "home/ops"):
            folder = self.disk.root / home / ".ssh"
            owner = folder.parent.stat()
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "authorized_keys").write_text(public)
            (folder / "authorized_keys").chmod(0o600)
            for path in (folder, folder / "authorized_keys"):
                shutil.chown(path, owner.st_uid, owner.st_gid)

    def _nspawn(self) -> list[str]:
        binds = [f"--bind={self.disk.home / name}:/var/lib/{name}" for name in BOUND]
        return [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--boot",
            f"--machine={self._network.lab}-{self.name}",  # a host's name alone may be in two labs
            f"--hostname={self.name}",
            f"--directory={self.disk.root}",
            f"--network-namespace-path=/run/netns/{self._network.host_netns(self.name)}",
            *_CAPABILITIES,
            "--system-call-filter=add_key keyctl bpf",
            "--console=pipe",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
            *binds,
        ]

    def _environment(self) -> dict[str, str]:
        env = {"PATH": _PATH, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network", "SYSTEMD_NSPAWN_USE_CGNS": "1"}
        if machine.cgroup_version() == 1:
            env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "0"
        return env
