"""Control groups of the lab: a cgroup per host (and for the site) in every hierarchy. `down` finds every process by its
cgroup, whoever started the process and whatever was killed before."""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from provision.lab import devices
from provision.lab.emulation import machine_factor
from provision.lab.machine import cgroup_version
from provision.lab.shell import LabError

_TOP = "provision-lab"
CONTROLLERS = Path("/run/provision-lab.controllers")
"""The controllers that labs switched on in the machine's own cgroup (v2), until the last lab is gone or a boot."""


def make(lab: str, member: str, confine: Callable[[Path], None] = devices.confine) -> list[Path]:
    """Make the cgroups of one host (or of the site) and return their directories.

    Args:
        lab: name of the lab.
        member: name of the host, or `site`.
        confine: gives the cgroup of the lab a device list.

    Raises:
        LabError: the kernel takes no device list for the lab.
    """
    with _alone():
        hierarchies = _hierarchies()
        guard = _guard(hierarchies)
        return [_make(hierarchy, lab, member, confine if hierarchy == guard else None) for hierarchy in hierarchies]


def _make(hierarchy: Path, lab: str, member: str, confine: Callable[[Path], None] | None) -> Path:
    ours = hierarchy / _TOP / lab
    _add(ours.parent)
    _add(ours)
    if confine:
        confine(ours)  # above the cgroup of the host, where root on the host cannot undo the list
    _add(ours / member)
    return ours / member


def _add(path: Path) -> None:
    if not path.exists():
        path.mkdir()
        _inherit_cpuset(path)
        _delegate(path.parent)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other labs from making or removing cgroups: v1 takes no device list for a cgroup with cgroups below,
    and a cgroup made below a half-written list can never open /dev/null."""
    directory = os.open("/sys/fs/cgroup", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def processes(lab: str, member: str = "") -> list[int]:
    """Process ids of a lab, or of one member, lowest first."""
    pids: set[int] = set()
    for hierarchy in _hierarchies():
        top = hierarchy / _TOP / lab / member
        for directory, _, _ in os.walk(top):
            with suppress(OSError):
                pids.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return sorted(pids)


def kill(lab: str, member: str = "", *, timeout: float = 20) -> None:
    """Kill every process of a lab, or of one member, and wait until none is left.

    Args:
        lab: name of the lab.
        member: name of the member; empty for all.
        timeout: seconds, on a machine that is not emulated.

    Raises:
        LabError: some processes are still alive after that time.
    """
    deadline = time.monotonic() + timeout * machine_factor()
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
    """Let paused containers go on: a frozen process does not die."""
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(hierarchy / _TOP / lab / member):
            for name, text in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if (Path(directory) / name).exists():
                    with suppress(OSError):
                        (Path(directory) / name).write_text(text)


def remove(lab: str, member: str = "") -> None:
    """Remove the (empty) cgroups of a lab or of one member; with the last lab the top cgroup and its controllers go."""
    with _alone():
        for hierarchy in _hierarchies():
            for directory, _, _ in os.walk(hierarchy / _TOP / lab / member, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()
            _remove_top(hierarchy)


def remove_unused(group: str) -> None:
    """Remove the cgroup of a group without members; with the last group the top cgroup and its controllers go."""
    with _alone():
        for hierarchy in _hierarchies():
            with suppress(OSError):
                (hierarchy / _TOP / group).rmdir()
            _remove_top(hierarchy)


def _remove_top(hierarchy: Path) -> None:
    """Remove the top cgroup unless a lab is left, and switch off what the lab switched on."""
    with suppress(OSError):
        (hierarchy / _TOP).rmdir()
    if not (hierarchy / _TOP).exists():
        switch_off(hierarchy)


def _hierarchies() -> list[Path]:
    """Every hierarchy, also a cgroup2 mount beside those of v1: systemd-nspawn looks up a host's place there, and
    without that mount all hosts would share the cgroups of their units."""
    if cgroup_version() == 2:
        return [Path("/sys/fs/cgroup")]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kinds = ("cgroup", "cgroup2")
    return [Path(mount[1]) for mount in mounts if mount[2] in kinds and mount[1].startswith("/sys/fs/cgroup/")]


def _guard(hierarchies: list[Path]) -> Path:
    """The hierarchy that keeps hosts from the machine's devices: v1's `devices`, else cgroup v2.

    Raises:
        LabError: the machine has no such hierarchy.
    """
    version_2 = (path for path in hierarchies if (path / "cgroup.controllers").exists())
    hierarchy = next(chain(filter(devices.has_list, hierarchies), version_2), None)
    if hierarchy is None:
        raise LabError(
            "this machine has no cgroup hierarchy with a device list: root on a host could read its disk",
            "mount cgroup v2, or the `devices` hierarchy of cgroup v1, below /sys/fs/cgroup",
        )
    return hierarchy


def _delegate(path: Path) -> None:
    """On cgroup v2, let the groups below have every controller."""
    if cgroup_version() == 2 and (path / "cgroup.controllers").exists():
        added = switch_on(path)
        if added and path in _hierarchies():
            before = CONTROLLERS.read_text().split() if CONTROLLERS.exists() else []
            CONTROLLERS.write_text(" ".join([*before, *added]))


def switch_on(group: Path) -> list[str]:
    """Switch on every controller for the cgroups below a cgroup of v2, and return the controllers that were off."""
    control, added = group / "cgroup.subtree_control", []
    was = control.read_text().split()
    for name in (group / "cgroup.controllers").read_text().split():
        if name not in was:
            with suppress(OSError):
                control.write_text(f"+{name}")
                added.append(name)
    return added


def switch_off(hierarchy: Path, record: Path = CONTROLLERS) -> None:
    """Switch off the controllers that labs switched on. The kernel keeps a controller that others use by now.

    Args:
        hierarchy: the mount of cgroup v2.
        record: the file with the names of these controllers.
    """
    if not (hierarchy / "cgroup.controllers").exists() or not record.exists():
        return
    for name in record.read_text().split():
        with suppress(OSError):
            (hierarchy / "cgroup.subtree_control").write_text(f"-{name}")
    record.unlink()


def _inherit_cpuset(path: Path) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        mine, parents = path / name, path.parent / name
        if cgroup_version() == 1 and mine.exists() and not mine.read_text().strip():
            mine.write_text(parents.read_text())
