"""The guard of cards and ports: verify reports a foreign container that started after the deploy."""

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from provision.steps.docker.inspect import read_live
from provision.steps.facts import HostFacts
from provision.steps.instance.conflicts import Holders, foreign
from provision.steps.nvidia_smi import Card
from tests.unit.step_cases import TESTS

CARDS = (
    Card(0, "GPU-6506c7fb-0468-e2f5-1691-2db0f8554bf0", "RTX A6000", "580.95.05", 8.6, 49140),
    Card(1, "GPU-00218c52-170c-270b-d75b-7bbf9e0460ab", "RTX A6000", "580.95.05", 8.6, 49140),
)


def live() -> Any:
    """A host on which the container `theirs` has card 0 and port 3001."""
    case = yaml.safe_load((TESTS / "facts/OwnedContainers/only_ours.yaml").read_text())

    def run(command: str, *words: str) -> SimpleNamespace:
        return SimpleNamespace(rc=0, stdout=case["stdout"], stderr="")

    return SimpleNamespace(run=run, backend=SimpleNamespace(facts=HostFacts(cards=CARDS)))


@pytest.mark.parametrize(
    ("card", "port", "names"),
    [
        (1, 3002, []),
        (0, 3002, ["others on the cards"]),
        (1, 3001, ["foreign containers on the ports"]),
    ],
)
def test_a_foreign_container_on_a_card_or_a_port_fails_the_check(card: int, port: int, names: list[str]) -> None:
    step = Holders(cards={"ollama1": (card,)}, ports={"ollama1": port}, address="10.0.0.11")
    assert [check.name for check in step.check(live()) if not check.passed] == names


def test_the_probe_container_of_another_verify_is_not_foreign() -> None:
    engine = read_live(live())
    stranger = engine.containers["theirs"]
    assert [one["name"] for one in foreign(engine)] == ["theirs"]
    stranger["labels"] = {"provision.probe": "1"}
    assert foreign(engine) == []
