"""The firewall of the instances: the rules in the words of a real kernel, the check, and the removal."""

import dataclasses
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from provision.command import Run
from provision.errors import InventoryError
from provision.plan import role_interface
from provision.plan.planner import plan_host
from provision.roles import ollama as role
from provision.steps.base import Answer, BlockedError
from provision.steps.docker import inspect
from provision.steps.docker.firewall import COMMAND, SCRIPT, Firewall, OwnedFirewall, direct
from provision.steps.facts import Attachment, HostFacts
from tests.unit.step_cases import TESTS

MATCH = "-p tcp -m conntrack --ctorigdst 10.0.0.11 --ctorigdstport 3001 --ctdir ORIGINAL"
LETS_IN = f"-s 10.0.0.5/32 {MATCH} -j RETURN"
REJECTS = f"{MATCH} -j REJECT --reject-with tcp-reset"
DIRECT = direct(11434)
ON_ANOTHER = HostFacts(
    interfaces={"172.17.0.1": "docker0", "10.66.0.1": "br-1a"},
    attached=(Attachment("ollama1", "172.17.0.2", "172.17.0.1"), Attachment("ollama1", "10.66.0.2", "10.66.0.1")),
)
AROUND = (DIRECT, direct(11434, "br-1a"))
WALL = Firewall(ports=(3001,), inside=11434, address="10.0.0.11", admit=("10.0.0.5/32",))


def live(*rules: str, first: str = "-A DOCKER-USER -j PROVISION", forward: str = "-A FORWARD -j DOCKER-USER") -> Any:
    """Return a host with some rules in our chain, and the unchanged file of rules."""
    said = [first, "-N PROVISION", *(f"-A PROVISION {rule}" for rule in rules), "-P FORWARD DROP", forward]
    text = "\n".join([*said, "# file", LETS_IN, REJECTS, DIRECT, direct(11434, "br-1a"), ""])
    answer = SimpleNamespace(rc=0, stdout=text, stderr="")
    return SimpleNamespace(run=lambda *words: answer, backend=SimpleNamespace(facts=ON_ANOTHER))


def failed(host: Any) -> list[str]:
    return [check.name for check in WALL.check(host) if not check.passed]


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (live(LETS_IN, REJECTS, *AROUND), []),
        (live(*AROUND), ["ports closed to others"]),
        (live(LETS_IN, REJECTS, DIRECT), ["ways around the published ports"]),
        (live(f"-s 1.2.3.4/32 {MATCH} -j RETURN", LETS_IN, REJECTS, *AROUND), ["foreign rules among ours"]),
        (live(f"{MATCH} -j RETURN", LETS_IN, REJECTS, *AROUND), ["foreign rules among ours"]),
        (live(LETS_IN, REJECTS, *AROUND, forward=""), ["FORWARD leads to DOCKER-USER"]),
        (live(LETS_IN, REJECTS, *AROUND, first="-A DOCKER-USER -j ACCEPT"), ["first rule of DOCKER-USER"]),
    ],
)
def test_the_check_finds_missing_and_foreign_rules(host: Any, names: list[str]) -> None:
    assert failed(host) == names


def test_the_rule_about_addresses_of_containers_closes_no_published_port() -> None:
    wall = dataclasses.replace(WALL, ports=(11434,))
    rejects = REJECTS.replace("3001", "11434")
    found = [{check.name: check.got for check in wall.check(live(*rules))} for rules in ([DIRECT], [rejects, DIRECT])]
    assert [checks["ports closed to others"] for checks in found] == [[], [11434]]


def test_admitting_everybody_is_a_rule_without_a_source() -> None:
    wall = Firewall(ports=(3001,), inside=11434, address="10.0.0.11", admit=("0.0.0.0/0",))
    assert wall.rules(HostFacts()) == [f"{MATCH} -j RETURN", REJECTS, DIRECT]


def test_the_chain_goes_after_the_containers() -> None:
    case = yaml.safe_load((TESTS / "facts/OwnedContainers/only_ours.yaml").read_text())
    docker = case["stdout"].replace("# volumes", '# volumes\n{"name":"ollama1","labels":"provision.managed=1"}')
    rules = f"-N DOCKER-USER\n-A DOCKER-USER -j PROVISION\n-N PROVISION\n-A PROVISION {REJECTS}\n# end\n"
    answers: dict[Run, Answer] = {
        COMMAND: Answer(0, rules.encode(), b""),
        inspect.command(): Answer(0, docker.encode(), b""),
    }
    kinds = (OwnedFirewall, role.OwnedContainers, role.OwnedVolumes)
    finders = [("ollama", finder) for finder in role.OWNED if isinstance(finder, kinds)]
    plan = plan_host([], frozenset(), finders, HostFacts(), answers)
    assert [change.step.id for change in plan.changes] == [
        "container:ollama1",
        "firewall:DOCKER-USER",
        "volume:ollama1",
    ]


def wall(port: int) -> list[str]:
    """Return the rules of a port."""
    return [rule.replace("3001", str(port)) for rule in (LETS_IN, REJECTS)]


MOVED = dataclasses.replace(WALL, ports=(3101,))


def publishing(*places: str) -> HostFacts:
    return HostFacts(published=places)


def test_a_port_stays_closed_until_no_container_of_ours_publishes_it() -> None:
    before = publishing("10.0.0.11:3001")
    wanted = MOVED.want(before, None)
    assert wanted is not None
    assert wanted["rules"] == [*wall(3101), *wall(3001), DIRECT]
    assert MOVED.content(before).decode().count("REJECT") == 3, "a boot before the change fills the chain from the file"
    after = publishing("10.0.0.11:3101")
    assert MOVED.rules(after) == [*wall(3101), DIRECT]
    assert "3001" not in MOVED.content(after).decode()


def test_a_former_address_stays_closed_too() -> None:
    found = dataclasses.replace(WALL, address="10.0.0.12").rules(publishing("10.0.0.11:3001"))
    assert found[2:] == [*wall(3001), DIRECT]


def test_a_port_on_loopback_is_closed_to_everybody_on_the_link() -> None:
    local = dataclasses.replace(WALL, address="127.0.0.1", admit=("0.0.0.0/0", "10.9.0.0/16"))
    rejects = REJECTS.replace("10.0.0.11", "127.0.0.1")
    assert local.rules(HostFacts()) == [rejects, DIRECT]
    assert WALL.rules(publishing("127.0.0.1:3001")) == [*wall(3001), rejects, DIRECT], (
        "closed until the container moves"
    )


def test_every_bridge_with_a_container_of_ours_is_closed() -> None:
    assert WALL.rules(ON_ANOTHER)[2:] == list(AROUND)
    declared = dataclasses.replace(WALL, bridge="br0")
    assert declared.rules(HostFacts())[2:] == [direct(11434, "br0")], "before a container of ours runs there"
    then = {"forwarded": True, "ahead": [], "first": True, "rules": [*wall(3001), DIRECT]}
    back = WALL.restore(ON_ANOTHER, None, then)
    assert back is not None
    assert back["rules"] == [*wall(3001), *AROUND]


def test_the_diff_has_each_rule_to_add_and_to_remove() -> None:
    have = {"forwarded": True, "ahead": [], "first": True, "rules": [*wall(3001), "-j ACCEPT"]}
    assert WALL.diff(have, WALL.want(HostFacts(), have)) == ["- -j ACCEPT", f"+ {DIRECT}"]
    turned = {**have, "rules": [DIRECT, *wall(3001)]}
    [line] = WALL.diff(turned, WALL.want(HostFacts(), turned))
    assert line.startswith("rules: "), "only the order differs"


@pytest.mark.parametrize("name", ["", "br 1", "br0 -j ACCEPT", "a" * 16])
def test_a_name_that_is_no_interface_gets_no_rule(name: str) -> None:
    assert dataclasses.replace(ON_ANOTHER, interfaces={"10.66.0.1": name}).bridges == ()


@pytest.mark.parametrize("place", ["0.0.0.0:3001", "::1:3001", "x:y", "10.0.0.11:x", "10.0.0.11:3101"])
def test_other_published_addresses_get_no_rules(place: str) -> None:
    assert MOVED.rules(publishing(place)) == [*wall(3101), DIRECT]


def test_the_chain_is_known_later_if_docker_cannot_be_asked() -> None:
    with pytest.raises(BlockedError, match="service:docker"):
        MOVED.want(HostFacts(published=None), None)


def test_a_rollback_keeps_a_port_closed_too() -> None:
    then = {"forwarded": True, "ahead": [], "first": True, "rules": wall(3001)}
    first = MOVED.restore(publishing("10.0.0.11:3101"), None, then)
    assert first is not None
    assert first["rules"] == [*wall(3001), *wall(3101), DIRECT]
    assert MOVED.restore(publishing("10.0.0.11:3001"), None, then) == {**then, "rules": [*wall(3001), DIRECT]}


def test_a_rollback_puts_no_foreign_rule_before_ours() -> None:
    then = {"forwarded": True, "ahead": ["-j ACCEPT"], "first": True, "rules": [*wall(3101), DIRECT]}
    assert MOVED.restore(publishing("10.0.0.11:3101"), None, then) == {**then, "ahead": []}


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_admitted_networks_are_refused_where_instances_listen_on_loopback(tmp_path: Path, address: str) -> None:
    said = f"listen_address: {address}, " if address else ""
    text = (
        "{{all: {{vars: {{nginx: {{accept_known_vulnerabilities: true}}}}}},"
        " gpu: {{hosts: {{gpu-01: {{ollama: {{{0}admit: [10.1.0.0/16], instances: [{{gpus: [0]}}]}}}}}}}}{1}}}"
    )
    path = tmp_path / "inventory.yaml"
    path.write_text(text.format(said, ""))
    with pytest.raises(InventoryError) as refused:
        role_interface.load(str(path))
    [problem] = refused.value.problems
    assert str(problem).startswith(f"{path}:1: gpu.hosts.gpu-01.ollama.admit")
    assert "would have no effect: the instances of gpu-01 listen on 127.0.0.1" in problem.message
    assert "set ollama.listen_address" in problem.message
    path.write_text(text.format("listen_address: 10.0.0.11, ", ""))
    assert role_interface.load(str(path)), "the declared address is the way of these networks"
    if not address:
        path.write_text(text.format("", ", balancer: {hosts: {lb-01: }}"))
        assert role_interface.load(str(path)), "another host balances, so the instances listen on an address"


INCOMPATIBLE = "iptables v1.8.9 (nf_tables): chain `{}' in table `filter' is incompatible, use 'nft' tool."
ABSENT = "iptables: No chain/target/match by that name."
SAVED = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{}COMMIT\n"


@pytest.mark.parametrize(
    ("said", "saved", "code"),
    [
        (ABSENT, "", 0),
        (INCOMPATIBLE, SAVED.format(""), 0),  # Debian 12 without Docker
        (INCOMPATIBLE, SAVED.format(":DOCKER-USER - [0:0]\n:PROVISION - [0:0]\n"), 76),
        (INCOMPATIBLE, "# Table `filter' is incompatible, use 'nft' tool.\n", 76),
        (INCOMPATIBLE, "", 76),
        ("Another app is currently holding the xtables lock", SAVED.format(""), 76),
    ],
)
def test_a_chain_is_absent_only_where_iptables_proves_it(tmp_path: Path, said: str, saved: str, code: int) -> None:
    (tmp_path / "saved").write_text(saved)
    (tmp_path / "said").write_text(said.format("DOCKER-USER"))
    fakes = {
        "iptables": 'case "$*" in *FORWARD) echo "-P FORWARD ACCEPT" ;; *) cat "$FAKES/said" >&2; exit 1 ;; esac',
        "iptables-save": 'test -s "$FAKES/saved" && cat "$FAKES/saved"',
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKES": str(tmp_path)}
    done = subprocess.run(["sh", "-s"], input=SCRIPT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert done.stdout == ("-P FORWARD ACCEPT\n# end\n" if code == 0 else "")
    assert code == 0 or said.format("DOCKER-USER") in done.stderr
