"""The lab's device list: cgroup v1 and v2 decide alike, and a machine without device lists is refused."""

import errno
import itertools
import struct

import pytest

from provision.lab import bpf, cgroups, devices
from provision.lab.shell import LabError

BLOCK, CHARACTER = "b", "c"
MAKE_NODE, READ, WRITE = 1, 2, 4
MACHINES_OWN = [(BLOCK, 8, 0), (BLOCK, 254, 0), (BLOCK, 1, 3), (CHARACTER, 1, 1), (CHARACTER, 1, 11)]
NUMBERS = sorted({device.major for device in devices.ALLOWED}), [0, 1, 3, 5, 7, 8, 9, 11, 200, 229, 2**20 - 1]


def decision(program, kind, action, major, minor):
    """Return the decision of the kernel: the value of the first register at the end of a program."""
    context = struct.pack("<3I", action << 16 | {BLOCK: 1, CHARACTER: 2}[kind], major, minor)
    registers, at = {}, 0
    while program[at].code != bpf.EXIT:
        code, target, source, offset, value = program[at]
        at += 1
        if code == bpf.LOAD_WORD:
            assert source == 1, "only the first register has an address"
            (registers[target],) = struct.unpack_from("<I", context, offset)
        elif code == bpf.MOVE:
            registers[target] = registers[source]
        elif code == bpf.SET:
            registers[target] = value
        elif code == bpf.AND:
            registers[target] &= value
        elif code == bpf.SHIFT_RIGHT:
            registers[target] >>= value
        elif code == bpf.JUMP_UNLESS_EQUAL:
            at += offset if registers[target] != value else 0
        else:
            pytest.fail(f"instruction {code:#x} is not known here")
    return registers[0]


def listed(rules, kind, action, major, minor):
    """Return the decision of cgroup v1 by the rules."""
    wanted = {letter for letter, bit in (("m", MAKE_NODE), ("r", READ), ("w", WRITE)) if action & bit}
    for rule in rules:
        of_kind, numbers, letters = rule.split()
        fits = zip(numbers.split(":"), (major, minor), strict=True)
        if of_kind == kind and all(number in ("*", str(own)) for number, own in fits) and wanted <= set(letters):
            return 1
    return 0


@pytest.mark.parametrize("kind", [BLOCK, CHARACTER])
@pytest.mark.parametrize("action", [MAKE_NODE, READ, WRITE, READ | WRITE])
def test_the_program_of_v2_decides_as_the_rules_of_v1(kind, action):
    program, rules = devices.program(), devices.rules()
    for major, minor in itertools.product([0, 8, 254, *NUMBERS[0]], NUMBERS[1]):
        expected = listed(rules, kind, action, major, minor)
        assert decision(program, kind, action, major, minor) == expected, (major, minor)


@pytest.mark.parametrize("action", [READ, WRITE, READ | WRITE])
def test_devices_of_the_machine_are_refused_and_devices_of_a_host_allowed(action):
    program = devices.program()
    assert [decision(program, kind, action, *numbers) for kind, *numbers in MACHINES_OWN] == [0] * len(MACHINES_OWN)
    for device in devices.ALLOWED:
        minor = 7 if device.minor is None else device.minor
        assert decision(program, CHARACTER, action, device.major, minor) == 1, device.name


def test_any_device_node_may_be_made():
    program = devices.program()
    assert [decision(program, kind, MAKE_NODE, *numbers) for kind, *numbers in MACHINES_OWN] == [1] * len(MACHINES_OWN)


def test_an_instruction_is_encoded_in_the_layout_of_the_kernel():
    instruction = bpf.Instruction(bpf.LOAD_WORD, target=4, source=1, offset=8, value=-2)
    assert instruction.encoded() == bytes([0x61, 0x14, 8, 0, 0xFE, 0xFF, 0xFF, 0xFF])


def test_a_half_written_list_of_v1_is_completed(tmp_path):
    (tmp_path / "devices.list").write_text("c *:* m\nb *:* m\n")
    written = []

    class Group(type(tmp_path)):
        def write_text(self, text):
            written.append((self.name, text))

    devices.confine(Group(tmp_path))
    assert written == [("devices.allow", rule) for rule in devices.rules()[2:]]


def test_a_program_is_attached_once(tmp_path):
    attached = []
    for _ in range(2):
        devices.confine(tmp_path, lambda group: attached, lambda group, program: attached.append(program))
    assert attached == [devices.program()]


def refuse(*_):
    raise PermissionError(errno.EPERM, "bpf(2): Operation not permitted")


def test_a_kernel_that_refuses_the_program_is_reported_with_advice(tmp_path):
    with pytest.raises(LabError, match=r"Operation not permitted.*read the disk of this machine") as caught:
        devices.confine(tmp_path, refuse, refuse)
    assert "CONFIG_CGROUP_BPF" in caught.value.hint
    assert "CAP_BPF" in caught.value.hint


def test_an_architecture_without_a_known_system_call_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bpf.platform, "machine", lambda: "riscv64")
    with pytest.raises(LabError, match=r"bpf\(2\) on riscv64"):
        devices.confine(tmp_path)


@pytest.fixture
def hierarchies(tmp_path, monkeypatch):
    """Directories in place of the machine's cgroup hierarchies: the tests decide which files each hierarchy has."""
    paths = [tmp_path / name for name in ("cpu", "devices", "unified")]
    for path in paths:
        path.mkdir()
    monkeypatch.setattr(cgroups, "_hierarchies", lambda: paths)
    monkeypatch.setattr(cgroups, "_alone", lambda: cgroups.suppress())
    monkeypatch.setattr(cgroups, "_delegate", lambda path: None)
    return dict(zip(("cpu", "devices", "unified"), paths, strict=True))


@pytest.mark.parametrize(
    ("files", "guard"),
    [
        ({"devices": "devices.list", "unified": "cgroup.controllers"}, "devices"),
        ({"unified": "cgroup.controllers"}, "unified"),
    ],
)
def test_one_hierarchy_keeps_the_list_above_every_host(hierarchies, files, guard):
    for name, file in files.items():
        (hierarchies[name] / file).touch()
    confined = []
    made = cgroups.make("a", "gpu-01", lambda group: confined.append((group, list(group.iterdir()))))
    assert made == [path / "provision-lab/a/gpu-01" for path in hierarchies.values()]
    assert confined == [(hierarchies[guard] / "provision-lab/a", [])]


def test_a_machine_without_any_device_list_makes_no_cgroup(hierarchies):
    with pytest.raises(LabError, match="no cgroup hierarchy with a device list"):
        cgroups.make("a", "gpu-01")
    assert [list(path.iterdir()) for path in hierarchies.values()] == [[], [], []]
