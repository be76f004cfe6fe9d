"""`provision facts`: one exec for each host, and every broken part as a state."""

import base64
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import actions, cli, testing
from provision.actions.facts import Facts, HostReport, facts
from provision.cli.caller import Caller
from provision.command import Answer
from provision.errors import FactError, HostError
from provision.steps.docker import gpu_processes
from provision.steps.docker.gpu_processes import Application
from provision.steps.nvidia_smi import MigDevice
from provision.steps.system import machine
from provision.steps.system.machine import FileSystem, Machine
from tests import smi_cases

UUID = "GPU-00000000-1111-2222-3333-444444444444"
MIG = "MIG-00000000-5555-6666-7777-888888888888"
CONTAINER = "a" * 64
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu: {hosts: {gpu-01: {ansible_host: 10.0.0.11}, gpu-02: {ansible_host: 10.0.0.12}}}
balancer: {hosts: {lb-01: {ansible_host: 10.0.0.5}}}
"""
SYSTEM = testing.DEBIAN.partition("# gpu-exit")[0]
HOST = f"""{SYSTEM}# gpu-all
0, {UUID}, NVIDIA H100 80GB HBM3, 590.48.01, 81559, 9.0, Enabled, Enabled, Enabled
# gpu-all-exit
0
# end
"""
DETAILS = f"""# listed
GPU 0: NVIDIA H100 80GB HBM3 (UUID: {UUID})
  MIG 3g.40gb     Device  0: (UUID: {MIG})
# all
{UUID}, 00000000:01:00.0, 512, 80000, 700.00, Enabled, 0, Default, Enabled, Enabled
"""
MACHINE = """# kernel
6.12.48+deb13-amd64
# processors
64
# memory
MemTotal:       528000000 kB
MemAvailable:   500000000 kB
# boot
86400
# disks
Filesystem     Type  1024-blocks     Used Available Capacity Mounted on
udev           devtmpfs 16000000        0  16000000       0% /dev
overlay        overlay  99000000 20000000  79000000      21% /
/dev/nvme0n1p1 xfs    1900000000        0 1700000000      0% /srv/my models
overlay        overlay  99000000 20000000  79000000      21% /var/lib/docker/overlay2/1/merged
# toolkit
ii  1.20.0-1
# end
"""


def listing(*rows: str) -> str:
    """Return the processes as the shell prints them."""
    text = "\n".join(rows)
    return f"host applications {base64.b64encode(text.encode()).decode()}\n{CONTAINER} ollama1 ollama1\nend\n"


PROCESSES = listing(
    f"{MIG}, 4242, 38000, /usr/bin/ollama",
    gpu_processes.DONE,
    f"/proc/4242/cgroup:0::/system.slice/docker-{CONTAINER}.scope",
    "/proc/4242/user:root",
)


@pytest.fixture
def request_of(tmp_path: Path):
    """A function that returns a request for hosts that give some answers."""
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)

    def made(host: testing.FakeHost, *limit: str) -> actions.Request:
        return actions.Request(str(path), limit=limit, setup=testing.setup(tmp_path / "runs", host.connect))

    return made


def fake(**answers: Answer | str) -> testing.FakeHost:
    usual = {machine.TITLE: MACHINE, "details of the cards": DETAILS, gpu_processes.TITLE: PROCESSES}
    return testing.FakeHost(usual | {"look for Docker's snap": "none\n"} | answers, facts=HOST)


def only(found: Facts) -> HostReport:
    (_, report), *_ = found.hosts
    assert not isinstance(report, HostError)
    return report


def test_a_host_is_read_in_one_exec_that_changes_nothing(request_of) -> None:
    host = fake()
    found = facts(request_of(host, "gpu-01"))
    assert host.execs == 1
    assert host.files == {}
    assert found.exit_code == 0
    report = only(found)
    assert report.facts.driver_error == ""
    assert report.machine.toolkit == "1.20.0-1"
    assert [(index, card.uuid, details.free_mib) for index, card, details in report.cards] == [(0, UUID, 80000)]
    assert report.details.of(UUID).devices == (MigDevice(MIG, "3g.40gb"),)


def test_a_process_on_a_mig_device_is_a_user_of_the_card(request_of) -> None:
    report = only(facts(request_of(fake(), "gpu-01")))
    (_, card, _), *_ = report.cards
    assert report.users(card) == [Application(MIG, 4242, "ollama", "ollama1", 38000, "root")]
    assert report.instances == {"ollama1": "ollama1"}


@pytest.mark.parametrize("name", smi_cases.cases())
def test_every_state_of_nvidia_smi_is_shown(request_of, capsys, tmp_path: Path, name: str) -> None:
    case = smi_cases.cases()[name]
    (tmp_path / "host").mkdir()
    host = testing.FakeHost(facts=smi_cases.host_answer(tmp_path / "host", smi_cases.replay(case["answers"])))
    asked = request_of(host)
    assert cli.execute(["facts", "-i", asked.inventory, "-l", "gpu-01"], Caller(asked.setup)) == 0
    shown = capsys.readouterr().out
    assert [card["uuid"] for card in case["cards"] if card["uuid"] not in shown] == []
    assert case["error"][:60] in shown


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("LoadState=not-found\nend=\n", "absent"),
        ("LoadState=loaded\nActiveState=inactive\nend=\n", "stopped"),
        ('LoadState=loaded\nActiveState=active\ninfo={"version":"29.1.3","driver":"systemd"}\nend=\n', "running"),
        ("LoadState=loaded\nActiveState=active\nsilent=nothing came within 15 s\nend=\n", "silent"),
        ("", "unknown"),
        (Answer(1, b"", b"systemctl: not found"), "unknown"),
    ],
)
def test_docker_in_every_state(request_of, answer: Answer | str, state: str) -> None:
    docker = only(facts(request_of(fake(**{"look at Docker's daemon": answer}), "gpu-01"))).docker
    assert docker.state == state
    assert docker.version == ("29.1.3" if state == "running" else "")
    assert bool(docker.why) == (state in ("silent", "unknown"))


def test_a_host_without_an_answer_does_not_hide_the_rest(request_of) -> None:
    found = facts(request_of(fake(**{"look at Docker's daemon": "x"}), "gpu-01"))
    lost = facts(request_of(testing.FakeHost(lost_at=frozenset({1})), "gpu-01,lb-01"))
    assert (found.exit_code, lost.exit_code) == (0, 4)
    assert sorted(isinstance(answer, HostError) for _, answer in lost.hosts) == [False, True]
    garbled = facts(request_of(testing.FakeHost(facts="# os"), "gpu-01"))
    assert garbled.exit_code == 3
    assert isinstance(garbled.hosts[0][1], FactError)


def test_a_balancer_needs_no_driver(request_of, capsys) -> None:
    asked = request_of(testing.FakeHost())
    for host, shown in (("gpu-01", True), ("lb-01", False)):
        assert cli.execute(["facts", "-i", asked.inventory, "-l", host], Caller(asked.setup)) == 0
        assert ("nvidia-smi is not installed" in capsys.readouterr().out) is shown


def test_two_hosts_with_one_card_are_named(request_of) -> None:
    (warning,) = (text for text in facts(request_of(fake())).warnings if UUID in text)
    assert "gpu-01 and gpu-02" in warning
    assert not [text for text in facts(request_of(fake(), "gpu-01")).warnings if UUID in text]


def test_a_plan_names_two_hosts_with_one_card(request_of) -> None:
    asked = request_of(fake(), "gpu")
    served = "{vars: {ollama: {instances: [{gpus: [0]}]}, "
    Path(asked.inventory).write_text(INVENTORY.replace("{vars: {", served))
    (warning,) = (text for text in actions.plan(asked).remarks if UUID in text)
    assert "gpu-01 and gpu-02" in warning


def test_a_machine() -> None:
    found = machine.read(Answer(0, MACHINE.encode()))
    assert found == Machine(
        kernel="6.12.48+deb13-amd64",
        processors=64,
        memory=528000000 * 1024,
        memory_available=500000000 * 1024,
        up_seconds=86400,
        disks=(
            FileSystem("/", "overlay", 99000000 * 1024, 79000000 * 1024),
            FileSystem("/srv/my models", "xfs", 1900000000 * 1024, 1700000000 * 1024),
        ),
        toolkit="1.20.0-1",
    )


def test_this_machine_answers() -> None:
    command = machine.command()
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=True)
    found = machine.read(Answer(0, done.stdout))
    assert found.kernel == os.uname().release
    assert found.processors
    assert found.memory > found.memory_available > 0


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        ("ii  1.20.0-1", "1.20.0-1"),
        ("rc  1.18.2-1", ""),  # removed, with its configuration left
        ("un  \nNVIDIA Container Toolkit CLI version 1.17.8", "1.17.8"),
        ("", ""),
    ],
)
def test_the_toolkit(lines: str, version: str) -> None:
    assert machine.read(Answer(0, f"# toolkit\n{lines}\n".encode())).toolkit == version


@given(st.lists(st.text(max_size=60) | st.sampled_from(MACHINE.splitlines())))
def test_no_answer_breaks_the_reader_of_the_machine(lines: list[str]) -> None:
    found = machine.read(Answer(0, "\n".join(lines).encode(errors="replace")))
    assert found.memory >= 0
    assert all(disk.mount.startswith("/") for disk in found.disks)


def test_processes_are_read_from_a_real_shell(tmp_path: Path) -> None:
    pid = os.getpid()
    smi = f'case "$*" in *compute-apps*) echo "{UUID}, {pid}, 512, /usr/bin/python3";; esac'
    docker = f'case "$*" in ps*) echo "{CONTAINER} ollama1 ollama1"; echo "{"b" * 64} web ";; esac'
    for name, text in {"nvidia-smi": smi, "docker": docker, "systemctl": "echo active"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    command = gpu_processes.command()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, env=environment, check=True)
    found, instances = gpu_processes.read(Answer(0, done.stdout))
    assert found is not None
    assert [(process.card, process.pid, process.mib) for process in found.applications] == [(UUID, pid, 512)]
    assert instances == {"ollama1": "ollama1"}


@given(st.binary(max_size=200) | st.just(PROCESSES.encode()), st.integers(0, 400))
def test_no_answer_breaks_the_reader_of_processes(answer: bytes, end: int) -> None:
    gpu_processes.read(Answer(0, (b"host applications " + answer)[:end]))
