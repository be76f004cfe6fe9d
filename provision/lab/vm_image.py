"""Disk images for virtual machines: the base of a release with the distribution's own kernel, made once.

The image has what a server of the distribution has beside the base of a container: a kernel, udev and AppArmor's
parser, and QEMU's guest agent besides. A machine starts with an overlay on the image, so that no machine writes to
the image.
"""

import hashlib
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provision.lab import base, cgroups, paths
from provision.lab.locks import locked
from provision.lab.shell import LabError, joining, run

_CGROUP = "_vm"  # a lab's name begins with a letter, so no lab can have this name
_DISK_GIB = 16  # the size that a machine sees; the file on this machine has holes
_NEEDED_GIB = 4  # what making an image takes at most: the packages, the tree and the image
_PACKAGES = ("apparmor", "busybox", "initramfs-tools", "kmod", "qemu-guest-agent", "udev")
# Units that the base masks because they cannot work in a container.
_UNMASKED = ("systemd-modules-load.service", "systemd-networkd-wait-online.service")
# A login on the serial console, which nobody uses.
_MASKED = ("serial-getty@.service",)
# The files of one machine come as a tar archive on a second disk. The initramfs unpacks the archive before systemd
# starts, so that systemd finds the machine's id and network, and this machine never mounts a guest's root.
_FURNISH = """\
#!/bin/sh
case "$1" in prereqs) exit 0 ;; esac
if [ -b /dev/vdb ]; then
    tar -x -f /dev/vdb -C "$rootmnt" || echo "lab: could not unpack the files of this machine"
fi
"""
_FILES = {
    "etc/initramfs-tools/initramfs.conf": "MODULES=list\nBUSYBOX=y\nCOMPRESS=gzip\nDEVICE=\nNFSROOT=auto\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 0\n",
    "etc/systemd/network/10-lab.network": "[Match]\nName=eth0\n\n[Network]\nDHCP=yes\nLinkLocalAddressing=no\n",
}


@dataclass(frozen=True)
class Architecture:
    """The words of QEMU and of Debian for one kind of machine.

    Args:
        kernel: Debian's package with the kernel for virtual machines.
        emulator: QEMU's program.
        package: Debian's package with the program.
        machine: QEMU's word for the board.
        console: the kernel's name for the first serial port.
    """

    kernel: str
    emulator: str
    package: str
    machine: str
    console: str


_ARCHITECTURES = {
    "x86_64": Architecture("linux-image-cloud-amd64", "qemu-system-x86_64", "qemu-system-x86", "q35", "ttyS0"),
    "aarch64": Architecture("linux-image-cloud-arm64", "qemu-system-aarch64", "qemu-system-arm", "virt", "ttyAMA0"),
}


@dataclass(frozen=True)
class Image:
    """A bootable image.

    Args:
        folder: directory with `disk.raw` (ext4, without partitions), `kernel` and `initrd`.
        release: release of the distribution.
    """

    folder: Path
    release: str

    @property
    def disk(self) -> Path:
        """The root file system; machines use overlays on this file and never write to the file."""
        return self.folder / "disk.raw"

    @property
    def kernel(self) -> Path:
        """The kernel, which QEMU loads without a boot loader."""
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        """The initramfs."""
        return self.folder / "initrd"


def architecture(name: str = "") -> Architecture:
    """The words for this machine's architecture.

    Args:
        name: the kernel's name for the architecture; this machine's by default.

    Raises:
        LabError: the lab has no virtual machines of this architecture.
    """
    name = name or platform.machine()
    if name not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise LabError(f"the lab has no virtual machines for {name}", f"run --vm on {known}, or leave out --vm")
    return _ARCHITECTURES[name]


def path(release: str) -> Path:
    """Directory of the image of `release`, made or not yet made; its name changes with the contents."""
    parts = (
        base.path(release).name,
        _PACKAGES,
        _UNMASKED,
        _MASKED,
        _FURNISH,
        _FILES,
        _DISK_GIB,
        architecture().kernel,
        "no profiles",
    )
    return paths.CACHE / "vm" / f"{release}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def ensure(release: str, say: Callable[[str], None]) -> Image:
    """Return the image of `release`; make the image (and the base) if the cache has none (two to five minutes).

    Args:
        release: `bookworm` or `trixie`.
        say: called with a line before the long step.

    Raises:
        LabError: the mirror has no kernel for virtual machines, or the disk is full.
    """
    image = Image(path(release), release)
    if image.folder.is_dir():
        return image
    with locked("_cache"):
        tree = base.ensure(release, say)
    with locked("_vm"):
        if not image.folder.is_dir():  # another run may have made the image while we waited
            say(f"making the disk image that every virtual machine starts from ({release}, once; two to five minutes)")
            require_room(paths.CACHE, _NEEDED_GIB)
            _make(image, tree)
    return image


def _make(image: Image, tree: Path) -> None:
    partial = image.folder.with_name(f"{image.folder.name}.partial")
    abandon()
    (partial / "image").mkdir(parents=True)
    with _overlay(tree, partial) as root:
        _install(root, image.release)
        _furnish(root)
        _export(root, partial / "image")
    (partial / "image").rename(image.folder)
    base.discard(partial)
    cgroups.remove(_CGROUP)
    for old in image.folder.parent.glob(f"{image.release}-*"):
        if old != image.folder and not _used(old):
            base.discard(old)


def abandon() -> None:
    """Clean up after a run that was killed while making an image. The caller holds the lock `_vm`."""
    cgroups.kill(_CGROUP)
    cgroups.remove(_CGROUP)
    for partial in (paths.CACHE / "vm").glob("*.partial"):
        base.discard(partial)


def require_room(
    folder: Path, gib: float, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> None:
    """Make sure that the file system of `folder` has `gib` GiB free.

    Args:
        folder: a directory of the file system.
        gib: needed space in GiB.
        free: returns the free bytes of a directory's file system.

    Raises:
        LabError: the file system has less.
    """
    left = free(folder) / 2**30
    if left < gib:
        raise LabError(
            f"virtual machines need {gib:g} GiB in {folder}, and its file system has {left:.1f} GiB free",
            "make room there, or ask for fewer hosts",
        )


def _used(folder: Path) -> bool:
    """Whether an overlay of any lab is based on an image."""
    name = str(folder / "disk.raw")
    return any(name in file.read_text() for file in paths.STATE.glob("*/hosts/*/backing"))


@contextmanager
def _overlay(tree: Path, partial: Path) -> Iterator[Path]:
    """Mount an overlay on the base, with /proc, for a chroot; unmount both whatever happens."""
    root = partial / "root"
    for name in ("root", "upper", "work"):
        (partial / name).mkdir(parents=True)
    options = f"lowerdir={tree},upperdir={partial / 'upper'},workdir={partial / 'work'}"
    run(["mount", "-t", "overlay", "overlay", root, "-o", options])
    try:
        run(["mount", "-t", "proc", "proc", root / "proc"])
        yield root
    finally:
        for mount in reversed(base.mounts_below(root)):
            run(["umount", mount], check=False)


def _install(root: Path, release: str) -> None:
    for name, text in _FILES.items():
        _put(root, name, text)
    _put(root, "etc/initramfs-tools/scripts/init-bottom/lab-furnish", _FURNISH, 0o755)
    kernel = architecture().kernel
    words = ["apt-get", "install", "--yes", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    try:
        _chroot(root, [*words, *_PACKAGES, kernel])
    except LabError as error:
        if f"Unable to locate package {kernel}" in error.message:
            raise LabError(
                f"this machine's package mirror has no {kernel} for {release}: virtual machines have no kernel",
                "look at the mirror in the apt sources, or leave out --vm",
            ) from error
        raise


def _furnish(root: Path) -> None:
    for name in base.VERSION_1_FILES:
        (root / name).unlink(missing_ok=True)
    for unit in _UNMASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    # Profiles for a hundred programs that are not installed: emulated, they take a minute of every boot. Docker brings
    # the profile of its containers itself.
    for profile in (root / "etc/apparmor.d").iterdir():
        if profile.is_file():
            profile.unlink()
    _chroot(root, ["systemctl", "enable", "systemd-networkd.service"])
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


def _export(root: Path, target: Path) -> None:
    run(["umount", root / "proc"])
    shutil.copy(_newest(root, "vmlinuz-*"), target / "kernel")
    shutil.copy(_newest(root, "initrd.img-*"), target / "initrd")
    with (target / "disk.raw").open("wb") as disk:
        disk.truncate(_DISK_GIB * 2**30)
    words = ["mkfs.ext4", "-q", "-L", "lab-root", "-E", "lazy_itable_init=1", "-d"]
    run([*words, root, target / "disk.raw"], timeout=1200)


def _newest(root: Path, pattern: str) -> Path:
    files = sorted((root / "boot").glob(pattern))
    if not files:
        raise LabError(f"the kernel's package left no {pattern} in /boot", "remove the cached image and try again")
    return files[-1]


def _chroot(root: Path, words: Sequence[str]) -> None:
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"}
    chroot: list[str | Path] = ["chroot", root, *words]
    run(joining(cgroups.make(_CGROUP, "vm"), chroot), env=env, timeout=1800)


def _put(root: Path, name: str, text: str, mode: int = 0o644) -> None:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)
