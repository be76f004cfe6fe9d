"""Control groups of the lab: one per host (and one for the site) in every hierarchy, which is also how
`down` finds each process, whoever started it and whatever was killed before."""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provision.lab.machine import cgroup_version
from provision.lab.shell import LabError

_TOP = "provision-lab"
# What anything in a lab may open: null, zero, full, random, urandom, tty, console, ptmx, ptys, tun, fuse. Without
# this, root on a host could make a node for the machine's disk and read it. The two lines with `m` alone let it
# make nodes (runc insists), not open them. On cgroup v2 there is no such list.
_DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
    "c 10:229 rwm",
)


def make(lab: str, member: str) -> list[Path]:
    """Make the cgroups of one host (or of the site) and return their directories.

    Args:
        lab: name of the lab.
        member: name of the host, or `site`.
    """
    with _alone():
        return [_make(hierarchy, lab, member) for hierarchy in _hierarchies()]


def _make(hierarchy: Path, lab: str, member: str) -> Path:
    path = hierarchy
    for part in (_TOP, lab, member):
        path = path / part
        if not path.exists():
            path.mkdir()
            _inherit_cpuset(path)
            _delegate(path.parent)
        if part == _TOP:
            _confine(path)
    return path


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other labs from making or removing cgroups: one made below a top that is not confined to the end
    could never open /dev/null."""
    directory = os.open("/sys/fs/cgroup", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def processes(lab: str, member: str = "") -> list[int]:
    """The processes of a lab, or of one member of it, lowest id first."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        top = hierarchy / _TOP / lab / member
        for directory, _, _ in os.walk(top):
            with suppress(OSError):
                found.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return sorted(found)


def kill(lab: str, member: str = "", *, timeout: float = 20) -> None:
    """Kill every process of a lab, or of one member, and wait until none is left.

    Raises:
        LabError: some did not die.
    """
    deadline = time.monotonic() + timeout
    while left := processes(lab, member):
        if time.monotonic() > deadline:
            raise LabError(
                f"processes {left} of lab {lab} do not die", "look at them with ps, then run `lab down` again"
            )
        _thaw(lab, member)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _thaw(lab: str, member: str) -> None:
    """Let paused containers go on: what is frozen does not die."""
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(hierarchy / _TOP / lab / member):
            for name, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if (Path(directory) / name).exists():
                    with suppress(OSError):
                        (Path(directory) / name).write_text(text)


def remove(lab: str, member: str = "") -> None:
    """Remove the (empty) cgroups of a lab or of one member, and the lab's top one when it is the last."""
    with _alone():
        for hierarchy in _hierarchies():
            for directory, _, _ in os.walk(hierarchy / _TOP / lab / member, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()
            with suppress(OSError):
                (hierarchy / _TOP).rmdir()


def _hierarchies() -> list[Path]:
    """Every hierarchy, also a cgroup2 mount beside those of v1: systemd-nspawn looks up a host's place there, and
    without it all hosts would share the cgroups of their units."""
    if cgroup_version() == 2:
        return [Path("/sys/fs/cgroup")]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kinds = ("cgroup", "cgroup2")
    return [Path(mount[1]) for mount in mounts if mount[2] in kinds and mount[1].startswith("/sys/fs/cgroup/")]


def _confine(top: Path) -> None:
    # at the top: a host can write to its own list, and the kernel then only asks what the level above allows
    if not (top / "devices.list").exists():
        return
    allowed = (top / "devices.list").read_text().splitlines()
    if "a *:* rwm" in allowed:
        (top / "devices.deny").write_text("a")
    for rule in _DEVICES:
        if rule not in allowed:  # all of them, or those that a run which was killed here did not come to
            (top / "devices.allow").write_text(rule)


def _delegate(path: Path) -> None:
    """On cgroup v2, let the groups below have every controller. (Not tried: see the package's docstring.)"""
    controllers = path / "cgroup.controllers"
    if cgroup_version() == 2 and controllers.exists():
        for name in controllers.read_text().split():
            with suppress(OSError):
                (path / "cgroup.subtree_control").write_text(f"+{name}")


def _inherit_cpuset(path: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        mine, parents = path / name, path.parent / name
        if cgroup_version() == 1 and mine.exists() and not mine.read_text().strip():
            mine.write_text(parents.read_text())
