"""The firewall of the instances: the rules in the words of a real kernel, the check, and the removal."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from provision.command import Run
from provision.plan.planner import plan_host
from provision.roles import ollama as role
from provision.steps.base import Answer, BlockedError
from provision.steps.docker import inspect
from provision.steps.docker.firewall import COMMAND, Firewall, OwnedFirewall, direct
from provision.steps.facts import HostFacts
from tests.unit.step_cases import TESTS

MATCH = "-p tcp -m conntrack --ctorigdst 10.0.0.11 --ctorigdstport 3001 --ctdir ORIGINAL"
LETS_IN = f"-s 10.0.0.5/32 {MATCH} -j RETURN"
REJECTS = f"{MATCH} -j REJECT --reject-with tcp-reset"
DIRECT = direct(11434)
WALL = Firewall(ports=(3001,), inside=11434, address="10.0.0.11", admit=("10.0.0.5/32",))


def live(*rules: str, first: str = "-A DOCKER-USER -j PROVISION", forward: str = "-A FORWARD -j DOCKER-USER") -> Any:
    """Return a host with some rules in our chain, and the unchanged file of rules."""
    said = [first, "-N PROVISION", *(f"-A PROVISION {rule}" for rule in rules), "-P FORWARD DROP", forward]
    text = "\n".join([*said, "# file", LETS_IN, REJECTS, ""])
    return SimpleNamespace(run=lambda *words: SimpleNamespace(rc=0, stdout=text, stderr=""))


def failed(host: Any) -> list[str]:
    return [check.name for check in WALL.check(host) if not check.passed]


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (live(LETS_IN, REJECTS), []),
        (live(), ["ports closed to others"]),
        (live(f"-s 1.2.3.4/32 {MATCH} -j RETURN", LETS_IN, REJECTS), ["foreign rules among ours"]),
        (live(f"{MATCH} -j RETURN", LETS_IN, REJECTS), ["foreign rules among ours"]),
        (live(LETS_IN, REJECTS, forward=""), ["FORWARD leads to DOCKER-USER"]),
        (live(LETS_IN, REJECTS, first="-A DOCKER-USER -j ACCEPT"), ["first rule of DOCKER-USER"]),
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


@pytest.mark.parametrize(
    "place", ["127.0.0.1:3001", "0.0.0.0:3001", "::1:3001", "x:y", "10.0.0.11:x", "10.0.0.11:3101"]
)
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
