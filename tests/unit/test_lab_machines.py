"""Virtual machines of the lab without QEMU: the words of QEMU, the files of a machine, the wait factor, the agent."""

import base64
import json
import socket
import tarfile
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from provision.lab import acceleration, vm_files, vm_image
from provision.lab.shell import LabError
from provision.lab.virtual_machine import Shape, Tap, UserNetwork, VirtualMachine
from provision.lab.vm_agent import Agent
from provision.lab.vm_files import GuestFile

IMAGE = vm_image.Image(Path("/cache/trixie-1"), "trixie")
TAP = Tap("h11", "plab.lab", "02:d5:01:00:00:0b")


def machine(home: Path, network: Tap | UserNetwork = TAP, word: str = "tcg") -> VirtualMachine:
    return VirtualMachine("gpu-01", home, IMAGE, Shape(1536, 2), network, "lab.vm", accelerated=lambda image: word)


def test_qemu_gets_an_overlay_the_files_and_a_cable_into_the_lab() -> None:
    words = machine(Path("/lab/a,b")).words()
    pairs = set(pairwise(words))
    assert ("-kernel", "/cache/trixie-1/kernel") in pairs
    assert ("-drive", "file=/lab/a,,b/disk.qcow2,if=virtio,format=qcow2,cache=unsafe,discard=unmap") in pairs
    assert ("-drive", "file=/lab/a,,b/files.tar,if=virtio,format=raw,readonly=on") in pairs
    assert ("-netdev", "tap,id=net,ifname=h11,script=no,downscript=no") in pairs
    assert ("-device", "virtio-net-pci,netdev=net,romfile=,mac=02:d5:01:00:00:0b") in pairs
    assert ("-m", "1536") in pairs
    assert not any("/cache/trixie-1/disk.raw" in word for word in words)  # the image is never opened for writing


def test_a_user_network_opens_a_port_of_loopback_alone() -> None:
    network = UserNetwork(2222)
    assert "user,id=net,hostfwd=tcp:127.0.0.1:2222-:22" in machine(Path("/m"), network).words()
    assert network.enter() == []
    assert TAP.enter()[:2] == ["nsenter", "--net=/run/netns/plab.lab"]


@pytest.mark.parametrize(("word", "processor", "factor"), [("kvm", "host", 1), ("tcg", "max", 12)])
def test_acceleration_decides_processor_and_waits(word: str, processor: str, factor: int) -> None:
    guest = machine(Path("/m"), word=word)
    words = guest.words()
    assert words[words.index("-accel") + 1] == word
    assert words[words.index("-cpu") + 1] == processor
    assert guest.factor == factor


def test_a_trial_boot_decides_once_a_boot(tmp_path: Path) -> None:
    trials = []

    def trial(image: vm_image.Image) -> bool:
        trials.append(image)
        return len(trials) > 1

    device, record = tmp_path / "kvm", tmp_path / "record"
    assert acceleration.acceleration(IMAGE, trial=trial, device=device, record=record) == "tcg"
    assert trials == []  # no device: there is nothing to try
    device.touch()
    answers = [acceleration.acceleration(IMAGE, trial=trial, device=device, record=record) for _ in range(2)]
    assert (answers, len(trials)) == (["tcg", "tcg"], 1)
    record.write_text(json.dumps({"boot": "an earlier boot", "acceleration": "tcg"}))
    assert acceleration.acceleration(IMAGE, trial=trial, device=device, record=record) == "kvm"


def test_a_person_reads_that_waits_are_longer() -> None:
    assert acceleration.explained("tcg").endswith("every wait is 12 times longer")
    assert "emulated" not in acceleration.explained("kvm")


def test_files_of_a_machine_have_owner_and_mode(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("PRIVATE")
    key.with_name("key.pub").write_text("PUBLIC")
    files = [*vm_files.identity("gpu-01", "0" * 32, key, "ssh-ed25519 AAAA lab"), GuestFile("etc/hostname", "later\n")]
    vm_files.archive(files, tmp_path / "files.tar")
    with tarfile.open(tmp_path / "files.tar") as tar:
        members = {member.name: member for member in tar.getmembers()}
        hostname = tar.extractfile("etc/hostname")
        assert hostname is not None
        assert hostname.read() == b"later\n"
    assert (tmp_path / "files.tar").stat().st_size % 512 == 0  # QEMU reads the archive as a disk of whole sectors
    login = members["home/ops/.ssh/authorized_keys"]
    assert (login.mode, login.uid) == (0o600, 1000)
    assert members["home/ops/.ssh"].isdir()
    assert members["etc/ssh/ssh_host_ed25519_key"].mode == 0o600
    assert members["etc/machine-id"].mode == 0o444


def test_an_address_is_bound_to_the_hardware_address() -> None:
    text = vm_files.fixed_address("10.213.1.11", "10.213.1.254", TAP.mac).text
    assert "MACAddress=02:d5:01:00:00:0b\n" in text
    assert "Address=10.213.1.11/24\nGateway=10.213.1.254\n" in text


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(LabError, match="no virtual machines for riscv64"):
        vm_image.architecture("riscv64")
    assert vm_image.architecture("aarch64").kernel == "linux-image-cloud-arm64"


def test_a_full_disk_is_named_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"need 4 GiB in .* has 1\.5 GiB free"):
        vm_image.require_room(tmp_path, 4, free=lambda path: 3 * 2**29)
    vm_image.require_room(tmp_path, 4, free=lambda path: 4 * 2**30)


class FakeAgent:
    """Answers as QEMU's guest agent does, with an older answer before the first."""

    def __init__(self, path: Path, result: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._result = result
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client, client.makefile("rb") as lines:
                client.sendall(b'{"return": "of an earlier client"}\n')
                for line in lines:
                    client.sendall(self._answer(json.loads(line.lstrip(b"\xff"))))

    def _answer(self, request: dict[str, Any]) -> bytes:
        self.asked.append(request)
        answers = {"guest-exec": {"return": {"pid": 5}}, "guest-exec-status": self._result}
        if request["execute"] == "guest-sync-delimited":
            return b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n"
        return json.dumps(answers.get(request["execute"], {"return": {}})).encode() + b"\n"


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[FakeAgent]:
    out = base64.b64encode(b"hello\n").decode()
    fake = FakeAgent(tmp_path / "agent.sock", {"return": {"exited": True, "exitcode": 3, "out-data": out}})
    yield fake
    fake.close()


def test_the_agent_runs_words_and_returns_their_output(tmp_path: Path, ended: FakeAgent) -> None:
    done = Agent(tmp_path / "agent.sock").run(["cat", "/a b"], stdin="in", check=False, timeout=7)
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello\n", "")
    asked = next(request["arguments"] for request in ended.asked if request["execute"] == "guest-exec")
    assert asked["arg"] == ["-C", "/", "timeout", "--kill-after=5", "7", "cat", "/a b"]
    assert base64.b64decode(asked["input-data"]) == b"in"


def test_a_command_that_fails_is_an_error_with_its_output(tmp_path: Path, ended: FakeAgent) -> None:
    with pytest.raises(LabError, match="`cat /a` failed with exit code 3: hello"):
        Agent(tmp_path / "agent.sock").run(["cat", "/a"])


def test_a_refusal_of_the_agent_is_an_error(tmp_path: Path) -> None:
    fake = FakeAgent(tmp_path / "agent.sock", {"error": {"desc": "PID 5 does not exist"}})
    with pytest.raises(LabError, match="refused guest-exec-status: PID 5 does not exist"):
        Agent(tmp_path / "agent.sock").run(["true"])
    fake.close()


def test_an_agent_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent.sock", patience=0.2)
    assert not agent.answers()
    with pytest.raises(LabError, match="the guest agent did not answer to `true`"):
        agent.run(["true"])
