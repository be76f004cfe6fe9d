"""The files by which a virtual machine differs from its image, as a tar archive that the machine unpacks at a boot."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_OPS = 1000  # the base makes the user `ops` first, and Debian's first user has this number (adduser.conf)


@dataclass(frozen=True)
class GuestFile:
    """A file in a virtual machine.

    Args:
        path: path without leading slash; a path that ends in a slash is a folder.
        text: content.
        mode: permission bits.
        owner: number of the owner and of the group.
    """

    path: str
    text: str
    mode: int = 0o644
    owner: int = 0


def archive(files: Iterable[GuestFile], target: Path) -> None:
    """Write an archive of files, for QEMU as the second disk of a machine. A folder without an entry of its own
    is root's, with mode 0755.

    Args:
        files: the files; a later file replaces an earlier file of the same path.
        target: the archive.
    """
    partial = target.with_name(f"{target.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        for file in {file.path: file for file in files}.values():
            data = file.text.encode()
            info = tarfile.TarInfo(file.path)
            info.size, info.mode, info.uid, info.gid = len(data), file.mode, file.owner, file.owner
            if file.path.endswith("/"):
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(data))
    partial.rename(target)


def identity(name: str, machine_id: str, host_key: Path, login: str) -> list[GuestFile]:
    """The files that every machine has of its own: name, id, host key and authorized keys.

    Args:
        name: host name.
        machine_id: 32 hexadecimal digits.
        host_key: private ed25519 key, with the public key beside it.
        login: public key that may log in as `ops` and as root.
    """
    ssh = "etc/ssh/ssh_host_ed25519_key"
    return [
        GuestFile("etc/hostname", f"{name}\n"),
        GuestFile("etc/machine-id", f"{machine_id}\n", 0o444),
        GuestFile(ssh, host_key.read_text(), 0o600),
        GuestFile(f"{ssh}.pub", host_key.with_name(f"{host_key.name}.pub").read_text()),
        GuestFile("root/.ssh/", "", 0o700),
        GuestFile("home/ops/.ssh/", "", 0o700, _OPS),
        GuestFile("root/.ssh/authorized_keys", f"{login.strip()}\n", 0o600),
        GuestFile("home/ops/.ssh/authorized_keys", f"{login.strip()}\n", 0o600, _OPS),
    ]


def fixed_address(address: str, gateway: str, mac: str) -> GuestFile:
    """systemd-networkd's file for a fixed address, in place of the image's DHCP.

    Args:
        address: IPv4 address; the network is /24.
        gateway: address of the gateway.
        mac: hardware address of the interface.
    """
    lines = ["[Match]", f"MACAddress={mac}", "", "[Network]", f"Address={address}/24", f"Gateway={gateway}"]
    return GuestFile("etc/systemd/network/10-lab.network", "\n".join([*lines, "LinkLocalAddressing=no", ""]))
