"""A Docker network for each instance: names, pools, and the scripts against programs that stand in for Docker."""

import dataclasses
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.command import Run
from provision.roles import ollama as role
from provision.roles.ollama_settings import Settings
from provision.steps.base import RefusalError
from provision.steps.docker import isolation
from provision.steps.docker.firewall import COMMAND, ISOLATED, Firewall
from provision.steps.docker.inspect import Docker
from provision.steps.docker.network import (
    CREATE,
    REMOVE,
    Network,
    instance_of,
    interface,
    network_name,
    pool_complaint,
    subnets,
)
from provision.steps.facts import HostFacts
from provision.steps.instance.container import Container
from provision.steps.ollama.engine import OLLAMA

NAME = "ollama1.10.213.0.0-27"
STEP = Network(name=NAME)


@given(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,62}", fullmatch=True), st.integers(0, 255), st.integers(16, 28))
def test_a_name_leads_back_to_the_instance_and_the_pool(instance: str, block: int, prefix: int) -> None:
    name = network_name(instance, f"10.{block}.0.0/{prefix}")
    assert instance_of(name) == instance
    assert subnets(name)[0] == f"10.{block}.0.0/28"
    assert len(subnets(name)) == min(2 ** (28 - prefix), 256)
    assert len(interface(name)) <= 15


@given(st.text(max_size=40))
def test_any_other_name_has_no_subnets(name: str) -> None:
    assert instance_of(name) == "" or isinstance(subnets(name), tuple)


@pytest.mark.parametrize("name", ["bridge", "side.10.0.0.0", "x.999.0.0.0-24", "x.10.0.0.1-24", "x.10.0.0.0-30"])
def test_a_name_without_a_good_pool_has_no_subnets(name: str) -> None:
    assert subnets(name) == ()


@pytest.mark.parametrize(
    ("pool", "instances", "complaint"),
    [
        ("10.213.0.0/24", 8, ""),
        ("10.213.0.0/28", 1, ""),
        ("10.213.0.0/29", 1, "must have room for a /28"),
        ("10.213.0.0/27", 3, "has room for 2 networks of /28, and the host has 3 instances"),
        ("8.8.8.0/24", 1, "must be a private network"),
        ("127.0.0.0/8", 1, "must be a private network"),
        ("0.0.0.0/0", 1, "must be a private network"),
        ("192.0.2.0/24", 1, "must be a private network"),
        ("100.64.0.0/16", 1, "must be a private network"),
        ("240.0.0.0/8", 1, "must be a private network"),
    ],
)
def test_a_pool_is_private_and_has_room(pool: str, instances: int, complaint: str) -> None:
    found = pool_complaint(pool, instances)
    assert found.startswith(complaint) if complaint else found == ""


def test_the_settings_name_the_key_of_a_pool_without_room() -> None:
    settings = Settings(network_pool="10.213.0.0/28", instances=[{"gpus": [0]}, {"gpus": [1]}])  # type: ignore[arg-type,list-item]
    assert [path for path, _ in settings.problems()] == [("network_pool",)]


@pytest.mark.parametrize(
    "facts",
    [
        HostFacts(interfaces={"10.213.0.9": "eth0", "10.213.0.17": interface(NAME)}),
        HostFacts(resolved={"lb-01": "10.213.0.9"}),
    ],
)
def test_a_pool_with_an_address_of_the_site_is_refused(facts: HostFacts) -> None:
    with pytest.raises(RefusalError) as refused:
        STEP.want(facts, None)
    assert "10.213.0.9" in str(refused.value)
    ours = HostFacts(interfaces={"10.213.0.17": interface(NAME)}, resolved={"lb-01": "10.9.0.1"})
    assert STEP.want(ours, None) == {"ours": True, "apart": True}


def run(folder: Path, script: str, docker: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a script with a program in the place of Docker's client."""
    (folder / "docker").write_text(f'#!/bin/sh\necho "$*" >>"$FOLDER/asked"\n{docker}\n')
    (folder / "docker").chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "FOLDER": str(folder)}
    text = f"set -eu\n{script}"
    return subprocess.run(["sh", "-s", "--", *words], input=text, env=env, capture_output=True, text=True, check=False)


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


TAKEN = 'case "$*" in *0.0/28*) echo "Error: Pool overlaps with other one on this address space" >&2; exit 1 ;; esac'


def test_a_taken_subnet_leads_to_the_next(tmp_path: Path) -> None:
    done = run(tmp_path, CREATE, TAKEN, NAME, interface(NAME), *subnets(NAME))
    assert done.returncode == 0, done
    assert ["10.213.0.0/28" in asked(tmp_path)[0], "10.213.0.16/28" in asked(tmp_path)[1]] == [True, True]
    words = asked(tmp_path)[1]
    assert words.endswith(f"--opt com.docker.network.bridge.name={interface(NAME)} -- {NAME}")
    assert " --label provision.managed=1 " in words


def test_a_full_pool_and_an_error_of_docker_are_told(tmp_path: Path) -> None:
    full = run(tmp_path, CREATE, "echo 'Pool overlaps' >&2; exit 1", NAME, interface(NAME), *subnets(NAME))
    assert (full.returncode, full.stderr) == (1, "no subnet of the pool is free: Pool overlaps\n")
    (tmp_path / "asked").unlink()
    ill = run(tmp_path, CREATE, "echo 'no daemon' >&2; exit 1", NAME, interface(NAME), *subnets(NAME))
    assert (ill.returncode, ill.stderr, len(asked(tmp_path))) == (1, "no daemon\n", 1)


@pytest.mark.parametrize(("user", "code"), [("ollama1.PREVIOUS", 1), ("", 0)])
def test_a_network_stays_as_long_as_a_stopped_container_needs_it(tmp_path: Path, user: str, code: int) -> None:
    done = run(tmp_path, REMOVE, f'case $1 in ps) [ -z "{user}" ] || echo "{user}" ;; esac', NAME)
    assert done.returncode == code
    assert user in done.stderr
    assert [line.split()[:2] for line in asked(tmp_path)][1:] == ([] if code else [["network", "rm"]])


def host(stdout: str) -> Any:
    """Return a host on which the question from inside has an answer."""
    words: list[tuple[str, ...]] = []

    def run(*said: str) -> Any:
        words.append(said)
        return SimpleNamespace(rc=0, stdout=stdout, stderr="")

    return SimpleNamespace(run=run, words=words)


RUNNING = {"status": "running", "labels": {"provision.managed": "1"}}
TWO = {
    "ollama1": {**RUNNING, "ports": {"11434/tcp": []}},
    "ollama2": {
        **RUNNING,
        "ports": {"11434/tcp": [{"HostIp": "10.0.0.11", "HostPort": "3002"}]},
        "attached": [["10.213.0.18", "10.213.0.17"], None],
    },
    "foreign": {"status": "running", "labels": {}, "ports": {"80/tcp": [{"HostIp": "10.0.0.11", "HostPort": "80"}]}},
}


ITSELF = "127.0.0.1:11434\n"


@pytest.mark.parametrize(
    ("stdout", "passed"),
    [(ITSELF, True), (f"10.0.0.11:3002\n{ITSELF}", False), ("", False), ("10.0.0.11:3002\n", False)],
)
def test_an_instance_asks_itself_and_both_addresses_of_every_other(stdout: str, passed: bool) -> None:
    live = host(stdout)
    apart, reaches = STEP.proofs(live, Docker(containers=TWO))
    assert not apart.passed, "Docker has no such network"
    assert reaches.passed is passed
    asked = live.words[0][2:]
    assert asked == ("ollama1", "127.0.0.1", "11434", "10.0.0.11", "3002", "10.213.0.18", "11434")


def test_a_past_container_needs_its_own_network() -> None:
    step = Container(name="ollama1", engine=OLLAMA, image="x:1", gpus=(0,), port=3001, address="127.0.0.1")
    needed = [other.id for other in step.needs({"image": "x:1", "network": f"{NAME} (removed)"})]
    assert needed == ["image:x:1", f"network:{NAME}"]
    assert [other.id for other in step.needs({"image": "x:1", "network": "bridge"})] == ["image:x:1"]


WALL = Firewall(ports=(3001,), inside=11434, address="10.0.0.11", admit=())
APART = dataclasses.replace(WALL, bridges=(interface(NAME),))


def scripts(wall: Firewall, have: Any, want: Any) -> list[str]:
    """Return the names of the scripts of a change."""
    return [command.script for command in wall.commands(have, want) if isinstance(command, Run)]


def test_a_rollback_puts_the_rules_between_instances_back_and_takes_them_away() -> None:
    plain, apart = WALL.want(HostFacts(), None), APART.want(HostFacts(), None)
    assert plain
    assert apart
    assert (APART.fact().command, WALL.fact().command) == (ISOLATED, COMMAND)
    assert WALL.restored_fact(apart).command == ISOLATED
    back = WALL.restore(HostFacts(), plain, apart)
    assert back
    assert back["entered"] is True
    assert scripts(WALL, plain, back) == ["docker/fill-chain-and-enter"]
    away = APART.restore(HostFacts(), apart, plain)
    assert away
    assert not isolation.is_isolated(away)
    assert scripts(APART, apart, away) == ["docker/fill-chain-and-leave"]


def test_a_port_of_loopback_needs_no_rule_between_instances() -> None:
    local = dataclasses.replace(APART, address="127.0.0.1")
    assert not [rule for rule in local.rules(HostFacts()) if rule.startswith("-i pvn-+")]
    assert [rule for rule in APART.rules(HostFacts()) if rule.startswith("-i pvn-+")]


def test_the_role_finds_networks_after_previous_containers() -> None:
    kinds = [type(finder).__name__ for finder in role.OWNED]
    assert kinds.index("OwnedNetworks") > max(kinds.index("OwnedPrevious"), kinds.index("OwnedContainers"))


def test_a_rollback_to_a_time_without_networks_takes_the_jump_of_input_away() -> None:
    """The state before had INPUT read, without our jump: the jump was not the wish of that time."""
    wall = Firewall(ports=(3001,), inside=11434, address="10.0.0.11", admit=("10.0.0.5/32",), bridges=("pvn-0a1b2c3d",))
    plain = dataclasses.replace(wall, bridges=())
    now = {**(wall.want(HostFacts(), None) or {})}
    before = {**(plain.want(HostFacts(), None) or {}), "entered": False}
    for step in (wall, plain):
        want = step.restore(HostFacts(), now, before)
        assert want is not None
        assert "entered" not in want
        (command,) = step.commands(now, want)
        assert isinstance(command, Run)
        assert isolation.LEAVE in command.stdin.decode()
