"""The machine that carries the lab: its distribution, programs, resolvers, cgroups and kernel."""

import os
import platform
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from provision.lab.shell import LabError, output, run

_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
# program -> Debian/Ubuntu package that has it
_PROGRAMS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ssh-keygen": "openssh-client",
    "ssh": "openssh-client",
    "gpg": "gnupg",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
}


# the programs that virtual machines need besides; QEMU's own program depends on the architecture
_VM_PROGRAMS = {"qemu-img": "qemu-utils", "mkfs.ext4": "e2fsprogs", "chroot": "coreutils"}


@dataclass(frozen=True)
class Source:
    """One line of the machine's apt sources: address, suite (without the release's name) and component."""

    uri: str
    suffix: str
    component: str


def require_root() -> None:
    """Refuse to go on as a user other than root.

    Raises:
        LabError: we are not root, or the machine does not run Linux.
    """
    if platform.system() != "Linux":
        raise LabError("the lab needs Linux", "run it in a Debian or Ubuntu virtual machine")
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts, so it needs root", "run it with sudo")


def missing_packages(emulator: tuple[str, str] | None = None, path: str | None = None) -> list[str]:
    """The packages that this machine lacks for the lab's programs, sorted.

    Args:
        emulator: QEMU's program and its package, for a lab of virtual machines.
        path: the folders with programs, joined by colons; those of this machine by default.
    """
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin" if path is None else path
    programs = {**_PROGRAMS, **_VM_PROGRAMS, **dict([emulator])} if emulator else _PROGRAMS
    return sorted({package for program, package in programs.items() if not shutil.which(program, path=path)})


def require_programs(*, install: bool = False, emulator: tuple[str, str] | None = None) -> None:
    """Make sure the lab's programs are here.

    Args:
        install: install missing programs with apt-get instead of refusing.
        emulator: QEMU's program and its package, for a lab of virtual machines.

    Raises:
        LabError: a program is missing; the hint gives the command to install its package.
    """
    missing = missing_packages(emulator)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if not install:
        raise LabError(
            f"this machine lacks {', '.join(missing)}", f"run `sudo {' '.join(command)}`, or add `--install`"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update"], env=env, timeout=600)
    run(command, env=env, timeout=900)


@lru_cache
def os_release() -> dict[str, str]:
    """The machine's /etc/os-release as a mapping."""
    lines = Path("/etc/os-release").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}


def distribution() -> str:
    """`debian` or `ubuntu`: the distribution whose releases the machine's mirror has.

    Raises:
        LabError: the machine runs another distribution.
    """
    name = os_release().get("ID", "unknown")
    if name not in {"debian", "ubuntu"}:
        raise LabError(
            f"the lab takes its hosts from the machine's own package mirror, and the lab knows no mirror of {name}",
            "run it on Debian or Ubuntu",
        )
    return name


def default_release() -> str:
    """The default release of hosts: Debian's trixie, or an Ubuntu machine's own."""
    return "trixie" if distribution() == "debian" else os_release()["VERSION_CODENAME"]


def apt_sources() -> list[Source]:
    """The distribution's own sources in the machine's apt configuration, in order, main archive first.

    Raises:
        LabError: apt has no such source.
    """
    policy = output(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)",
            "Created-By: Packages",
        ]
    )
    codename = os_release()["VERSION_CODENAME"]
    sources = []
    for line in policy.splitlines():
        origin, uri, suite, component = line.split("|")
        if origin.lower() == distribution() and suite.startswith(codename):
            sources.append(Source(uri.rstrip("/"), suite.removeprefix(codename), component))
    if not any(source.suffix == "" for source in sources):
        raise LabError("apt has no index of this machine's distribution", "run `sudo apt-get update`")
    return sorted(dict.fromkeys(sources), key=lambda source: source.suffix != "")


def resolv_conf(etc: Path = Path("/etc/resolv.conf"), upstream: Path = _UPSTREAM) -> str:
    """The machine's resolv.conf for use in a network namespace: systemd-resolved's upstream servers where the
    machine asks its own loopback.

    Args:
        etc: the machine's file.
        upstream: systemd-resolved's list of its upstream servers.
    """
    text = etc.read_text()
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    local = bool(servers) and all(server.startswith("127.") or server == "::1" for server in servers)
    return upstream.read_text() if local and upstream.exists() else text


def cgroup_version() -> int:
    """1 where the machine has cgroup v1 hierarchies with controllers, else 2."""
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


def require_memory(mib: int, meminfo: Path = Path("/proc/meminfo")) -> None:
    """Make sure that this machine has memory for virtual machines.

    Args:
        mib: needed memory in MiB.
        meminfo: the kernel's list of sizes, with `MemAvailable` in KiB.

    Raises:
        LabError: the machine has less available memory.
    """
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    available = int(line.split()[1]) // 1024
    if available < mib:
        raise LabError(
            f"the virtual machines need {mib} MiB of memory, and this machine has {available} MiB available",
            "ask for fewer hosts with --gpu-hosts and --balancers, or leave out --vm",
        )


def has_netem() -> bool:
    """Whether the kernel can delay packets (tc netem)."""
    words = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms"]
    probe = ["unshare", "--net", "--", *words]
    return run(probe, check=False).returncode == 0
