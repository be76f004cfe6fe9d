"""The docker and nvidia_toolkit roles: the steps, and the contents of the files on the host."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provision.command import Answer, Put, Run
from provision.inventory import Connection, Host, Instance, Inventory
from provision.plan.planner import plan_host
from provision.render import render
from provision.roles import docker, nvidia_toolkit
from provision.steps.base import converged
from provision.steps.docker.daemon_json import SWAP, DockerConfig
from provision.steps.docker.daemon_state import PROXY
from provision.steps.docker.service import RESTART
from provision.steps.docker.unmanage import OwnedDockerConfig
from provision.steps.facts import HostFacts
from provision.steps.system.apt import Packages
from provision.steps.system.file import File
from tests.unit.step_cases import load

TRIXIE = HostFacts(distribution="debian", version="13", codename="trixie", architecture="amd64")


def host(groups: tuple[str, ...] = ("gpu",), **settings: Any) -> Host:
    return Host(
        name="gpu-01",
        groups=groups,
        connection=Connection(address="192.0.2.1"),
        settings={
            "docker": docker.Settings(**settings),
            "nvidia_toolkit": nvidia_toolkit.Settings(),
        },
        instances=(Instance(host="gpu-01", name="ollama1", gpus=(0,), port=3001, image="ollama/ollama:0.34.4"),),
    )


def steps(one: Host, role: Any = docker) -> dict[str, Any]:
    return {step.id: step for step in role.steps(one, Inventory(path="x", hosts=(one,)))}


def keys(one: Host) -> dict[str, Any]:
    config = steps(one)["docker_config:daemon.json"]
    assert isinstance(config, DockerConfig)
    return dict(config.keys)


def packages(one: Host) -> Packages:
    found = steps(one)["packages:docker"]
    assert isinstance(found, Packages)
    return found


def content(step: Any) -> str:
    assert isinstance(step, File)
    assert callable(step.content)
    return step.content(TRIXIE).decode()


def test_a_balancer_gets_neither_docker_nor_the_toolkit() -> None:
    balancer = host(("balancer",))
    assert list(steps(balancer)) == ["require:host", "folders:provision"]
    assert list(steps(balancer, nvidia_toolkit)) == []


@pytest.mark.parametrize("version", ["26.1.5", "26.1.5+dfsg1-9+b1"])
def test_a_version_of_the_distributions_docker_is_pinned(version: str) -> None:
    pinned = steps(host(source="distribution", version=version))[f"file:{docker.PREFERENCES}"]
    assert isinstance(pinned, File)
    assert isinstance(pinned.content, bytes)
    assert f"Package: docker.io\nPin: version {version}{'' if '-' in version else '*'}\n".encode() in pinned.content
    assert f"file:{docker.PREFERENCES}" not in steps(host(source="distribution"))


def test_guards_come_first() -> None:
    assert list(steps(host()))[:2] == ["require:host", "require:cards"]


def test_docker_is_configured_before_it_is_installed() -> None:
    order = list(steps(host()))
    last = ["docker_config:daemon.json", "packages:docker", "service:docker"]
    assert [step for step in order if step in last] == last
    assert order.index("drop_in:docker.service") < order.index("docker_config:daemon.json")


def test_the_distributions_docker_needs_no_repository() -> None:
    assert not [step for step in steps(host(source="distribution")) if step.startswith("apt_")]
    assert set(packages(host(source="distribution")).packages) == {"docker.io", "docker-cli"}


def test_a_short_version_matches_any_package_of_the_version() -> None:
    assert packages(host(version="29.1.3")).packages["docker-ce"] == "5:29.1.3-*"
    full = "5:29.1.3-1~debian.13~trixie"
    assert packages(host(version=full)).packages["docker-ce"] == full


@pytest.mark.parametrize("there", ["26.1.5+dfsg1-9+b1", "26.1.5-0ubuntu1~24.04.2"])
def test_a_short_version_matches_the_package_of_the_distribution(there: str) -> None:
    step = packages(host(source="distribution", version="26.1.5"))
    answer = Answer(0, f"docker.io\tamd64\tii \t{there}\ndocker-cli\tamd64\tii \t{there}\n".encode())
    have = step.fact().parse(answer)
    assert converged(have, step.want(TRIXIE, have))
    (command,) = step.commands(None, step.want(TRIXIE, None))
    assert isinstance(command, Run)
    assert "docker.io=26.1.5*" in command.words
    full = packages(host(source="distribution", version=there)).packages
    assert full["docker.io"] == there


@pytest.mark.parametrize(
    ("live", "goes"), [(True, "go on, by live-restore"), (False, "stop, when their streams have ended")]
)
def test_the_impact_of_a_new_package_says_if_containers_go_on(live: bool, goes: str) -> None:
    step = packages(host(live_restore=live))
    have = {
        "docker-ce": None,
        "docker-ce-cli": None,
        "containerd.io": None,
        "versions": {"docker.io": "26"},
        "held": [],
    }
    said = step.impact(have, step.want(TRIXIE, have))
    assert said == f"replaces docker.io; restarts Docker (containers that run {goes})"


def programs(tmp_path: Path, **said: str) -> dict[str, str]:
    """Write programs that log their arguments and run a line of shell; return the environment with them on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, line in said.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/log\n{line}\n')
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def below(tmp_path: Path, text: str) -> str:
    """Create our folders and Docker's below `tmp_path`, and return the script with the new paths."""
    for folder in ("/var/lib/provision", "/etc/docker"):
        (tmp_path / folder[1:] / "docker").mkdir(parents=True)
        text = text.replace(folder, f"{tmp_path}{folder}")
    return "set -eu\n" + text


def swap(tmp_path: Path, active: bool) -> list[str]:
    """Put a daemon.json in place, and return the calls of systemctl and docker."""
    text = below(tmp_path, SWAP)
    (tmp_path / "etc/docker/daemon.json.provision-new").write_text('{"live-restore": true}')
    answer = f"case $* in *is-active*) exit {0 if active else 3} ;; esac"
    environment = programs(tmp_path, systemctl=answer, docker="echo true", dockerd="")
    subprocess.run(["sh"], input=text, text=True, env=environment, check=True)
    assert (tmp_path / "etc/docker/daemon.json").read_text() == '{"live-restore": true}'
    return (tmp_path / "log").read_text().splitlines()


def test_a_restored_configuration_keeps_its_mode(tmp_path: Path) -> None:
    text = below(tmp_path, RESTART)
    config, good = tmp_path / "etc/docker/daemon.json", tmp_path / "var/lib/provision/docker/good.json"
    config.write_text('{"bad": 1}')
    config.chmod(0o600)
    good.write_text("{}")
    environment = programs(tmp_path, systemctl=f"grep -q bad {config} && exit 1 || :", docker="", journalctl="")
    done = subprocess.run(
        ["sh", "-s", "--", ""], input=text, text=True, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, config.read_text(), config.stat().st_mode & 0o777) == (1, "{}", 0o600)
    assert "was put back" in done.stderr


def test_live_restore_is_loaded_before_packages_restart_docker(tmp_path: Path) -> None:
    asked = swap(tmp_path, active=True)
    assert "systemctl reload docker.service" in asked
    assert asked[-1].startswith("docker info")


def test_a_stopped_daemon_is_not_reloaded(tmp_path: Path) -> None:
    assert not [line for line in swap(tmp_path, active=False) if "reload" in line or "docker info" in line]


def test_a_mirror_has_the_tree_of_the_original() -> None:
    found = steps(host(repository="http://mirror.example/docker-ce/"))
    source = content(found["apt_source:/etc/apt/sources.list.d/provision-docker.sources"])
    assert "URIs: http://mirror.example/docker-ce/linux/debian\nSuites: trixie\nComponents: stable\n" in source
    assert found[f"apt_key:{docker.KEY}"].url == "http://mirror.example/docker-ce/linux/{distribution}/gpg"


def test_the_toolkits_repository_is_flat() -> None:
    found = steps(host(), nvidia_toolkit)
    source = content(found["apt_source:/etc/apt/sources.list.d/provision-nvidia_toolkit.sources"])
    assert "URIs: https://nvidia.github.io/libnvidia-container/stable/deb/amd64\nSuites: /\nSigned-By:" in source
    assert set(found["packages:nvidia_toolkit"].packages.values()) == {"1.20.0-1"}


def test_nvidia_is_a_runtime_and_not_the_default() -> None:
    assert keys(host())["runtimes"] == {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}
    assert "default-runtime" not in keys(host())


def test_the_operators_keys_join_ours() -> None:
    more = keys(host(daemon={"log-opts": {"labels": "a"}, "debug": True}))
    assert more["log-opts"] == {"max-size": "50m", "max-file": "3", "labels": "a"}
    assert more["debug"] is True


def test_another_log_driver_gets_none_of_our_options() -> None:
    assert "log-opts" not in keys(host(daemon={"log-driver": "journald"}))


@pytest.mark.parametrize(
    ("daemon", "said"),
    [
        ({"live-restore": False}, "use docker.live_restore for this"),
        ({"default-runtime": "nvidia"}, "would give every container all cards"),
        ({"bridge": "none"}, "must be the name of a bridge"),
        ({"bridge": "br0 -j ACCEPT"}, "must be the name of a bridge"),
        ({"x": object()}, "must be what JSON can say"),
    ],
)
def test_contradictory_settings_are_reported(daemon: dict[str, Any], said: str) -> None:
    found = [message for _, message in docker.Settings(daemon=daemon).problems()]
    assert [message for message in found if said in message]


def notes(tmp_path: Path, word: str, **environment: str) -> None:
    """Run the notes script with every path below `tmp_path`."""
    text = render("docker/docker-notes.j2", proxy=PROXY).decode()
    for folder in ("/run/provision", "/var/lib/provision", "/etc/docker", "/etc/provision"):
        text = text.replace(folder, f"{tmp_path}{folder}")
    script = tmp_path / "docker-notes"
    script.write_text(text)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    subprocess.run(["sh", script, word], env={"PATH": path, **environment}, check=True)


def test_notes_record_the_configuration_that_the_daemon_read(tmp_path: Path) -> None:
    config = tmp_path / "etc/docker/daemon.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"debug": true}')
    notes(tmp_path, "start", INVOCATION_ID="abc")
    config.write_text('{"debug": false}')
    notes(tmp_path, "reload")
    folder = tmp_path / "run/provision/docker"
    read = {path.name: path.read_text().strip() for path in folder.iterdir()}
    assert read == {
        "started-with.json": '{"debug": true}',
        "loaded.json": '{"debug": false}',
        "invocation": "abc",
        "hook": "",
    }


def test_notes_record_the_hook_and_a_missing_configuration(tmp_path: Path) -> None:
    hook = tmp_path / "bin/nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    notes(tmp_path, "start", INVOCATION_ID="abc")
    notes(tmp_path, "up")
    assert (tmp_path / "run/provision/docker/hook").read_text().strip() == str(hook)
    assert json.loads((tmp_path / "var/lib/provision/docker/good.json").read_text()) == {}


@pytest.mark.parametrize(
    ("state", "started"),
    [("inactive 0", True), ("activating 0", True), ("activating 5", True), ("inactive 5", False), ("", False)],
)
def test_docker_waits_for_the_cdi_file_of_a_boot(tmp_path: Path, state: str, started: bool) -> None:
    """Never by the order of units: toolkit 1.19.0 has its unit after the target that comes after Docker."""
    log, program = tmp_path / "log", tmp_path / "bin/systemctl"
    program.parent.mkdir()
    active, _, ended = state.partition(" ")
    program.write_text(
        f"""#!/bin/sh
case "$*" in
  '-q is-enabled nvidia-cdi-refresh.service') [ '{state}' ] ;;
  show*) echo ActiveState={active}; echo ExecMainExitTimestampMonotonic={ended} ;;
  start*) echo "$*" >>{log}; exit 1 ;;
esac
"""
    )
    program.chmod(0o755)
    notes(tmp_path, "start", INVOCATION_ID="abc")
    assert log.exists() is started
    assert not started or "--job-mode=ignore-dependencies nvidia-cdi-refresh.service" in log.read_text()
    assert (tmp_path / "run/provision/docker/invocation").exists(), "a unit that fails keeps no note away"
    for text in (
        render("docker/provision.conf.j2", proxy=""),
        render("instance/provision-instances.service.j2", script="/x", engine="x"),
    ):
        assert b"nvidia-cdi-refresh" not in text


def test_notes_record_the_hash_of_the_proxy_and_its_absence(tmp_path: Path) -> None:
    file, note = tmp_path / PROXY[1:], tmp_path / "run/provision/docker/proxy"
    file.parent.mkdir(parents=True)
    file.write_text("HTTP_PROXY=http://user:canary@proxy.test:1\n")
    notes(tmp_path, "start", INVOCATION_ID="abc")
    assert note.read_text()[:64] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "canary" not in note.read_text()
    file.unlink()
    notes(tmp_path, "start", INVOCATION_ID="abd")
    assert not note.exists()


def test_a_host_that_leaves_the_gpu_group_gets_its_daemon_json_back() -> None:
    case = load(Path(__file__).parents[1] / "facts/OwnedDockerConfig/ours.yaml")
    [finder] = [one for one in docker.OWNED if isinstance(one, OwnedDockerConfig)]
    answers = {finder.fact().command: Answer(0, case["stdout"].encode())}
    found = [("docker", finder)]
    [change] = plan_host([], frozenset({"require:host"}), found, TRIXIE, answers).changes
    assert (change.action, change.step.id) == ("remove", "docker_config:daemon.json")
    [written] = [command for command in change.commands if isinstance(command, Put)]
    assert json.loads(written.content) == {"debug": True}
    declared = frozenset(steps(host()))
    assert plan_host([], declared, found, TRIXIE, answers).changes == ()
