"""The lab itself: real hosts boot, break, come back, and leave nothing behind."""

import contextlib
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from provision.lab import bpf, cgroups, devices, faults, paths
from provision.lab.lab import Lab
from provision.lab.locks import locked
from provision.lab.machine import cgroup_version
from provision.lab.shell import LabError, joining
from provision.lab.spec import Spec

from .conftest import wait_for

pytestmark = pytest.mark.lab
NAME = "selftest"


def traces(lab):
    """Every visible part of a lab on the machine."""
    seen = {
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(lab.home) in line],
        "netns": [path.name for path in paths.NETNS.glob(f"plab.{lab.name}*")] if paths.NETNS.exists() else [],
        "link": [lab.network.link] if Path(f"/sys/class/net/{lab.network.link}").exists() else [],
        "processes": cgroups.processes(lab.name),
        "rules": [line for line in _rules().splitlines() if f"provision-lab:{lab.name} " in f"{line} "],
        "files": [str(lab.home)] if lab.home.exists() else [],
    }
    return {what: found for what, found in seen.items() if found}


def _rules():
    return subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def lab():
    """One gpu host with two cards; taken down afterwards, whatever happens."""
    with contextlib.suppress(LabError):
        Lab.find(NAME).down()
    try:
        yield Lab.up(Spec(NAME, 1, 0, 2), install=True)
    finally:
        Lab.find(NAME).down()


def ssh(lab, *words, host="gpu-01"):
    return subprocess.run(lab.ssh(host, words), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def test_a_host_is_a_real_one_and_bare(lab):
    assert ssh(lab, "sudo", "systemctl", "is-system-running", "--wait").stdout.strip() == "running"
    assert ssh(lab, "command -v docker nginx nvidia-ctk").stdout == ""
    assert ssh(lab, "hostname").stdout.strip() == "gpu-01"


def test_the_files_of_the_lab_are_enough_to_log_in(lab):
    text = lab.inventory.read_text()
    assert f"ansible_ssh_private_key_file: {lab.key}" in text
    assert str(lab.known_hosts) in text
    assert ssh(lab, "sudo", "id", "-u").stdout == "0\n"


def test_up_again_changes_nothing(lab):
    leader = lab.host("gpu-01").leader
    before = lab.inventory.read_text()
    assert Lab.up(lab.spec).host("gpu-01").leader == leader
    assert lab.inventory.read_text() == before


def test_no_host_shares_a_cgroup_with_another(lab):
    """With shared cgroups each host would remove the cgroups of starting units of the next: systemd fails with
    219/CGROUP."""
    for host in lab.hosts():
        lines = Path(f"/proc/{host.leader}/cgroup").read_text().splitlines()
        places = {line.split(":", 2)[2] for line in lines}
        assert [
            place for place in places if not f"{place}/".startswith(f"/provision-lab/{lab.name}/{host.name}/")
        ] == []


def test_labs_that_come_up_at_once_may_all_open_what_a_host_needs(monkeypatch):
    """A cgroup born while its parent is still being confined can open nothing, not even /dev/null."""
    monkeypatch.setattr(cgroups, "_TOP", "provision-lab-race")
    together = Barrier(6)

    def make(number):
        together.wait()
        return sorted(
            Path(path, "devices.list").read_text()
            for path in cgroups.make(f"race{number}", "a")
            if "devices" in path.parts
        )

    for _ in range(20):
        try:
            with ThreadPoolExecutor(6) as pool:
                lists = list(pool.map(make, range(6)))
        finally:
            for number in range(6):
                cgroups.remove(f"race{number}")
        assert all("c 1:3 rwm" in text for one in lists for text in one)
        assert len({tuple(one) for one in lists}) == 1


# Makes a node for each KIND:MAJOR:MINOR, tries to open it and prints the name of the error, or OK.
OPEN = """
import errno, os, sys
for device in sys.argv[2:]:
    kind, major, minor = device.split(":")
    node = os.path.join(sys.argv[1], "node")
    os.mknod(node, {"b": 0o060600, "c": 0o020600}[kind], os.makedev(int(major), int(minor)))
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
        print(device, "OK")
    except OSError as error:
        print(device, errno.errorcode[error.errno])
    os.unlink(node)
"""
KERNEL_LOG = "c:1:11"


def opened(said):
    """The answers of `OPEN`: device -> OK, or the name of an error."""
    assert said.returncode == 0, said.stderr
    return dict(line.split() for line in said.stdout.splitlines())


def of_the_machine():
    """Devices that no host may open: every disk of the machine, a loop device and the kernel's log."""
    disks = [line.split()[:2] for line in Path("/proc/partitions").read_text().splitlines()[2:]]
    return [*(f"b:{major}:{minor}" for major, minor in disks), "b:7:0", KERNEL_LOG]


def open_here(folder, *asked, group=None):
    """Open devices on the machine, from a cgroup if given."""
    words = [sys.executable, "-c", OPEN, str(folder), *asked]
    argv = joining([group], words) if group else words
    return opened(subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300))


def has_program(number):
    """Whether the kernel has a BPF program of this number."""
    get_descriptor = 13
    try:
        os.close(bpf._bpf(get_descriptor, struct.pack("<I", number)).result)
    except FileNotFoundError:
        return False
    return True


def open_on_the_host(lab, *asked):
    """Open devices as root over SSH: a process started by `Host.run` is in no cgroup of the host."""
    return opened(ssh(lab, shlex.join(["sudo", "python3", "-c", OPEN, "/root", *asked])))


def test_root_on_a_host_cannot_open_devices_of_the_machine(lab, tmp_path):
    """Root can make a node, because runc must; the kernel refuses to open the node."""
    assert open_here(tmp_path, KERNEL_LOG) == {KERNEL_LOG: "OK"}  # some machines refuse their disk to everybody
    asked = of_the_machine()
    assert open_on_the_host(lab, *asked) == dict.fromkeys(asked, "EPERM")


def test_root_on_a_host_cannot_lift_its_device_list(lab):
    """With cgroup v1 the host has a list of its own to write to; with v2 there is no file to write to."""
    lift = "for list in /sys/fs/cgroup/devices/devices.allow; do [ ! -e $list ] || echo a > $list; done"
    ssh(lab, shlex.join(["sudo", "sh", "-c", lift]))
    asked = of_the_machine()
    assert open_on_the_host(lab, *asked) == dict.fromkeys(asked, "EPERM")


def test_a_host_opens_every_device_that_it_needs(lab):
    asked = {f"c:{device.major}:{device.minor}": device.name for device in devices.ALLOWED if device.minor is not None}
    answers = {asked[device]: answer for device, answer in open_on_the_host(lab, *asked).items()}
    plain = ("null", "zero", "full", "random", "urandom")
    assert {name: answers[name] for name in plain} == dict.fromkeys(plain, "OK")
    # the rest may lack a terminal or a kernel module, but not the permission
    assert [name for name, answer in answers.items() if answer == "EPERM"] == []


def test_a_login_gets_a_terminal(lab):
    command, *rest = lab.ssh("gpu-01", ["sudo sh -c 'tty; echo written > /dev/tty'"])
    said = subprocess.run(
        [command, "-tt", *rest], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    terminal, *written = said.stdout.split()
    assert Path(terminal).parent == Path("/dev/pts")
    assert written == ["written"]


def test_the_kernel_decides_by_the_program_and_frees_it_with_its_cgroup(tmp_path):
    """The program of cgroup v2, also on a machine whose device list is of cgroup v1."""
    top = Path("/sys/fs/cgroup") if cgroup_version() == 2 else Path("/sys/fs/cgroup/unified")
    group = top / "provision-lab-program"
    allowed = ["c:1:3", "c:1:5", "c:1:9"]
    group.mkdir()
    try:
        asked = [*allowed, KERNEL_LOG]
        assert open_here(tmp_path, *asked, group=group) == dict.fromkeys(asked, "OK")
        bpf.attach(group, devices.program())
        expected = {**dict.fromkeys(allowed, "OK"), **dict.fromkeys(of_the_machine(), "EPERM")}
        assert open_here(tmp_path, *expected, group=group) == expected
        (number,) = bpf.attached(group)
    finally:
        group.rmdir()
    wait_for(lambda: not has_program(number))


def test_repositories_are_signed_and_apt_takes_them(lab):
    site = f"http://{lab.network.site}"
    host = lab.host("gpu-01")
    host.run(["curl", "-fsS", f"{site}/libnvidia-container/gpgkey", "-o", "/etc/apt/keyrings/lab.asc"])
    line = f"deb [signed-by=/etc/apt/keyrings/lab.asc] {site}/libnvidia-container/stable/deb/amd64 /\n"
    host.write("/etc/apt/sources.list.d/lab.list", line)
    only = ["-o", "Dir::Etc::SourceList=/dev/null"]
    host.run(["apt-get", *only, "update", "--error-on=any"])
    offered = host.run(["apt-cache", *only, "madison", "nvidia-container-toolkit"]).stdout
    assert [row.split("|")[1].strip() for row in offered.splitlines()] == ["1.20.0-1", "1.19.1-1"]


def test_the_registry_has_the_image_under_its_real_name(lab):
    url = f"http://{lab.network.site}:5000/v2/ollama/ollama/tags/list"
    tags = json.loads(lab.host("gpu-01").run(["curl", "-fsS", url]).stdout)["tags"]
    assert sorted(tags) == ["0.33.0", "0.34.4"]  # in the order of the registry's file system


def test_save_and_restore(lab):
    host = lab.host("gpu-01")
    host.write("/root/kept", "kept")
    host.write("/var/lib/docker/kept", "kept")
    lab.save("point")
    host.run(["rm", "/root/kept", "/var/lib/docker/kept"])
    host.write("/root/lost", "lost")
    lab.restore("gpu-01", "point")
    assert {"kept", "lost"} & set(host.run(["ls", "/root"]).stdout.split()) == {"kept"}
    assert host.run(["cat", "/var/lib/docker/kept"]).stdout == "kept"
    lab.restore("gpu-01")
    assert host.run(["ls", "/root"]).stdout == ""
    assert ssh(lab, "true").returncode == 0


def test_a_label_that_is_taken_or_missing_is_refused(lab):
    lab.save("taken")
    with pytest.raises(LabError, match="already"):
        lab.save("taken")
    with pytest.raises(LabError, match="no state"):
        lab.restore("gpu-01", "nothing")
    assert ssh(lab, "true").returncode == 0


def test_a_cut_host_is_silent_and_comes_back(lab):
    lab.cut("gpu-01")
    with pytest.raises(TimeoutError):
        socket.create_connection((lab.host("gpu-01").address, 22), timeout=1)
    assert faults.active(lab) == [("gpu-01", "cut")]
    lab.uncut("gpu-01")
    assert ssh(lab, "true").returncode == 0


def test_power_off_and_on(lab):
    faults.switch(lab, "gpu-01", "power-off", on=True)
    assert not lab.host("gpu-01").running
    faults.switch(lab, "gpu-01", "power-off", on=False)
    assert ssh(lab, "true").returncode == 0


def test_driver_fault(lab):
    faults.switch(lab, "gpu-01", "driver-broken", on=True)
    assert ssh(lab, "nvidia-smi", "-L").returncode == 9
    faults.switch(lab, "gpu-01", "driver-broken", on=False)
    assert len(ssh(lab, "nvidia-smi", "-L").stdout.splitlines()) == 2


def test_two_labs_side_by_side_with_a_delay(lab):
    other = Lab.up(Spec(f"{NAME}-rtt", 1, 0, 1, rtt=20))
    try:
        host = other.host("gpu-01")
        assert host.address != lab.host("gpu-01").address
        started = time.monotonic()
        socket.create_connection((host.address, 22), timeout=60).close()
        assert time.monotonic() - started > 0.019
        assert ssh(lab, "true").returncode == ssh(other, "true").returncode == 0
        make_the_image_at_once(lab, other)
    finally:
        other.down()
    assert traces(other) == {}
    assert ssh(lab, "true").returncode == 0


def make_the_image_at_once(*labs):
    """Boot labs at once, as the first labs of a machine: the shared parts are made once for all of them."""
    registry = paths.CACHE / "registry" / labs[0].spec.release
    with locked("_cache"):
        registry.with_suffix(".published").unlink()
        for image in paths.CACHE.glob(f"image-{labs[0].spec.release}*"):
            image.unlink()
    with ThreadPoolExecutor(len(labs)) as pool:
        list(pool.map(Lab.up, [lab.spec for lab in labs]))
    assert not list(paths.CACHE.glob("*.partial"))


@pytest.mark.parametrize("seconds", [0.5, 0.8, 1.2])
def test_down_after_up_was_killed(seconds):
    name = f"{NAME}-crash"
    words = [sys.executable, "-m", "provision.lab", "up", "--name", name, "--gpu-hosts", "2"]
    up = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    up.kill()
    up.wait()
    with contextlib.suppress(LabError):
        crashed = Lab.find(name)
        crashed.down()
        assert traces(crashed) == {}


def test_down_after_nspawn_was_killed(lab):
    other = Lab.up(Spec(f"{NAME}-crash", 1, 0, 1))
    try:
        for pid in cgroups.processes(other.name, "gpu-01"):
            # a boot starts many processes that end soon
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if b"systemd-nspawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
    finally:
        other.down()
    assert traces(other) == {}
