"""Cards of the inventory by index, by UUID and by the UUID of a MIG device: validated, resolved, pinned, refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.actions.results import same_cards
from provision.command import Run
from provision.doctor import cards
from provision.doctor.check import Look, Subject
from provision.doctor.finding import Finding
from provision.errors import InventoryError
from provision.inventory import Host, Inventory
from provision.plan import role_interface
from provision.steps.base import RefusalError, differing
from provision.steps.facts import HostFacts
from provision.steps.instance.conflicts import Holders
from provision.steps.instance.container import Container
from provision.steps.instance.container_state import listed
from provision.steps.nvidia_smi import Card, MigDevice
from provision.steps.ollama.engine import OLLAMA
from provision.steps.system.preflight import UsableCards

A, B = (f"GPU-2a5a1a52-9d0c-4a3e-8d34-0d8f4f7a000{number}" for number in (1, 2))
H100 = "GPU-2a5a1a52-9d0c-4a3e-8d34-0d8f4f7a0003"
MIG = "MIG-6a1f0c11-0d5e-5c3e-9d2c-2f2a3f4b0001"
OTHER_MIG = "MIG-6a1f0c11-0d5e-5c3e-9d2c-2f2a3f4b0002"
ABSENT = "GPU-ffffffff-9d0c-4a3e-8d34-0d8f4f7a0001"
CARDS = (
    Card(0, A, "NVIDIA L40S", "590.48.01", 8.9, 46068),
    Card(1, B, "NVIDIA L40S", "590.48.01", 8.9, 46068),
    Card(2, H100, "NVIDIA H100", "590.48.01", 9.0, 81559, mig=True, devices=(MigDevice(MIG, "3g.40gb"),)),
)
FACTS = HostFacts(cards=CARDS, remembered={0: A, 1: B, 2: H100})
WHOLE = (
    f"is in MIG mode and cannot be used as a whole: name a MIG device instead: {MIG} (3g.40gb); or switch MIG off "
    "(nvidia-smi -i 2 -mig 0)"
)
INVENTORY = """
all: {{vars: {{nginx: {{accept_known_vulnerabilities: true}}}}}}
gpu:
  hosts:
    gpu-01: {{ollama: {{instances: {first}}}}}
    gpu-02: {{ollama: {{instances: {second}}}}}
balancer: {{hosts: {{lb-01: {{}}}}}}
"""


def loaded(folder: Path, first: str, second: str = "[{gpus: [0]}]") -> Inventory:
    path = folder / "inventory.yaml"
    path.write_text(INVENTORY.format(first=first, second=second))
    return role_interface.load(str(path))


def cards_of(host: Host) -> list[tuple[int | str, ...]]:
    return [instance.gpus for instance in host.instances]


def problems(folder: Path, first: str, second: str = "[{gpus: [0]}]") -> list[str]:
    with pytest.raises(InventoryError) as caught:
        loaded(folder, first, second)
    return [str(problem).partition(": ")[2] for problem in caught.value.problems]


def test_indices_and_uuids_of_an_inventory(tmp_path: Path) -> None:
    upper = B.upper()
    found = loaded(tmp_path, f"[{{gpus: [0, {A}]}}, {{gpus: [{upper}]}}, {{gpus: [{MIG}]}}]")
    assert cards_of(found.hosts[0]) == [(0, A), (B,), (MIG,)]


@pytest.mark.parametrize("card", ["-1", "1024", "true", "0.5", "'0'", "GPU-1", f"{A}0", "'$(reboot)'", "all", "null"])
def test_what_is_no_card_is_refused_with_its_place(tmp_path: Path, card: str) -> None:
    (problem,) = problems(tmp_path, f"[{{gpus: [0, {card}]}}]")
    assert problem.startswith(
        "gpu.hosts.gpu-01.ollama.instances[0].gpus[1]: must be an index from 0 to 1023, or a UUID"
    )


@given(card=st.text(max_size=120))
def test_a_text_is_a_uuid_or_refused(card: str) -> None:
    settings = role_interface.sections()["ollama"]
    try:
        (item,) = settings.model_validate({"instances": [{"gpus": [card]}]}).instances  # type: ignore[attr-defined]
    except ValueError:
        return
    assert item.gpus[0][:4] in ("GPU-", "MIG-")
    assert len(item.gpus[0]) == len(A)


@pytest.mark.parametrize(
    ("instances", "problem"),
    [
        (f"[{{gpus: [{A}, {A.upper()}]}}]", "instances[0].gpus: names a card twice"),
        (f"[{{gpus: [{A}]}}, {{gpus: [1, {A}]}}]", f"instances[1].gpus: card {A} is already that of instances[0]"),
        (f"[{{gpus: [{MIG}, {OTHER_MIG}]}}]", "instances[0].gpus: may name one MIG device and no other card"),
        (f"[{{gpus: [{MIG}, 0]}}]", "instances[0].gpus: may name one MIG device and no other card"),
    ],
)
def test_cards_that_two_instances_cannot_have(tmp_path: Path, instances: str, problem: str) -> None:
    assert any(problem in found for found in problems(tmp_path, instances))


def test_a_uuid_of_two_hosts_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f"[{{gpus: [{A}]}}]", f"[{{gpus: [0]}}, {{gpus: [{A}]}}]")
    assert problem.startswith("gpu.hosts.gpu-02.ollama.instances[1].gpus: ")
    assert f"{A} is already a card of gpu-01/ollama1" in problem
    assert loaded(tmp_path, f"[{{gpus: [{A}]}}]", f"[{{gpus: [{B}]}}]")


@pytest.mark.parametrize(
    ("name", "uuid"), [(0, A), (B, B), (MIG, MIG), (H100, H100), (7, None), (ABSENT, None), (OTHER_MIG, None)]
)
def test_a_name_means_a_card_of_the_host(name: int | str, uuid: str | None) -> None:
    card = FACTS.card(name)
    assert (card and card.uuid) == uuid


def test_a_mig_device_is_a_card_of_its_own() -> None:
    card = FACTS.card(MIG)
    assert card is not None
    assert (card.name, card.memory_mib, card.mig) == ("NVIDIA H100 MIG 3g.40gb", 38912, False)
    assert {MIG, H100} <= FACTS.healthy


def guard(**gpus: tuple[int | str, ...]) -> UsableCards:
    return UsableCards(gpus=gpus, image="ollama/ollama", unusable=lambda image, card: "")


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ({"ollama1": (0,), "ollama2": (A,)}, f"ollama2 names {A} and ollama1 names GPU 0, which are the same card"),
        ({"ollama1": (B, 1)}, f"ollama1 names GPU 1 and ollama1 names {B}, which are the same card"),
        ({"ollama1": (2,)}, f"ollama1 names GPU 2 (NVIDIA H100), which {WHOLE}"),
        ({"ollama1": (H100,)}, f"ollama1 names {H100} (NVIDIA H100), which is in MIG mode"),
    ],
)
def test_cards_that_a_plan_refuses(gpus: dict[str, tuple[int | str, ...]], words: str) -> None:
    with pytest.raises(RefusalError) as caught:
        guard(**gpus).want(FACTS, None)
    assert words in str(caught.value)


def test_cards_by_index_uuid_and_mig_uuid_side_by_side() -> None:
    step = guard(ollama1=(0,), ollama2=(B,), ollama3=(MIG,))
    assert step.want(FACTS, None) == {}
    assert step.refused(FACTS) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (ABSENT, f"{ABSENT} is not on this host, which has {A} (GPU 0, NVIDIA L40S), {B} (GPU 1, NVIDIA L40S), {H100}"),
        (OTHER_MIG, f"{OTHER_MIG} is not on this host, which has {MIG} (3g.40gb of GPU 2)"),
        (7, "there is no GPU 7: this host has GPU 0 (NVIDIA L40S), GPU 1 (NVIDIA L40S), GPU 2 (NVIDIA H100)"),
    ],
)
def test_a_missing_card_refuses_its_instance_alone_and_names_the_cards(name: int | str, words: str) -> None:
    refused = guard(ollama1=(0,), ollama2=(name,)).refused(FACTS)
    assert list(refused) == ["ollama2"]
    assert refused["ollama2"].startswith(f"ollama2 cannot run: {words}")


SWITCHING = HostFacts(cards=(replace(CARDS[0], half_switched=True), *CARDS[1:]), remembered=FACTS.remembered)
SWITCHING_BACK = HostFacts(cards=(*CARDS[:2], replace(CARDS[2], half_switched=True)), remembered=FACTS.remembered)
RESET = "While no program uses the card, type on the host: nvidia-smi --gpu-reset -i {0} (or reboot)"


@pytest.mark.parametrize(
    ("name", "facts", "words"),
    [
        (
            0,
            SWITCHING,
            "GPU 0: MIG mode will be on after a reset of the card or a boot, which ends the card's use as a",
        ),
        (A, SWITCHING, f"{A}: MIG mode will be on after a reset of the card or a boot"),
        (
            MIG,
            SWITCHING_BACK,
            f"{MIG}: MIG mode will be off after a reset of the card or a boot, which ends the card's",
        ),
    ],
)
def test_plan_and_verify_warn_of_a_card_whose_mig_mode_is_half_switched(
    name: int | str, facts: HostFacts, words: str
) -> None:
    step = guard(ollama1=(name,), ollama2=(1,))
    assert (step.want(facts, None), step.refused(facts)) == ({}, {}), "the instance runs until the reset"
    note = step.note(facts)
    index = next(card.index for card in facts.cards if card.half_switched)
    assert note.startswith(words)
    assert RESET.format(index) in note
    assert f"nvidia-smi -i {index} -mig {int(name == MIG)}" in note, "the way back"
    live = SimpleNamespace(backend=SimpleNamespace(facts=facts), run=lambda *words: SimpleNamespace(stdout=""))
    assert [(each.name, each.passed) for each in step.check(live) if "MIG" in each.name] == [(f"warning: {note}", True)]
    assert guard(ollama2=(1,)).note(facts) == "", "no instance has the card"


def test_a_card_whose_mig_mode_will_be_off_is_refused_until_the_reset() -> None:
    with pytest.raises(RefusalError) as caught:
        guard(ollama1=(2,)).want(SWITCHING_BACK, None)
    assert "is in MIG mode and cannot be used as a whole yet: MIG mode will be off" in str(caught.value)
    assert RESET.format(2) in str(caught.value)


def test_a_mig_device_of_a_card_that_waits_for_a_reset_is_refused_with_the_reset() -> None:
    alone = HostFacts(cards=SWITCHING.cards[:2], remembered={0: A, 1: B})
    refused = guard(ollama1=(MIG,)).refused(alone)["ollama1"]
    assert refused.startswith(
        f"ollama1 cannot run: {MIG} is not on this host, which has no MIG device; GPU 0: MIG mode"
    )
    assert RESET.format(0) in refused


def diagnosed(folder: Path, instances: str, facts: HostFacts) -> list[Finding]:
    inventory = loaded(folder, instances)
    check = next(check for check in cards.CHECKS if check.name == "driver")
    return [*check.findings(Look(), [], Subject(inventory.hosts[0], inventory, facts))]


def test_no_reset_that_ends_mig_mode_is_named_as_the_cure_of_a_missing_mig_device(tmp_path: Path) -> None:
    (found,) = diagnosed(tmp_path, f"[{{gpus: [{OTHER_MIG}]}}]", SWITCHING_BACK)
    assert found.says == f"ollama1 cannot run: {OTHER_MIG} is not on this host, which has {MIG} (3g.40gb of GPU 2)"
    assert "reset" not in found.cure
    (found,) = diagnosed(tmp_path, f"[{{gpus: [{OTHER_MIG}]}}]", SWITCHING)
    assert found.cure == "nvidia-smi --gpu-reset -i 0"


def test_doctor_fails_where_a_plan_refuses_also_beside_a_half_switched_card(tmp_path: Path) -> None:
    found = diagnosed(tmp_path, f"[{{gpus: [0]}}, {{gpus: [{A}]}}]", SWITCHING)
    assert [each.says.partition(", which")[0] for each in found if each.verdict == "fail"] == [
        f"ollama2 names {A} and ollama1 names GPU 0"
    ]


def test_a_card_that_two_hosts_list_is_named_with_both_hosts() -> None:
    (warning,) = same_cards([("gpu-01", [A, B]), ("gpu-02", [B, H100]), ("gpu-03", [])])
    assert warning == f"{B} is a card of gpu-01 and gpu-02: are these names of one machine? Keep one host of them"


def test_a_card_of_the_record_is_missing_and_not_unknown() -> None:
    gone = HostFacts(cards=CARDS[1:], remembered={0: A, 1: B, 2: H100})
    assert guard(ollama1=(A,)).refused(gone) == {
        "ollama1": f"ollama1 cannot run: {A} is missing: nvidia-smi does not list it"
    }


def container(*gpus: int | str) -> Container:
    return Container(name="ollama1", engine=OLLAMA, image="ollama/ollama", gpus=gpus, port=3001, address="10.0.0.11")


def words_of(step: Container, have: Any = None) -> list[str]:
    made = [command for command in step.commands(have, step.want(FACTS, have)) if isinstance(command, Run)]
    return [word for command in made for word in command.words]


@pytest.mark.parametrize(
    ("gpus", "word"),
    [
        ((B,), f"device={B}"),
        ((MIG,), f"device={MIG}"),
        ((0,), f"device={A}"),
        ((1, A), f'"device={A},{B}"'),
    ],
)
def test_docker_gets_uuids(gpus: tuple[int | str, ...], word: str) -> None:
    words = words_of(container(*gpus))
    assert words[words.index("--gpus") + 1] == word


def test_an_index_and_its_uuid_are_the_same_state() -> None:
    assert container(0).want(FACTS, None) == container(A).want(FACTS, None)


def test_a_container_on_another_card_differs() -> None:
    wanted = container(B).want(FACTS, None)
    by_hand = {**wanted, "gpus": [A], "sees": [A]}
    assert [key for key, _ in differing(by_hand, wanted)] == ["gpus", "sees"]
    assert "--gpus" in words_of(container(B), by_hand), "a new container"


def test_a_rollback_to_a_mig_device_that_is_gone_is_refused() -> None:
    past = container(MIG).want(FACTS, None)
    assert container(0).restore(FACTS, None, past)["gpus"] == [MIG]  # type: ignore[index]
    cut_anew = HostFacts(cards=(*CARDS[:2], Card(2, H100, "NVIDIA H100", "590.48.01", 9.0, 81559, mig=True)))
    with pytest.raises(RefusalError, match=f"was on {MIG}, which this host has no more"):
        container(0).restore(cut_anew, None, past)


def test_a_container_sees_its_mig_device_and_not_the_card_of_the_device() -> None:
    seen = f"GPU 0: NVIDIA H100 (UUID: {H100}) MIG 3g.40gb Device 0: (UUID: {MIG})"
    assert listed(seen) == [MIG]
    assert listed(f"GPU 0: NVIDIA L40S (UUID: {B})\nGPU 1: NVIDIA L40S (UUID: {A})") == [A, B]


def test_a_program_of_somebody_else_on_a_card_by_uuid_is_named() -> None:
    process = {"card": B, "pid": 9, "program": "python3", "container": "", "user": "alice", "mib": 512}
    step = Holders(cards={"ollama1": (B,), "ollama2": (MIG,)}, ports={}, address="10.0.0.11")
    with pytest.raises(RefusalError, match=f"card {B} of ollama1 is used by python3"):
        step.want(FACTS, {"applications": [process]})
