"""A second engine is a folder of steps, a role, and a line in the list of engines: nothing else knows Ollama."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provision.command import Answer, Put, Run
from provision.errors import InventoryError
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.plan.role_interface import Entry
from provision.steps import engines, instance_paths
from provision.steps.base import BlockedError, RefusalError
from provision.steps.docker import inspect
from provision.steps.instance import boot
from provision.steps.instance.container import OwnedContainers
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.ollama import server_state
from provision.steps.ollama.engine import OLLAMA
from tests.unit.echo_engine import ECHO, ROLE, readiness
from tests.unit.fake_roll import FakeSession, roll, traffic
from tests.unit.test_golden import facts, shown
from tests.unit.test_roles import Register, register

__all__ = ["register"]

GOLDEN = Path(__file__).parent / "another_engine.plan"
INVENTORY = """
all:
  vars: {nginx: {accept_known_vulnerabilities: true}}
  children:
    gpu:
      hosts:
        gpu-01: {ansible_host: 10.0.0.11, echo: {instances: [{gpus: [0]}, {gpus: [1]}]}}
        gpu-02: {ansible_host: 10.0.0.12, GPU_02}
    balancer: {hosts: {lb-01: {ansible_host: 10.0.0.5}}}
"""
SAME = "echo: {instances: [{gpus: [0]}]}"
SHARED = re.compile(rf"{re.escape(instance_paths.FOLDER)}\b|{re.escape(instance_paths.PROGRAMS)}")
WORDS = re.compile("ollama|/api/|11434", re.IGNORECASE)


@pytest.fixture(autouse=True)
def echo(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    """List the engine, and its role before that of the models."""
    register("echo", "models", **ROLE)
    monkeypatch.setitem(engines.ENGINES, ECHO.name, ECHO)


def load(folder: Path, second: str = SAME) -> Inventory:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.replace("GPU_02", second))
    return role_interface.load(str(path))


def entries(inventory: Inventory) -> list[tuple[str, Entry]]:
    """Every step that has to do with instances, with its host."""
    found = ((host, entry) for host in inventory.hosts for entry in role_interface.steps(host, inventory))
    chosen = ("echo", "models", "balancer")
    return [(host.name, e) for host, e in found if e.role in chosen or e.step.id in ("require:cards", UNIT)]


UNIT = "unit:provision-nginx.service"
NO_APT = Path("none.apt")


def test_the_plan_is_as_it_was(tmp_path: Path) -> None:
    text = "".join(
        f"{name}{line}\n" for name, entry in entries(load(tmp_path)) for line in shown(entry, facts(name, NO_APT))
    )
    if os.environ.get("PROVISION_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def told(command: Any) -> str:
    """All that a host gets of a command."""
    if isinstance(command, Put):
        return f"{command.path}\n{command.content.decode()}"
    assert isinstance(command, Run)
    return "\n".join([*command.words, command.stdin.decode(), command.title])


def test_commands_for_a_host_have_no_word_of_another_engine(tmp_path: Path) -> None:
    texts = []
    for name, entry in entries(load(tmp_path)):
        step, known = entry.step, facts(name, NO_APT)
        try:
            want = step.want(known, None)
        except (BlockedError, RefusalError):
            continue
        commands = [*step.commands(None, want), *(step.commands(want, None) if want else ())]
        if want and "answers" in want:
            commands += step.commands({**want, "answers": "no"}, want)
        reads = [read for read in (step.fact().command,) if read != inspect.command()]
        texts += [*map(told, [*commands, *reads]), json.dumps(want, default=str), step.impact(None, want)]
    assert len(texts) > 50
    assert [text for text in texts if WORDS.search(SHARED.sub("", text))] == []


def test_the_script_that_starts_instances_at_boot_waits_as_long_as_the_engine_says() -> None:
    text = boot.instances_script(ECHO).decode()
    subprocess.run(["sh", "-n"], input=text.encode(), check=True)
    assert 'ready "$name" "$at" 1800 || return\n}' in text
    assert '"http://$2/health"' in text


DOCKER = """#!/bin/sh
case $1 in
  ps) printf '0a1b\\n2c3d\\n' ;;
  inspect) cat "$FOLDER/containers" ;;
esac
"""
CURL = """#!/bin/sh
for word do
  case $word in
    http://10.*) echo "$word" >>"$FOLDER/asked"; printf '{"models":"%s"}\\n0 200 \\n' "$word" ;;
  esac
done
"""


def item(name: str, number: str, port: str, **labels: str) -> dict[str, Any]:
    known = {"provision.managed": "1", "provision.instance": name, **labels}
    common = dict.fromkeys(("requests", "devices", "restart", "log", "host", "config", "env", "memory", "cpus", "pids"))
    ports = {f"{port}/tcp": [{"HostIp": "10.0.0.11", "HostPort": "3001"}]}
    more = {"mounts": [], "privileged": False, "visible": [None], "networks": ["bridge"], "runtime": "runc"}
    names = {"id": number, "name": f"/{name}", "status": "running", "image": "x:1", "image_id": "sha256:1"}
    return {**common, **more, **names, "labels": known, "ports": ports, "started": "now"}


@pytest.fixture
def looked(tmp_path: Path) -> tuple[inspect.Docker, list[str]]:
    """What the look finds of a container of each engine, and which addresses it asks."""
    texts = {"docker": DOCKER, "curl": CURL, "systemctl": "#!/bin/sh\necho active\n", "nvidia-smi": "#!/bin/sh\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    lines = [
        json.dumps(item("echo1", "0a1b", "8000", **{"provision.engine": "echo"})),
        "@ running 0a1b 1 10.0.0.1:3001 sha256:1 -echo /x",
        json.dumps(item("ollama1", "2c3d", "11434")),
        "@ running 2c3d 1 10.0.0.2:3001 sha256:1 - /y",
    ]
    (tmp_path / "containers").write_text("\n".join(lines) + "\n")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FOLDER": str(tmp_path)}
    command = inspect.command()
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, env=environment, check=False)
    found = inspect.read(Answer(done.returncode, done.stdout, done.stderr))
    return found, sorted((tmp_path / "asked").read_text().splitlines())


def test_the_read_of_docker_asks_each_instance_the_paths_of_its_engine(
    looked: tuple[inspect.Docker, list[str]],
) -> None:
    found, asked = looked
    assert asked == [
        "http://10.0.0.1:3001/health",
        "http://10.0.0.1:3001/v1/models",
        "http://10.0.0.2:3001/api/ps",
        "http://10.0.0.2:3001/api/tags",
        "http://10.0.0.2:3001/api/version",
    ]
    said = {name: item["replies"] for name, item in found.containers.items()}
    assert {name: len(bodies) for name, bodies in said.items()} == {"echo1": 1, "ollama1": 2}
    assert "/v1/models" in said["echo1"][0]


def test_the_read_of_docker_has_the_engine_and_the_port_of_a_container() -> None:
    script = inspect.command().stdin.decode()
    assert '"8000/tcp"' in script
    assert '{{if eq (index .Config.Labels "provision.engine") "echo"}}echo{{end}}' in script
    assert '{{if eq .Destination "/root/.ollama" "/var/echo"}}' in script


def test_each_engine_finds_its_own_containers(looked: tuple[inspect.Docker, list[str]]) -> None:
    found, _ = looked
    owned = {engine.name: OwnedContainers(engine=engine)._pick(found) for engine in (ECHO, OLLAMA)}
    assert {name: sorted(states or {}) for name, states in owned.items()} == {
        "echo": ["container:echo1"],
        "ollama": ["container:ollama1"],
    }
    state = (owned["echo"] or {})["container:echo1"]
    assert (state["publish"], state["options"]) == (["10.0.0.11:3001"], [])
    assert list(server_state._servers(found).by_name) == ["ollama1"]


def test_an_instance_proves_itself_by_the_test_of_its_engine(tmp_path: Path) -> None:
    host = load(tmp_path).hosts[0]
    own = traffic(roll(tmp_path, host, roles=frozenset({"echo"})), host)
    own.admission.prove("echo1")
    assert isinstance(own.admission.session, FakeSession)
    assert own.admission.session.ran == [readiness("echo1", ["parrot"])]


def test_a_balancer_has_the_client_paths_of_the_engine_behind(tmp_path: Path) -> None:
    steps = [entry.step for _, entry in entries(load(tmp_path))]
    [step] = [step for step in steps if isinstance(step, Balancing)]
    assert (step.engine, step.spelled) == (ECHO, {"parrot": "parrot"})
    want = step.want(facts("lb-01", NO_APT), None)
    assert want is not None
    site = want["files"]["site.conf"].data.decode()
    assert re.findall(r"location (?:= )?(\S+) \{\n +proxy_pass (\S+);", site) == [
        ("/health", "http://echo/health"),
        ("/tokenize", "http://echo/tokenize"),
        ("/v1/", "http://echo/v1/"),
    ]
    routes = want["files"]["models.conf"].data.decode()
    assert "location = /models/parrot/tokenize {\n    proxy_pass http://echo/tokenize;" in routes
    assert "location ~" not in routes, "the engine has no paths with errors of its own form"
    assert b"upstream echo {\n    # model: parrot\n    zone echo " in want["files"]["upstream.conf"].data


def test_a_wrong_listen_address_is_refused_under_the_setting_of_the_engine(tmp_path: Path) -> None:
    inventory = load(tmp_path, "echo: {listen_address: 10.9.9.9, instances: [{gpus: [0]}]}")
    guard = next(entry.step for name, entry in entries(inventory) if (name, entry.step.id) == ("gpu-02", GUARD))
    with pytest.raises(RefusalError, match=r"^echo\.listen_address 10\.9\.9\.9 is no address of this host"):
        guard.want(facts("gpu-02", NO_APT), {})


GUARD = "guard:instances"


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        (
            f"{SAME}, ollama: {{instances: [{{gpus: [1]}}]}}",
            "hosts.gpu-02.echo.instances: gpu-02 has instances of ollama too: a host serves with one engine",
        ),
        (
            "ollama: {instances: [{gpus: [1]}]}",
            "hosts.lb-01.balancer: would send a request to instances of Echo and Ollama alike",
        ),
        ("echo: {image: x}", "hosts.gpu-02.ollama.instances: gpu-02 is in the group gpu and has no instance"),
    ],
)
def test_mixed_engines_are_refused_with_the_path_of_the_key(tmp_path: Path, second: str, problem: str) -> None:
    with pytest.raises(InventoryError) as refused:
        load(tmp_path, second)
    assert problem in str(refused.value)


def test_the_role_of_a_hosts_engine_declares_its_instances(tmp_path: Path) -> None:
    inventory = load(tmp_path)
    assert {role_interface.declaring(host) for host in inventory.hosts if host.gpu} == {"echo"}
    assert role_interface.declaring(inventory.host("lb-01")) == "ollama", "nothing is declared there"
