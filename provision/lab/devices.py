"""The device list of a lab: which devices the processes of its hosts may open.

Root on a host can make a node for any device of the machine, its disk too, so the kernel must refuse to open the node.
On cgroup v1 the kernel keeps a list per cgroup, on cgroup v2 it asks a BPF program. One table gives both. Hosts may
make any node, because runc makes nodes for its containers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.lab import bpf
from provision.lab.bpf import Instruction
from provision.lab.shell import LabError


@dataclass(frozen=True)
class Device:
    """A character device that hosts may open.

    Args:
        name: its path below /dev.
        major: its major number.
        minor: its minor number; None for every minor.
    """

    name: str
    major: int
    minor: int | None


ALLOWED = (
    Device("null", 1, 3),
    Device("zero", 1, 5),
    Device("full", 1, 7),
    Device("random", 1, 8),
    Device("urandom", 1, 9),
    Device("tty", 5, 0),
    Device("console", 5, 1),
    Device("ptmx", 5, 2),
    Device("pts", 136, None),
    Device("net/tun", 10, 200),
    Device("fuse", 10, 229),
)
_LIST = "devices.list"

# The kernel gives a program the address of three words. The first holds the kind of the device (low half) and
# the action that the process is about to take (high half).
_CHARACTER, _MAKE_NODE = 2, 1
_RESULT, _CONTEXT, _KIND, _ACTION, _MAJOR, _MINOR = range(6)  # registers


def confine(
    group: Path,
    attached: Callable[[Path], Sequence[int]] = bpf.attached,
    attach: Callable[[Path, Sequence[Instruction]], None] = bpf.attach,
) -> None:
    """Let the processes of a cgroup, and of the cgroups below, make any node but open only the allowed devices.

    A second call changes nothing. No host may reach `group` itself: the host's root could take the list away.

    Args:
        group: directory of a cgroup of v1's device hierarchy (still without cgroups below), or of cgroup v2.
        attached: returns the programs of a cgroup of v2.
        attach: attaches a program to a cgroup of v2.

    Raises:
        LabError: the kernel takes no list for this cgroup.
    """
    try:
        if has_list(group):
            _write_list(group)
        elif not attached(group):
            attach(group, program())
    except OSError as error:
        raise LabError(
            f"the kernel takes no device list for {group} ({error.strerror}), and without a list root on a host "
            "could read the disk of this machine",
            "on cgroup v2 the lab needs Linux 4.15 or newer with CONFIG_CGROUP_BPF, and in a container the right to "
            "call bpf(2) (CAP_SYS_ADMIN, or CAP_BPF with CAP_NET_ADMIN); otherwise run the lab in a virtual machine",
        ) from error


def has_list(group: Path) -> bool:
    """Whether a cgroup is of v1's device hierarchy."""
    return (group / _LIST).exists()


def rules() -> list[str]:
    """The device list in cgroup v1's words. A rule with `m` alone lets a process make a node, not open it."""
    numbers = [f"{device.major}:{'*' if device.minor is None else device.minor}" for device in ALLOWED]
    return ["c *:* m", "b *:* m", *(f"c {number} rwm" for number in numbers)]


def program() -> list[Instruction]:
    """The device list as a program for cgroup v2, with the same decisions as the rules for v1."""
    return [
        Instruction(bpf.LOAD_WORD, _KIND, _CONTEXT, 0),
        Instruction(bpf.LOAD_WORD, _MAJOR, _CONTEXT, 4),
        Instruction(bpf.LOAD_WORD, _MINOR, _CONTEXT, 8),
        Instruction(bpf.MOVE, _ACTION, _KIND),
        Instruction(bpf.SHIFT_RIGHT, _ACTION, value=16),
        Instruction(bpf.AND, _KIND, value=0xFFFF),
        *_allow_where({_ACTION: _MAKE_NODE}),
        *(instruction for device in ALLOWED for instruction in _allow_where(_registers(device))),
        *_answer(0),
    ]


def _registers(device: Device) -> dict[int, int]:
    minor = {} if device.minor is None else {_MINOR: device.minor}
    return {_KIND: _CHARACTER, _MAJOR: device.major, **minor}


def _allow_where(values: dict[int, int]) -> list[Instruction]:
    """Allow where every register has its value; otherwise go on behind these instructions."""
    allow = _answer(1)
    after = range(len(values) - 1, -1, -1)  # how many comparisons follow each comparison
    comparisons = [
        Instruction(bpf.JUMP_UNLESS_EQUAL, register, offset=left + len(allow), value=value)
        for left, (register, value) in zip(after, values.items(), strict=True)
    ]
    return [*comparisons, *allow]


def _answer(result: int) -> list[Instruction]:
    return [Instruction(bpf.SET, _RESULT, value=result), Instruction(bpf.EXIT)]


def _write_list(group: Path) -> None:
    allowed = (group / _LIST).read_text().splitlines()
    if "a *:* rwm" in allowed:
        (group / "devices.deny").write_text("a")
    for rule in rules():
        if rule not in allowed:  # all rules, or the rules that a killed run did not come to
            (group / "devices.allow").write_text(rule)
