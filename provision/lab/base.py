"""The root file system every host is laid over: a bare distribution with sshd, sudo and systemd, made once."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from provision.lab import cgroups, machine, paths
from provision.lab.shell import LabError, joining, run

_CGROUP = "_cache"  # a lab's name begins with a letter, so no lab can have this name
# Packages of a bare server, and no package that provisioning would install.
_PACKAGES = (
    "ca-certificates,curl,dbus,gnupg,iproute2,iptables,iputils-ping,openssh-server,procps,python3,sudo,systemd,"
    "systemd-sysv"
)
# These units cannot work in a container, or take apt's lock at moments of their own.
_MASKED = (
    "systemd-modules-load.service",
    "console-getty.service",
    "getty@tty1.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "systemd-networkd-wait-online.service",
)
# A container mounts cgroup v1 read-only; Docker must write there before running anything.
_REMOUNT_UNIT = """\
[Unit]
Description=Lab: make the cgroup v1 mounts writable for Docker
DefaultDependencies=no
Before=docker.service containerd.service basic.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-cgroups

[Install]
WantedBy=basic.target
"""
_REMOUNT = """\
#!/bin/sh
set -eu
# not by reading /proc/mounts: others mount meanwhile, and lines are skipped
for where in /sys/fs/cgroup/*; do
    [ -L "$where" ] || [ "$(stat -f -c %T "$where")" != cgroupfs ] || mount -o remount,rw,bind "$where"
done
"""
VERSION_1_FILES = (
    "etc/systemd/system/lab-cgroups.service",
    "etc/systemd/system/basic.target.wants/lab-cgroups.service",
    "usr/local/sbin/lab-cgroups",
)
"""The files of a base for a machine with cgroup v1; without these files the base fits a machine with cgroup v2."""
_SSHD = "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\n"


def path(release: str, version: int = 0) -> Path:
    """Directory of the base of `release`, made or not yet made; its name changes with the contents.

    Args:
        release: release of the distribution.
        version: version of cgroups of the machine that uses the base, 1 or 2; this machine's by default.
    """
    parts = (_PACKAGES, *_MASKED, _REMOUNT, _REMOUNT_UNIT, _SSHD, str(version or machine.cgroup_version()))
    return paths.CACHE / "base" / f"{release}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def ensure(release: str, say: Callable[[str], None]) -> Path:
    """Return the base of `release`; make it if the cache has none (about a minute).

    Raises:
        LabError: debootstrap failed, or the machine's mirror has no such release.
    """
    base = path(release)
    if base.is_dir():
        return base
    say(f"making the file system that every host starts from ({release}, once; one to three minutes)")
    partial = base.with_name(f"{base.name}.partial")
    abandon()  # a killed run may have left processes and a partial base here
    partial.parent.mkdir(parents=True, exist_ok=True)
    _debootstrap(release, partial)
    _furnish(release, partial)
    partial.rename(base)
    _forget_older(release, base)
    cgroups.remove(_CGROUP)
    return base


def abandon() -> None:
    """Clean up after a run that was killed while making a base. The caller holds the cache's lock."""
    cgroups.kill(_CGROUP)
    cgroups.remove(_CGROUP)
    for partial in (paths.CACHE / "base").glob("*.partial"):
        discard(partial)


def _forget_older(release: str, current: Path) -> None:
    mounted = Path("/proc/self/mounts").read_text()
    for old in current.parent.glob(f"{release}*"):
        if old != current and f"{old}," not in mounted and f"{old}:" not in mounted:
            discard(old)


def discard(tree: Path) -> None:
    """Delete a directory tree in which a killed run may have left mounted file systems."""
    for mount in reversed(mounts_below(tree)):
        run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(tree, ignore_errors=True)


def mounts_below(tree: Path) -> list[str]:
    """Mount points at or below `tree`, outermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted(point for point in points if Path(point).is_relative_to(tree))


def _debootstrap(release: str, target: Path) -> None:
    main = machine.apt_sources()[0]
    words = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(target), main.uri]
    try:
        # in a cgroup, so that `abandon` finds debootstrap after we were killed
        run(joining(cgroups.make(_CGROUP, "base"), words), timeout=1200)
    except LabError as error:
        log = target / "debootstrap/debootstrap.log"
        log_end = log.read_text()[-1500:] if log.exists() else ""
        raise LabError(
            f"debootstrap could not make a base of {release}: {error.message}\n{log_end}",
            "where a key is missing, upgrade debian-archive-keyring; look at the mirror in the apt sources",
        ) from error


def _furnish(release: str, base: Path) -> None:
    _write(base, "etc/apt/sources.list", _sources(release))
    _write(base, "etc/dpkg/dpkg.cfg.d/lab", "force-unsafe-io\npath-exclude=/usr/share/man/*\n")
    _write(base, "etc/apt/apt.conf.d/90lab", 'Acquire::Languages "none";\n')
    _write(base, "etc/ssh/sshd_config.d/lab.conf", _SSHD)
    _write(base, "etc/sudoers.d/ops", "ops ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    _write(base, "etc/machine-id", "")
    if machine.cgroup_version() == 1:
        _write(base, "etc/systemd/system/lab-cgroups.service", _REMOUNT_UNIT)
        _write(base, "usr/local/sbin/lab-cgroups", _REMOUNT, 0o755)
        _chroot(base, "systemctl", "enable", "lab-cgroups.service")
    for unit in _MASKED:
        (base / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (base / "etc/systemd/system" / unit).symlink_to("/dev/null")
    _chroot(base, "useradd", "--create-home", "--shell", "/bin/bash", "ops")
    for key in (base / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    shutil.copy("/etc/resolv.conf", base / "etc/resolv.conf")
    with _api_mounts(base):
        _chroot(base, "apt-get", "update")
    for package in (base / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


def _sources(release: str) -> str:
    sources = dict.fromkeys((source.uri, release + source.suffix) for source in machine.apt_sources())
    components = {key: [] for key in sources}  # type: dict[tuple[str, str], list[str]]
    for source in machine.apt_sources():
        components[source.uri, release + source.suffix].append(source.component)
    return "".join(f"deb {uri} {suite} {' '.join(names)}\n" for (uri, suite), names in components.items())


def _write(base: Path, path: str, text: str, mode: int = 0o644) -> None:
    target = base / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.write_text(text)
    target.chmod(mode)


def _chroot(base: Path, *words: str) -> None:
    run(["chroot", base, *words], env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, timeout=600)


@contextmanager
def _api_mounts(base: Path) -> Iterator[None]:
    run(["mount", "-t", "proc", "proc", base / "proc"])
    try:
        yield
    finally:
        run(["umount", base / "proc"])
