"""Numbers by the estimate: what a new container takes, what a container keeps, and the words of the plan."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provision.apply.host_run import HostRun
from provision.artifacts.store import Store
from provision.capacity import catalogue
from provision.command import Answer
from provision.errors import UnfitError
from provision.inventory import Host, Inventory
from provision.lab.model_registry import ModelRegistry
from provision.plan import role_interface
from provision.roles import ollama as role
from provision.rollout.fleet import known, requests_at_once
from provision.rollout.host_part import HostPart
from provision.rollout.outcome import Outcome
from provision.rollout.roll import Roll
from provision.rollout.traffic import HostTraffic
from provision.runs.context import Context
from provision.steps.base import converged
from provision.steps.facts import TITLE, HostFacts
from provision.steps.instance.container import Container
from provision.steps.loading import Known
from provision.testing import ShellHost

from .test_card_room import card, publish
from .test_golden import GOLDEN
from .test_ollama import FACTS, fleet, host
from .test_room import Big, plan_of
from .test_room import run as shell

MODEL = "deepseek-r1:14b"
AUTO = {"context_length": "auto", "models": [MODEL]}
LENGTH, AT_ONCE = "OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL"
BOTH = {"num_parallel": "auto"}


def container(**settings: Any) -> Container:
    """The container of an instance on card 0, with these settings of the host."""
    alone: Host = host(**{"instances": [{"gpus": [0]}], **AUTO, **settings})
    inventory: Inventory = fleet(alone)
    return next(step for step in role.steps(alone, inventory) if isinstance(step, Container))


def facts(*models: str, used: int = 0, **more: Any) -> HostFacts:
    """The facts of a host with two RTX 4090.

    Args:
        models: the models of the instance, by our table; none for MODEL.
        used: MiB of card 0 that other programs have.
    """
    told = tuple(Known(name, catalogue.dimensions(name), "no answer") for name in models or (MODEL,))
    return dataclasses.replace(
        FACTS,
        **{"cards": (card(0), card(1)), "foreign": {"GPU-0": used}, "models": {"ollama1": told}, **more},
    )


def context(step: Container, found: HostFacts, have: Any = None) -> str:
    want = step.want(found, have)
    assert want is not None
    return str(want["environment"][LENGTH])


def deployed(step: Container, found: HostFacts) -> dict[str, Any]:
    """The state of the container after a deploy."""
    return dict(step.want(found, None) or {})


# -- what a new container takes


@pytest.mark.parametrize(
    ("settings", "found", "length"),
    [
        ({}, facts(), "65536"),
        ({"kv_cache_type": "q8_0"}, facts(), "131072"),
        ({"num_parallel": 4}, facts(), "16384"),
        ({}, facts(used=8000), "16384"),
        ({"models": ["deepseek-r1:1.5b"]}, facts("deepseek-r1:1.5b"), "131072"),
        ({"models": [MODEL, "deepseek-r1:7b"]}, facts(MODEL, "deepseek-r1:7b"), "32768"),
        ({"models": [MODEL, "deepseek-r1:7b"], "max_loaded_models": 1}, facts(MODEL, "deepseek-r1:7b"), "65536"),
        ({"instances": [{"gpus": [0, 1]}]}, facts(), "131072"),
        ({"context_length": 4096, "instances": [{"gpus": [0], "context_length": "auto"}]}, facts(), "65536"),
        ({"instances": [{"gpus": [0], "context_length": 2048}]}, facts(), "2048"),
    ],
)
def test_a_new_container_takes_the_most_that_has_room(settings: dict[str, Any], found: HostFacts, length: str) -> None:
    assert context(container(**settings), found) == length


@pytest.mark.parametrize(
    ("settings", "found", "numbers"),
    [
        ({**BOTH, "context_length": 8192}, facts(), ("8192", "4")),
        ({**BOTH, "context_length": 32768}, facts(), ("32768", "2")),
        (BOTH, facts(), ("16384", "4")),
        (BOTH, facts("deepseek-r1:32b"), ("8192", "1")),
        (BOTH, facts("deepseek-r1:1.5b"), ("131072", "4")),
        (BOTH, facts("qwen3:8b"), ("8192", "1")),
        ({"instances": [{"gpus": [0], "num_parallel": "auto"}], "context_length": 65536}, facts(), ("65536", "1")),
    ],
)
def test_requests_at_once_come_before_a_context_beyond_the_default(
    settings: dict[str, Any], found: HostFacts, numbers: tuple[str, str]
) -> None:
    step = container(**settings)
    have = deployed(step, found)
    assert (have["environment"][LENGTH], have["environment"][AT_ONCE]) == numbers
    assert step.requests_at_once(found, have) == int(numbers[1])
    assert converged(have, step.want(found, have))
    assert f"{AT_ONCE}={numbers[1]}" in step.note(found, have)


def test_a_number_of_the_inventory_is_no_number_of_the_estimate() -> None:
    assert container(num_parallel=4).requests_at_once(facts(), None) == 0
    assert AT_ONCE not in container(num_parallel=4).note(facts())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            facts(),
            f"auto: {LENGTH}=65536, the largest step for {MODEL} in the 23.5 GiB of NVIDIA GeForce RTX 4090 that",
        ),
        (facts("deepseek-r1:1.5b"), f"auto: {LENGTH}=131072, the most for deepseek-r1:1.5b; 23.5 GiB of NVIDIA"),
        (facts("qwen3:8b"), f"auto: {LENGTH}=8192, the default, because nobody tells the size of qwen3:8b: no answer"),
        (facts(cards=(card(0, 0),)), f"auto: {LENGTH}=8192, the default, because nobody tells the memory of card 0"),
        (facts("deepseek-r1:70b"), f"auto: {LENGTH}=4096, without room for deepseek-r1:70b in the 23.5 GiB of"),
        (facts(models={}), ""),
    ],
)
def test_a_plan_says_which_number_and_why(found: HostFacts, words: str) -> None:
    assert container().note(found).startswith(words)
    assert bool(container().note(found)) == bool(words)


def test_an_instance_without_models_takes_the_default_and_says_so() -> None:
    step = container(models=[])
    assert context(step, facts(models={})) == "8192"
    assert "because ollama1 has no models" in step.note(facts(models={}))


def test_where_nothing_has_room_the_least_is_judged() -> None:
    """The judgement of the plan refuses the least context, with the words of every refusal."""
    alone = host(instances=[{"gpus": [0]}], models=["deepseek-r1:70b"], context_length="auto")
    assert (alone.instances[0].context, alone.instances[0].context_auto) == (4096, True)
    assert context(container(), facts("deepseek-r1:70b")) == "4096"


# -- what a container keeps


@pytest.mark.parametrize("used", [0, 300, 8000])
def test_a_second_plan_changes_nothing(used: int) -> None:
    step, found = container(), facts(used=used)
    have = deployed(step, found)
    assert converged(have, step.want(found, have))


@pytest.mark.parametrize("more", [-1000, -300, 300, 1000])
def test_a_little_more_or_less_of_another_program_changes_nothing(more: int) -> None:
    step = container()
    for used in range(2000, 12000, 500):
        have = deployed(step, facts(used=used))
        assert converged(have, step.want(facts(used=used + more), have)), used


def test_a_container_stays_while_nobody_knows_the_size_of_its_model() -> None:
    step = container()
    have = deployed(step, facts())
    assert converged(have, step.want(facts("qwen3:8b"), have))
    assert "=65536, as the container has, because nobody tells the size" in step.note(facts("qwen3:8b"), have)


def test_a_container_stays_while_nobody_knows_the_other_users_of_its_card() -> None:
    """Without the list of processes the card looks free: the container would grow, and shrink by the next plan."""
    step = container()
    have = deployed(step, facts(used=8000))
    unknown = facts(foreign={}, foreign_known=False)
    assert converged(have, step.want(unknown, have))
    assert "=16384, while nvidia-smi does not tell the other users" in step.note(unknown, have)


def test_a_container_stays_where_nothing_has_room_any_more() -> None:
    step = container()
    have = deployed(step, facts())
    assert converged(have, step.want(facts(used=23000), have))
    assert "without room" in step.note(facts(used=23000), have)


@pytest.mark.parametrize(("before", "after", "length"), [(0, 8000, "16384"), (8000, 0, "65536")])
def test_a_large_program_that_comes_or_goes_changes_the_context(before: int, after: int, length: str) -> None:
    step = container()
    have, now = deployed(step, facts(used=before)), facts(used=after)
    want = step.want(now, have)
    assert want is not None
    assert want["environment"][LENGTH] == length
    assert step.why(have, want) == f"variable {LENGTH}"
    assert "recreates ollama1 (its streams finish first)" in step.impact(have, want)
    assert converged(want, step.want(now, want)), "once"


def test_a_context_is_kept_that_would_grow_without_room_to_spare() -> None:
    step = container()
    grown = next(used for used in range(0, 24000, 50) if context(step, facts(used=used)) != "65536")
    assert context(step, facts(used=grown)) == "32768"
    have = deployed(step, facts(used=grown))
    found = facts(used=grown - 100)
    assert converged(have, step.want(found, have))
    assert f"{LENGTH}=32768, kept for {MODEL}: 65536 would have no room to spare" in step.note(found, have)


@pytest.mark.parametrize("by_hand", ["4096", "65535", "32768", "131072", "", "x", "9" * 40])
def test_a_container_made_anew_by_hand_with_another_context_is_found(by_hand: str) -> None:
    step, found = container(), facts()
    have = deployed(step, found)
    for run in (have["run"], ""):
        drifted = {**have, "environment": {**have["environment"], LENGTH: by_hand}, "run": run}
        want = step.want(found, drifted)
        assert want is not None
        assert not converged(drifted, want)
        assert want["environment"][LENGTH] == "65536"


def test_a_container_that_is_made_anew_for_another_reason_takes_the_present_proposal() -> None:
    step = container()
    have = deployed(step, facts(used=2500))
    changed = container(log_max_file=4)
    assert context(changed, facts(), have) == "65536"


def test_without_the_key_the_default_returns() -> None:
    have = deployed(container(), facts())
    step = container(context_length=8192)
    want = step.want(facts(), have)
    assert step.automatic is None
    assert want is not None
    assert want["environment"][LENGTH] == "8192"
    assert step.note(facts(), have) == ""


def test_a_rollback_restores_the_number_of_then() -> None:
    step = container()
    past = deployed(step, facts(used=8000))
    have = deployed(step, facts())
    back = step.restore(facts(), have, past)
    assert back is not None
    assert back["environment"][LENGTH] == "16384"


# -- the read


class Asked(ShellHost):
    """A host that records the titles of the reads, and tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.titles: list[list[str]] = []

    def batch(self, commands: Any, *, stop: bool, beside: bool = False) -> list[Answer]:
        self.titles.append([command.title for command in commands])
        cards = "\n".join(CARD.format(index) for index in range(2))
        facts = f"# gpu-all\n{cards}\n# gpu-all-exit\n0\n# end\n".encode()
        return [Answer(0, facts) if command.title == TITLE else Answer(1, b"", b"no answer") for command in commands]


CARD = "{0}, GPU-{0}, NVIDIA L40S, 590.48.01, 46068, 8.9, Disabled, Disabled, Enabled"
SIZES = "ask for the dimensions of "


def run_of(folder: Path, roles: frozenset[str], past: Any = None, name: str = "gpu-01") -> HostRun:
    inventory = role_interface.load(str(GOLDEN / "automatic.yaml"))
    context_of_run = Context("run-1", inventory, roles, lambda event: None, Store(folder))
    return HostRun(inventory.host(name), Asked(), context_of_run, past=past)


def sizes(run: HostRun, roles: frozenset[str]) -> list[str]:
    return [read.title for read in run.reader.needed(roles) if read.title.startswith(SIZES)]


def test_a_read_asks_for_the_models_of_instances_with_automatic_numbers_alone(tmp_path: Path) -> None:
    """gpu-01 has an automatic instance and another, with the same model: one question."""
    every = frozenset(role_interface.order())
    run = run_of(tmp_path, every)
    assert sizes(run, every) == [f"{SIZES}deepseek-r1:32b"]
    assert sizes(run, frozenset({"models"})) == sizes(run, frozenset({"balancer"})) == []
    assert sizes(run_of(tmp_path, every, past=()), every) == [], "a rollback restores the numbers of then"


def test_a_read_takes_a_single_exec_and_gives_the_models(tmp_path: Path) -> None:
    run = run_of(tmp_path, frozenset({"ollama"}))
    run.read()
    assert isinstance(run.session, Asked)
    assert len(run.session.titles) == 1
    [known] = run.reader.facts.models["ollama1"]
    assert (known.model, known.dimensions) == ("deepseek-r1:32b", catalogue.dimensions("deepseek-r1:32b"))
    assert "ollama2" not in run.reader.facts.models


class Asking(Asked):
    """A host that asks a registry on this machine for real, and records the rest."""

    def batch(self, commands: Any, *, stop: bool, beside: bool = False) -> list[Answer]:
        answers = super().batch(commands, stop=stop, beside=beside)
        asked = zip(commands, answers, strict=True)
        return [shell(command) if command.title.startswith(SIZES) else answer for command, answer in asked]


def test_a_run_asks_a_registry_once_for_a_model_of_several_instances(tmp_path: Path) -> None:
    roles = frozenset({"ollama", "models"})
    with ModelRegistry(tmp_path / "registry").serving() as served:
        name = publish(served, "deepseek-r1:32b")
        ollama = f"{{models: ['{name}'], context_length: auto, storage: {tmp_path / 'srv'}}}"
        accepted = "nginx: {accept_known_vulnerabilities: true}"
        instances = "{instances: [{gpus: [0]}, {gpus: [1]}, {gpus: [2], context_length: 4096}]}"
        (tmp_path / "inventory.yaml").write_text(
            f"all: {{vars: {{ollama: {ollama}, models: {{insecure: true}}, {accepted}}}}}\n"
            f"gpu: {{hosts: {{gpu-01: {{ansible_host: 10.0.0.11, ollama: {instances}}}}}}}\n"
        )
        inventory = role_interface.load(str(tmp_path / "inventory.yaml"))
        session = Asking()
        run = HostRun(
            inventory.host("gpu-01"), session, Context("run-1", inventory, roles, lambda event: None, Store(tmp_path))
        )
        for _ in range(3):
            run.read()
        asked = [path for _, path, _ in served.requests() if "/manifests/" in path]
    assert len(session.titles) == 3
    assert len(asked) == 1
    told = {instance: known.source for instance, [known] in run.reader.facts.models.items()}
    assert told == {"ollama1": "gguf", "ollama2": "gguf"}


def test_the_balancers_learn_the_requests_at_once_of_a_host(tmp_path: Path) -> None:
    run = run_of(tmp_path, frozenset({"ollama", "models"}), name="box")
    run.read()
    assert requests_at_once(run) == {"box/ollama2": 4}
    part = HostPart(run, cast(HostTraffic, None), Outcome("box"))
    members = SimpleNamespace(labels=lambda *states: frozenset(), unusable=frozenset())
    state = known([part], cast(Roll, SimpleNamespace(context=run.context, members=members)), lambda host: nullcontext())
    assert (state.addresses, state.parallel) == ({"box": "127.0.0.1"}, {"box/ollama2": 4})


@pytest.mark.parametrize(("past", "forced"), [(None, True), ((), False)])
def test_only_a_command_with_the_option_is_told_of_the_option(tmp_path: Path, past: Any, forced: bool) -> None:
    """A rollback has no --force-fit."""
    roles = frozenset({"docker"})
    with pytest.raises(UnfitError, match="no room") as refused:
        run_of(tmp_path, roles, past=past).with_room(plan_of(Big("/a", need=2000)), roles)
    assert "make room (`df -h /srv` on the host)" in refused.value.hint
    assert ("--force-fit" in refused.value.hint) == forced
