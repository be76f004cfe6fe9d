"""BPF programs that decide about devices: instructions, and the system calls that attach a program to a cgroup."""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Numbers from the kernel's linux/bpf.h and linux/bpf_common.h.
LOAD_WORD, MOVE, SET = 0x61, 0xBF, 0xB7
AND, SHIFT_RIGHT = 0x57, 0x77
JUMP_UNLESS_EQUAL, EXIT = 0x55, 0x95

_LOAD, _ATTACH, _QUERY = 5, 8, 16
_CGROUP_DEVICE_PROGRAM, _CGROUP_DEVICE_HOOK = 15, 6
# The kernel also asks the programs of cgroups below (systemd and runc attach their own); any program can refuse.
_ALLOW_MULTI = 2
_MOST_PROGRAMS = 64  # the kernel attaches no more to one cgroup
_NAME = b"provision_lab"
_ATTRIBUTES = 128  # bytes of a call's attributes: more than our calls use; the kernel may write to all of them
_LICENSE = b"Apache-2.0"
_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}


class Instruction(NamedTuple):
    """One instruction of a program.

    Args:
        code: the operation, by a constant from above.
        target: the register to change or compare.
        source: the register to read.
        offset: bytes from the address in `source`, or instructions to skip.
        value: the constant to use.
    """

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0

    def encoded(self) -> bytes:
        """The eight bytes of the instruction, on a little-endian machine."""
        return struct.pack("<BBhi", self.code, self.source << 4 | self.target, self.offset, self.value)


def attach(group: Path, program: Sequence[Instruction]) -> None:
    """Have the kernel ask a program before a process in a cgroup, or in a cgroup below, opens or makes a device.

    Args:
        group: directory of the cgroup, on cgroup v2.
        program: its instructions; the program returns 1 to allow, 0 to refuse.

    Raises:
        OSError: the kernel refuses the program, or refuses programs at this cgroup.
    """
    with _descriptor(group) as directory:
        loaded = _load(program)
        try:
            _bpf(_ATTACH, struct.pack("<4I", directory, loaded, _CGROUP_DEVICE_HOOK, _ALLOW_MULTI))
        finally:
            os.close(loaded)  # the cgroup holds the program now; removing the cgroup frees it


def attached(group: Path) -> list[int]:
    """Return the kernel's numbers of a cgroup's device programs, without those of the cgroups above.

    Args:
        group: directory of the cgroup, on cgroup v2.

    Raises:
        OSError: the kernel does not list the programs.
    """
    numbers = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    with _descriptor(group) as directory:
        where = ctypes.addressof(numbers)
        answer = _bpf(
            _QUERY, struct.pack("<4IQI", directory, _CGROUP_DEVICE_HOOK, 0, 0, where, _MOST_PROGRAMS)
        ).attributes
    (count,) = struct.unpack_from("<I", answer, struct.calcsize("<4IQ"))
    return list(numbers[:count])


@contextmanager
def _descriptor(group: Path) -> Iterator[int]:
    directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)


def _load(program: Sequence[Instruction]) -> int:
    """Load a program into the kernel and return its descriptor."""
    code = b"".join(instruction.encoded() for instruction in program)
    instructions, license_ = ctypes.create_string_buffer(code), ctypes.create_string_buffer(_LICENSE)
    where = ctypes.addressof(instructions), ctypes.addressof(license_)
    no_log = bytes(struct.calcsize("<2IQ2I"))
    head = struct.pack("<2I2Q", _CGROUP_DEVICE_PROGRAM, len(program), *where)
    return _bpf(_LOAD, head + no_log + _NAME).result


class _Answer(NamedTuple):
    result: int
    attributes: bytes


def _bpf(command: int, attributes: bytes) -> _Answer:
    """Call bpf(2), for which the C library has no function."""
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {platform.machine()} is not known here")
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    result = ctypes.CDLL(None, use_errno=True).syscall(number, command, buffer, _ATTRIBUTES)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf(2): {os.strerror(ctypes.get_errno())}")
    return _Answer(result, buffer.raw)
