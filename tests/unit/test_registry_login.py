"""Logins of image registries: the file for Docker's client, the pull, and the question for the size of an image."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from provision.command import Put
from provision.errors import InventoryError
from provision.inventory import Inventory, Secret, masked
from provision.plan import role_interface
from provision.plan.planner import make_change
from provision.steps.docker import image, image_room
from provision.steps.docker.registry_login import RegistryLogin, registry_of
from tests.unit.test_hostile import FACTS

CANARY = "zq9canary pass:word"
FLEET = """
all:
  vars:
    nginx: {accept_known_vulnerabilities: true}
    docker: {registries: {REGISTRIES}}
    ollama: {models: [deepseek-r1:1.5b], image: "IMAGE"}
  children: {gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}}}}
"""
OWN = "registry.test:5000"
LOGIN = f'{{"{OWN}": {{username: bot, password: !env REGISTRY_PASSWORD}}}}'


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that reads the inventory of these tests."""
    monkeypatch.setenv("REGISTRY_PASSWORD", CANARY)

    def read(registries: str = LOGIN, reference: str = f"{OWN}/ollama/ollama:1") -> Inventory:
        path = tmp_path / "inventory.yaml"
        path.write_text(FLEET.replace("{REGISTRIES}", registries).replace("IMAGE", reference))
        return role_interface.load(str(path))

    return read


def steps(inventory: Inventory) -> dict:
    return {entry.step.id: entry.step for entry in role_interface.steps(inventory.hosts[0], inventory)}


def test_a_login_is_in_one_file_for_root_alone_and_in_no_word_of_a_command(load):
    inventory = load()
    found = steps(inventory)
    step = found[f"registry_login:{image_room.LOGINS}"]
    auth = base64.b64encode(f"bot:{CANARY}".encode()).decode()
    assert json.loads(step.content) == {"auths": {OWN: {"auth": auth}}}
    change = make_change(role_interface.Entry("docker", step), None, step.want(FACTS, None))
    assert [command.mode for command in change.commands if isinstance(command, Put)] == [0o600]
    shown = [step, change.diff, change.reason, *map(str, change.commands), masked.show(inventory), inventory.hosts]
    assert f"login for {OWN}" in change.diff
    for text in map(str, shown):
        assert "zq9canary" not in text
        assert auth not in text
    pull = found[f"image:{OWN}/ollama/ollama:1"].commands(None, {"tag": image.AS_PULLED})[0]
    assert pull.words[-1] == "/etc/provision/docker/login"
    assert CANARY in {secret.reveal() for secret in inventory.hosts[0].secrets()}


def test_an_image_of_another_registry_is_pulled_as_before_and_the_check_says_so(load):
    inventory = load(reference="ollama/ollama:1")
    pull = steps(inventory)["image:ollama/ollama:1"].commands(None, {"tag": image.AS_PULLED})[0]
    assert "/etc/provision/docker/login" not in pull.words
    assert f"no image comes from {OWN}" in inventory.advice["docker"][0]
    assert "docker" not in load().advice


def test_without_a_login_there_is_no_file(load):
    assert not [step_id for step_id in steps(load("{}")) if step_id.startswith("registry_login:")]


def test_docker_hub_has_its_own_name_in_the_file():
    step = RegistryLogin.of({"docker.io": ("u", Secret("p")), "ghcr.io": ("u", Secret("q"))})
    assert list(json.loads(step.content)["auths"]) == ["https://index.docker.io/v1/", "ghcr.io"]
    assert [registry_of(name) for name in ("ollama/ollama:1", "docker.io/x", "ghcr.io/a/b", f"{OWN}/a@sha256:0")] == [
        *("docker.io", "docker.io", "ghcr.io", OWN)
    ]


@pytest.mark.parametrize(
    ("registries", "path"),
    [
        ("{r.test: {username: 'a:b', password: canary}}", 'all.vars.docker.registries."r.test".username'),
        ("{r.test: {username: '', password: canary}}", 'all.vars.docker.registries."r.test".username'),
        ("{r.test: {username: a, password: ''}}", 'all.vars.docker.registries."r.test".password'),
        ('{r.test: {username: a, password: "canary\\n"}}', 'all.vars.docker.registries."r.test".password'),
        ("{r.test: {username: a}}", 'all.vars.docker.registries."r.test".password'),
        ("{r.test: {username: a, password: [canary]}}", 'all.vars.docker.registries."r.test".password'),
        ("{'http://r.test': {username: a, password: canary}}", 'all.vars.docker.registries."http://r.test"'),
    ],
)
def test_a_wrong_login_is_refused_with_its_key_and_without_its_password(load, registries, path):
    with pytest.raises(InventoryError) as refused:
        load(registries)
    assert [problem.path for problem in refused.value.problems] == [path]
    assert "canary" not in str(refused.value.problems[0])


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def run(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-eu", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin", "HERE": str(folder)},
    )


@pytest.mark.parametrize(("word", "said"), [("/some/folder", "--config /some/folder pull a/b:1"), ("", "pull a/b:1")])
def test_a_pull_reads_the_file_of_logins(tmp_path, word, said):
    program(tmp_path, "docker", 'echo "$*" >>"$HERE/said"')
    done = run(tmp_path, image.PULL.replace(image.MARKS, f"{tmp_path}/images"), "a/b:1", "mark", "1", word)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text().splitlines()[0] == said


# A registry in front of curl: it answers by the headers in the files that curl is given, and records them.
CURL = r"""
out= head= url=
while [ $# -gt 0 ]; do
  case $1 in
    -o) out=$2; shift ;; -D) head=$2; shift ;; -H) cat "${2#@}" >>"$HERE/headers" 2>/dev/null; sent=${2#@}; shift ;;
    http*) url=$1 ;;
  esac
  shift
done
echo "$url" >>"$HERE/asked"
case $url in
  */token) echo '{"token": "abc"}' >"$out"; exit 0 ;;
esac
if grep -q '^Authorization: ' "$sent"; then
  echo '{"layers": [{"digest": "sha256:1", "size": 7}]}' >"$out"; printf 200
else
  printf 'WWW-Authenticate: %s\n' "$(cat "$HERE/challenge")" >"$head"; printf 401
fi
"""
BEARER = 'Bearer realm="https://auth.test/token",service="here"'


@pytest.mark.parametrize(
    ("base", "challenge", "is_sent"),
    [
        (f"https://{OWN}", 'Basic realm="x"', True),
        (f"https://{OWN}", BEARER, True),
        ("https://other.test", BEARER, False),
        (f"http://{OWN}", BEARER, False),
        (image_room.HUB, BEARER, True),
    ],
    ids=["basic", "bearer", "another registry", "plain http", "Docker Hub"],
)
def test_a_size_is_asked_with_the_login_of_its_registry_alone(tmp_path, base, challenge, is_sent):
    step = RegistryLogin.of({OWN: ("bot", Secret(CANARY)), "docker.io": ("bot", Secret(CANARY))})
    (tmp_path / "logins").write_bytes(step.content)
    (tmp_path / "challenge").write_text(challenge)
    program(tmp_path, "curl", CURL)
    run(tmp_path, image_room.SIZE.replace(image_room.LOGINS, f"{tmp_path}/logins"), "a/b", "1", base)
    auth = base64.b64encode(f"bot:{CANARY}".encode()).decode()
    assert (f"Authorization: Basic {auth}" in (tmp_path / "headers").read_text()) is is_sent
    assert auth not in (tmp_path / "asked").read_text()


def test_the_size_of_a_private_image_is_known(tmp_path):
    (tmp_path / "logins").write_bytes(RegistryLogin.of({OWN: ("bot", Secret(CANARY))}).content)
    program(tmp_path, "curl", CURL)
    for challenge in ('Basic realm="x"', BEARER):
        (tmp_path / "challenge").write_text(challenge)
        script = image_room.SIZE.replace(image_room.LOGINS, f"{tmp_path}/logins")
        done = run(tmp_path, script, "a/b", "1", f"https://{OWN}")
        assert json.loads(done.stdout)["layers"][0]["size"] == 7, done.stderr
