"""NVIDIA's own Container Toolkit on a host of a lab: cards by CDI, whole, missing and stale.

The toolkit's programs are built from NVIDIA's Go module. The cards are made up: nodes /dev/nvidia0, /dev/nvidia1 and
/dev/nvidiactl with the numbers of /dev/null, /dev/zero and /dev/fuse, and a CDI file in NVIDIA's form. nvidia-smi, the
driver and libnvidia-container are simulated, so no case is about a card at work. Where the hook gives a card, the hook
is real, and the library behind the hook is a stand-in.
"""

from collections.abc import Iterator

import pytest

from provision.apply import diagnostics
from provision.command import Answer
from provision.lab.lab import Lab
from provision.lab.shell import LabError
from provision.lab.spec import Spec
from provision.steps.docker import card_path, daemon_state
from provision.steps.docker.card_path import Given
from tests.fleet import KEEP, NAME, Fleet
from tests.real import docker_packages, toolkit_packages
from tests.real.install import docker, toolkit
from tests.real.install.docker import NEWEST
from tests.real.install.workshop import Workshop, default_folder
from tests.real.noted import Noted

HOST = "gpu-01"
OLDER = "26.1.5"
DAEMON = {"features": {"cdi": True, "time-namespaces": False}}
"""CDI for Docker 26.1. Debian 13's runc 1.1 knows no time namespaces, and Docker 29.8 gives one by default."""
ROLES = "docker,nvidia_toolkit"
CDI = "/run/cdi/nvidia.yaml"
NODES = {"nvidia0": (1, 3), "nvidia1": (1, 5), "nvidiactl": (10, 229)}
"""Numbers that hosts of a lab may open: of null, zero and fuse. Docker gives fuse to no container unasked."""
MODE = ("nvidia-ctk", "config", "--in-place", "--set")
BEHIND_HOOK = "/usr/bin/nvidia-container-cli"
STAND_IN = """#!/bin/sh
# SIMULATED: gives a container the node of a card as libnvidia-container does, behind systemd's back.
for root do case $root in --pid=*) pid=${root#*=} ;; esac; done
scope=$(grep -m 1 -oE 'docker-[0-9a-f]+[.]scope' "/proc/$pid/cgroup")
echo 'c 10:229 rwm' >"/sys/fs/cgroup/devices/system.slice/$scope/devices.allow"
nsenter --target "$pid" --mount mknod -m 666 "$root/dev/nvidiactl" c 10 229
"""
STRICT = "a unit with DevicePolicy=strict"
DRIVER = "Docker is given cgroup_driver: systemd, so that its containers live in scopes of systemd's."


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gpu host with two made-up cards, on which provision installed the real toolkit beside Docker 26.1. The host's
    repository has Docker 29 too."""
    shop = Workshop(default_folder())
    dockers = docker_packages.folder(shop, [docker.installed(shop, NEWEST)])
    packages = toolkit_packages.folder(shop, toolkit.installed(shop), dockers)
    lab = Lab.up(Spec(f"{NAME}-toolkit", 1, 0, 2, packages=str(packages)), install=True)
    try:
        fleet = Fleet(lab, tmp_path_factory.mktemp("fleet"))
        fleet.vars["nvidia_toolkit"]["version"] = toolkit.PINNED.version
        fleet.vars["docker"].update(version=OLDER, cgroup_driver="systemd", daemon=DAEMON)
        done = fleet.provision("deploy", "--yes", "--json", "--tags", ROLES, timeout=900)
        assert done.code == 0, done
        fleet.on(HOST, "docker", "pull", "-q", fleet.vars["ollama"]["image"])
        yield fleet
    finally:
        if not KEEP:
            lab.down()


@pytest.fixture(scope="module")
def newest(fleet: Fleet) -> None:
    """The same host after an upgrade to Docker 29."""
    fleet.vars["docker"]["version"] = NEWEST.version
    fleet.deploy("--tags", ROLES)
    assert fleet.on(HOST, "docker", "version", "--format", "{{.Server.Version}}").strip() == NEWEST.version


@pytest.fixture(autouse=True)
def cards(fleet: Fleet) -> list[str]:
    """The UUIDs of the cards, with whole nodes, a whole CDI file, and NVIDIA's runtime in mode `cdi`."""
    listed = fleet.on(HOST, "nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader").split()
    for name, (major, minor) in NODES.items():
        fleet.on(HOST, "sh", "-c", f"rm -f /dev/{name}; mknod -m 666 /dev/{name} c {major} {minor}")
    fleet.on(HOST, "mkdir", "-p", "/run/cdi", "/etc/nvidia-container-runtime")
    fleet.lab.host(HOST).write(CDI, toolkit_packages.cdi_file(listed))
    fleet.on(HOST, *MODE, "nvidia-container-runtime.mode=cdi")
    fleet.lab.host(HOST).run(["docker", "rm", "-f", "job"], check=False)
    return listed


@pytest.fixture
def by_hook(fleet: Fleet) -> Iterator[None]:
    """A stand-in for the program behind NVIDIA's hook, and no more CDI in NVIDIA's configuration."""
    host = fleet.lab.host(HOST)
    kept = fleet.on(HOST, "cat", BEHIND_HOOK)
    host.write(BEHIND_HOOK, STAND_IN, 0o755)
    fleet.on(HOST, *MODE, "nvidia-container-runtime.mode=legacy")
    yield
    host.write(BEHIND_HOOK, kept, 0o755)


@pytest.fixture(autouse=True)
def judged(noted: Noted) -> None:
    noted.judge("NVIDIA Container Toolkit", toolkit.PINNED.version)


def start(fleet: Fleet, *words: str) -> None:
    """Start a container that sleeps."""
    image = fleet.vars["ollama"]["image"]
    fleet.on(HOST, "docker", "run", "-d", "--name", "job", *words, "--entrypoint", "sleep", image, "600")


def refused(fleet: Fleet, *words: str) -> str:
    """Return the error of a container that does not start."""
    with pytest.raises(LabError) as error:
        start(fleet, *words)
    return str(error.value)


def nodes(fleet: Fleet) -> list[str]:
    return fleet.on(HOST, "docker", "exec", "job", "sh", "-c", "cd /dev && ls -d nvidia*").split()


def opens(fleet: Fleet) -> bool:
    """Whether a process of the container may open /dev/nvidiactl."""
    script = "(: </dev/nvidiactl) 2>/dev/null && echo yes || echo no"
    return fleet.on(HOST, "docker", "exec", "job", "sh", "-c", script).strip() == "yes"


def given(fleet: Fleet) -> tuple[Given, ...]:
    """Return our own read of the containers' paths."""
    command = daemon_state.COMMAND
    done = fleet.lab.host(HOST).run(list(command.words), stdin=command.stdin.decode())
    return daemon_state.read(Answer(0, done.stdout.encode())).given


def proved(fleet: Fleet, noted: Noted, *seen: str) -> None:
    """The container has exactly these nodes, and our read finds the path CDI with nodes that systemd knows."""
    assert nodes(fleet) == [*seen, "nvidiactl"]
    assert given(fleet) == (Given("job", ours=False, path=card_path.CDI),)
    noted.evidence = f"{', '.join(nodes(fleet))} inside; our read: {given(fleet)[0].words}, systemd knows the nodes"


def keeps_lists(fleet: Fleet) -> bool:
    """Whether systemd keeps the lists of devices of units on this host: asked of a unit with DevicePolicy=strict."""
    fleet.on(HOST, "systemd-run", "--quiet", "--unit=strict", "-p", "DevicePolicy=strict", "sleep", "60")
    found = fleet.lab.host(HOST).run(["test", "-e", "/sys/fs/cgroup/devices/system.slice/strict.service"], check=False)
    fleet.on(HOST, "systemctl", "stop", "strict")
    return found.returncode == 0


def reload(fleet: Fleet) -> None:
    """Let systemd read its units anew, and wait until systemd has applied them.

    systemd writes the lists of devices after the answer to `daemon-reload`; a unit that is started now comes later.
    """
    fleet.on(HOST, "systemctl", "daemon-reload")
    fleet.on(HOST, "systemd-run", "--wait", "--quiet", "true")


def cure(said: str) -> str:
    """Return the next action that provision names for an error of Docker."""
    return diagnostics.repair(said)


def test_provision_installs_the_toolkit_and_finds_nothing_to_change(fleet: Fleet, noted: Noted) -> None:
    assert fleet.changes("--tags", ROLES)[HOST] == []
    said = fleet.on(HOST, "nvidia-ctk", "--version").splitlines()[0]
    assert said == f"NVIDIA Container Toolkit CLI version {toolkit.PINNED.version}"
    held = fleet.on(HOST, "dpkg-query", "-W", "-f", "${Version} ${db:Status-Abbrev}", "nvidia-container-toolkit-base")
    assert held.startswith(f"{toolkit.PINNED.version}-1 ii")
    noted.evidence = f'plan of {ROLES} is clean; nvidia-ctk says "{said}". {DRIVER}'


def test_cdi_list_names_each_card_by_index_and_uuid(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    listed = set(fleet.on(HOST, "nvidia-ctk", "cdi", "list").split()) - {""}
    names = {f"nvidia.com/gpu={name}" for name in ("0", "1", *cards, "all")}
    assert names <= listed
    noted.evidence = ", ".join(sorted(names))


def test_gpus_by_uuid_in_the_runtime_nvidia(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    start(fleet, "--runtime", "nvidia", "--gpus", f"device={cards[1]}")
    proved(fleet, noted, "nvidia1")


def test_gpus_by_index_in_the_runtime_nvidia(fleet: Fleet, noted: Noted) -> None:
    start(fleet, "--runtime", "nvidia", "--gpus", "device=0")
    proved(fleet, noted, "nvidia0")


def test_device_by_uuid_without_the_runtime_nvidia(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    start(fleet, "--device", f"nvidia.com/gpu={cards[0]}")
    proved(fleet, noted, "nvidia0")


def test_our_read_says_that_a_daemon_reload_would_take_a_card_by_the_hook(
    fleet: Fleet, by_hook: None, cards: list[str], noted: Noted
) -> None:
    """The node nvidiactl has the number of fuse. Docker and NVIDIA's hook are real. SIMULATED: the program behind the
    hook, which makes the node and allows the number in cgroup v1's list of devices, as libnvidia-container does."""
    start(fleet, "--gpus", f"device={cards[0]}")
    assert opens(fleet)
    (found,) = given(fleet)
    assert found == Given("job", ours=False, path=card_path.HOOK, reason="systemd does not know the nodes")
    noted.evidence = f"nvidiactl opens inside; our read: {found.words}"


def test_a_daemon_reload_takes_a_card_by_the_hook_and_leaves_a_card_by_cdi(
    fleet: Fleet, by_hook: None, cards: list[str], noted: Noted
) -> None:
    if not keeps_lists(fleet):
        version = fleet.on(HOST, "systemctl", "--version").split()[1]
        noted.not_run = f"systemd {version} of the lab's host keeps no lists of devices on cgroup v1: {STRICT} has none"
        return
    start(fleet, "--device", f"nvidia.com/gpu={cards[0]}")
    reload(fleet)
    assert opens(fleet)
    fleet.on(HOST, "docker", "rm", "-f", "job")
    start(fleet, "--gpus", f"device={cards[0]}")
    assert opens(fleet)
    reload(fleet)
    assert not opens(fleet)
    noted.evidence = "by CDI the node opens after the reload; by the hook the node opens before, and not after"


def test_a_missing_cdi_file_is_named_with_the_cure(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    fleet.on(HOST, "rm", CDI)
    for words in (("--runtime", "nvidia", "--gpus", f"device={cards[0]}"), ("--device", f"nvidia.com/gpu={cards[0]}")):
        said = refused(fleet, *words)
        assert f"unresolvable CDI devices nvidia.com/gpu={cards[0]}" in said
        assert "systemctl restart nvidia-cdi-refresh" in cure(said)
        fleet.lab.host(HOST).run(["docker", "rm", "-f", "job"], check=False)
    noted.evidence = f"unresolvable CDI devices; provision's next action: {cure(said)}"


def test_a_node_that_is_gone_is_named_with_the_cure(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    fleet.on(HOST, "rm", "/dev/nvidia1")
    said = refused(fleet, "--device", f"nvidia.com/gpu={cards[1]}")
    assert 'failed to stat CDI host device "/dev/nvidia1"' in said
    assert "systemctl restart nvidia-cdi-refresh" in cure(said)
    noted.evidence = f'failed to stat CDI host device "/dev/nvidia1"; provision\'s next action: {cure(said)}'


def test_a_stale_number_in_the_cdi_file_wins_over_the_node(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    """After a reload of the driver's modules a node may have another number than a CDI file that names numbers."""
    path = "path: /dev/nvidia0\n"
    stale = f"{path}              type: c\n              major: 1\n              minor: 9\n"
    text = toolkit_packages.cdi_file(cards).replace(path, stale)
    fleet.lab.host(HOST).write(CDI, text)
    start(fleet, "--device", f"nvidia.com/gpu={cards[0]}")
    number = fleet.on(HOST, "docker", "exec", "job", "stat", "-c", "%t:%T", "/dev/nvidia0").strip()
    assert number == "1:9", "the container starts, with a node of another device"
    noted.evidence = "the container starts with 1:9 where the host's node is 1:3, and no program says so"


def test_gpus_without_the_runtime_nvidia_ask_the_hook_which_refuses(
    fleet: Fleet, cards: list[str], noted: Noted
) -> None:
    """The hook itself is real, the C library behind the hook is not: so a card by the hook is not tried."""
    said = refused(fleet, "--gpus", f"device={cards[0]}")
    assert card_path.NO_DIRECT_HOOK.search(said.replace("\n", " "))
    assert "mode `auto`" in cure(said)
    noted.evidence = f"invoking the hook directly is not supported; provision's next action: {cure(said)}"


@pytest.mark.usefixtures("newest")
def test_docker_29_gives_a_card_by_uuid_by_cdi_without_the_runtime_nvidia(
    fleet: Fleet, cards: list[str], noted: Noted
) -> None:
    start(fleet, "--gpus", f"device={cards[1]}")
    proved(fleet, noted, "nvidia1")
    noted.judge("Docker", NEWEST.version)


@pytest.mark.usefixtures("newest")
def test_docker_29_gives_a_card_by_index_by_cdi_without_the_runtime_nvidia(fleet: Fleet, noted: Noted) -> None:
    start(fleet, "--gpus", "device=0")
    proved(fleet, noted, "nvidia0")
    noted.judge("Docker", NEWEST.version)


@pytest.mark.usefixtures("newest")
def test_docker_29_falls_back_to_the_hook_without_a_cdi_file(fleet: Fleet, cards: list[str], noted: Noted) -> None:
    """The error is of the simulated nvidia-container-cli: nobody but the hook calls this program."""
    fleet.on(HOST, "rm", CDI)
    fleet.on(HOST, *MODE, "nvidia-container-runtime.mode=auto")
    said = refused(fleet, "--gpus", f"device={cards[0]}")
    assert "nvidia-container-cli: not simulated" in said
    noted.judge("Docker", NEWEST.version)
    noted.evidence = "no CDI file, and Docker asks the hook, whose nvidia-container-cli (simulated) gives no card"
