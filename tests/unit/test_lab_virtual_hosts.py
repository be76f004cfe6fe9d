"""Hosts of the lab that are virtual machines, without QEMU: disks, files, sizes, and what a machine lacks."""

import json
import tarfile
from pathlib import Path

import pytest

from provision.lab import builds, machine, virtual_host
from provision.lab.network import Network
from provision.lab.shell import LabError
from provision.lab.spec import GPU, HostSpec, Spec
from provision.lab.virtual_host import VirtualDisk, VirtualHost
from provision.lab.vm_image import Image

IMAGE = Image(Path("/cache/trixie-1"), "trixie")


@pytest.fixture
def disk(tmp_path: Path) -> VirtualDisk:
    """A disk with text files as overlays: the text names the layer below."""
    return VirtualDisk(tmp_path, IMAGE, overlay=lambda disk, backing: disk.write_text(f"over {backing}") and None)


def test_a_saved_state_is_the_layer_below_the_disk(disk: VirtualDisk, tmp_path: Path) -> None:
    current = tmp_path / "disk.qcow2"
    current.write_text("deployed")
    disk.save("deployed")
    assert disk.saved() == ["deployed"]
    assert current.read_text() == f"over {tmp_path}/saved/deployed.qcow2"
    current.write_text("broken")
    disk.restore("deployed")
    assert current.read_text() == f"over {tmp_path}/saved/deployed.qcow2"
    assert (tmp_path / "saved/deployed.qcow2").read_text() == "deployed"
    disk.restore("")
    assert current.read_text() == "over /cache/trixie-1/disk.raw"


def test_a_label_is_saved_once_and_an_unknown_label_is_refused(disk: VirtualDisk, tmp_path: Path) -> None:
    (tmp_path / "disk.qcow2").write_text("deployed")
    disk.save("deployed")
    with pytest.raises(LabError, match="has a state 'deployed' already"):
        disk.save("deployed")
    with pytest.raises(LabError, match="has no state 'other'"):
        disk.restore("other")


def host(tmp_path: Path) -> VirtualHost:
    home = tmp_path / "lab" / "hosts" / "gpu-01"
    (home / "ssh").mkdir(parents=True)
    (home / "ssh/ssh_host_ed25519_key").write_text("PRIVATE")
    (home / "ssh/ssh_host_ed25519_key.pub").write_text("PUBLIC")
    (tmp_path / "lab/id_ed25519.pub").write_text("ssh-ed25519 AAAA lab\n")
    spec = HostSpec("gpu-01", GPU, 11)
    return VirtualHost(spec, Network("nolab", 7), home, IMAGE, {"usr/bin/nvidia-smi": "#!/bin/sh\n"})


def test_a_host_gets_its_files_before_it_boots(tmp_path: Path) -> None:
    gpu = host(tmp_path)
    gpu.write("/etc/provision-lab/faults/driver-broken", "", 0o600)  # while the host is down
    gpu._furnish()
    with tarfile.open(gpu.home / "files.tar") as tar:
        files = {member.name: member for member in tar.getmembers()}
        network = tar.extractfile("etc/systemd/network/10-lab.network")
        assert network is not None
        assert b"Address=10.213.7.11/24" in network.read()
    assert files["usr/bin/nvidia-smi"].mode == 0o755
    assert files["etc/provision-lab/faults/driver-broken"].mode == 0o600
    assert "etc/ssh/ssh_host_ed25519_key" in files


def test_a_host_keeps_kernel_and_image_of_its_first_boot(tmp_path: Path) -> None:
    assert virtual_host.image_of(tmp_path, "trixie").folder.parent.name == "vm"
    (tmp_path / "backing").write_text("/cache/vm/trixie-older/disk.raw\n")
    assert virtual_host.image_of(tmp_path, "trixie").kernel == Path("/cache/vm/trixie-older/kernel")


def test_a_host_that_is_down_is_not_running_and_runs_nothing(tmp_path: Path) -> None:
    gpu = host(tmp_path)
    assert not gpu.running
    assert gpu.leader is None
    with pytest.raises(LabError, match="gpu-01 is not running"):
        gpu.run(["true"])


def test_memory_is_counted_for_every_host_and_named_with_both_figures(tmp_path: Path) -> None:
    needed = sum(map(virtual_host.needed_memory, Spec(gpu_hosts=2, balancers=1, vm=True).hosts()))
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99999999 kB\nMemAvailable: {(needed - 1) * 1024} kB\n")
    with pytest.raises(LabError, match=f"need {needed} MiB of memory, and this machine has {needed - 1} MiB"):
        machine.require_memory(needed, meminfo)
    machine.require_memory(needed - 1, meminfo)


def test_a_lab_of_virtual_machines_alone_needs_qemu(tmp_path: Path) -> None:
    emulator = ("qemu-system-x86_64", "qemu-system-x86")
    lacking = set(machine.missing_packages(emulator, path=str(tmp_path)))
    assert lacking - set(machine.missing_packages(path=str(tmp_path))) >= {"qemu-system-x86", "qemu-utils"}


def test_labs_of_an_earlier_release_have_containers() -> None:
    record = Spec().to_json()
    del record["vm"]
    assert not Spec.from_json(json.loads(json.dumps(record))).vm


def test_a_lab_of_a_later_release_is_found_and_goes_down() -> None:
    record = {**Spec("other", 3, vm=True).to_json(), "key_of_a_later_release": {"x": 1}}
    assert Spec.from_json(json.loads(json.dumps(record))) == Spec("other", 3, vm=True)


def test_nginx_is_compiled_natively_once_for_a_release(tmp_path: Path) -> None:
    said: list[str] = []
    compiled: list[str] = []
    for _ in range(2):
        builds.ensure("trixie", said.append, compiled.append, tmp_path)
    assert (compiled, len(said)) == (["trixie"], 1)
    (tmp_path / "trixie").write_text("of other sources")
    builds.ensure("trixie", said.append, compiled.append, tmp_path)
    assert compiled == ["trixie", "trixie"]


def test_a_failed_native_compile_is_said_and_tried_again(tmp_path: Path) -> None:
    def fail(release: str) -> None:
        raise LabError("no container boots")

    said: list[str] = []
    builds.ensure("trixie", said.append, fail, tmp_path)
    assert "nginx was not compiled here: no container boots" in said
    assert "in a virtual machine instead" in said[-1]
    assert not (tmp_path / "trixie").exists()
