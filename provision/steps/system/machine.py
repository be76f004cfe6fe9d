"""The machine below a host's programs: kernel, processors, memory, and local file systems.

Sources: uname(1), proc(5), df(1). Only local file systems are read: df(1) would wait for a dead file server.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provision.command import Answer, Run, Script, look

TITLE = "machine"
MOST = 200  # file systems
KIB = 1024

_SCRIPT = f"""
echo '# kernel'; uname -r
echo '# processors'; getconf _NPROCESSORS_ONLN
echo '# memory'; grep -E '^(MemTotal|MemAvailable):' /proc/meminfo
echo '# boot'; cut -d. -f1 /proc/uptime
echo '# disks'; timeout 10 df -lPTk 2>/dev/null | head -n {MOST}
echo '# toolkit'; dpkg-query -W -f='${{db:Status-Abbrev}} ${{Version}}\\n' nvidia-container-toolkit 2>/dev/null
timeout 10 nvidia-ctk --version 2>/dev/null </dev/null | head -n 1
echo '# end'
"""
_IN_MEMORY = frozenset({"tmpfs", "devtmpfs", "ramfs", "efivarfs", "squashfs", "overlay", "fuse.snapfuse", "iso9660"})


@dataclass(frozen=True)
class FileSystem:
    """A local file system.

    Args:
        mount: the place where the file system is mounted.
        kind: such as `ext4`.
        size: bytes.
        free: bytes for programs without special rights.
    """

    mount: str
    kind: str
    size: int
    free: int


@dataclass(frozen=True)
class Machine:
    """A machine. An empty text and 0 stand for an unknown value.

    Args:
        kernel: release of the running kernel.
        processors: number of processors in use.
        memory: bytes.
        memory_available: bytes for new programs without swapping, the page cache among them.
        up_seconds: seconds since the boot.
        disks: the local file systems that keep files over a boot, and the root, by their places.
        toolkit: version of the NVIDIA Container Toolkit; empty where it is not installed.
    """

    kernel: str = ""
    processors: int = 0
    memory: int = 0
    memory_available: int = 0
    up_seconds: int = 0
    disks: tuple[FileSystem, ...] = ()
    toolkit: str = ""


def command() -> Run:
    """Return the read-only command whose answer `read` understands."""
    return look(Script("host/machine", _SCRIPT), title=TITLE, timeout=40, slow=True)


def read(answer: Answer) -> Machine:
    """Parse the answer to `command`. Each value may be unknown.

    Args:
        answer: the answer.
    """
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in answer.text.splitlines():
        if line.startswith("# "):
            current = sections.setdefault(line[2:], [])
        else:
            current.append(line)
    memory = {line.partition(":")[0]: _count(line.partition(":")[2]) * KIB for line in sections.get("memory", ())}
    return Machine(
        kernel=_first(sections, "kernel")[:100],
        processors=_count(_first(sections, "processors")),
        memory=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
        up_seconds=_count(_first(sections, "boot")),
        disks=_disks(sections.get("disks", ())),
        toolkit=_toolkit(sections.get("toolkit", ())),
    )


def _first(sections: Mapping[str, list[str]], name: str) -> str:
    return next(iter(sections.get(name, ())), "").strip()


def _count(text: str) -> int:
    match = re.match(r"\s*([0-9]{1,15})\b", text)
    return int(match[1]) if match else 0


_DISK = re.compile(r"\S.{0,300}?\s+(\S{1,40})\s+([0-9]{1,15})\s+[0-9]{1,15}\s+([0-9]{1,15})\s+[0-9]{1,3}%\s(/.{0,400})")


def _disks(lines: Iterable[str]) -> tuple[FileSystem, ...]:
    rows = (match.groups() for line in lines if (match := _DISK.fullmatch(line)))
    disks = (FileSystem(mount, kind, int(size) * KIB, int(free) * KIB) for kind, size, free, mount in rows)
    kept = (disk for disk in disks if disk.mount == "/" or disk.kind not in _IN_MEMORY)
    return tuple(sorted(kept, key=lambda disk: disk.mount))


_PACKAGE = re.compile(r"[a-z]i ? ([0-9A-Za-z.+:~-]{1,60})")
_PROGRAM = re.compile(r"NVIDIA Container Toolkit CLI version ([0-9A-Za-z.+~-]{1,60})")


def _toolkit(lines: Iterable[str]) -> str:
    """Return the version by the package, or by the program where no package of Debian has the program."""
    matches = [_PACKAGE.match(line) or _PROGRAM.match(line) for line in lines]
    return next((match[1] for match in matches if match), "")
