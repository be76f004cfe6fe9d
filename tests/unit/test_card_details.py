"""The details of the cards by recorded and derived answers of nvidia-smi (tests/smi_cases.py says what a case has)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.command import Answer
from provision.steps import card_details
from provision.steps.card_details import CardDetails, Report
from provision.steps.nvidia_smi import MigDevice
from tests import smi_cases

CASES = smi_cases.cases(smi_cases.DETAILS)
UUID = "GPU-00000000-1111-2222-3333-444444444444"


@pytest.mark.parametrize("name", CASES)
def test_the_details_of_the_cards(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    found = smi_cases.details(tmp_path, smi_cases.replay(case["answers"]), case.get("kernel", ""))
    assert {uuid: smi_cases.shown(card) for uuid, card in found.cards.items()} == case["details"]
    assert [vars(report) for report in found.reports] == case.get("reports", [])


@pytest.mark.parametrize("name", CASES)
def test_a_case_says_where_its_answers_are_from(name: str) -> None:
    assert CASES[name]["source"] in smi_cases.SOURCES
    assert CASES[name]["of"]


def test_a_driver_that_hangs_is_asked_once(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    program = f'#!/bin/sh\necho "$*" >>{asked}\nexit 124\n'  # the exit code of timeout(1)
    (tmp_path / "host").mkdir()
    assert smi_cases.details(tmp_path / "host", program).cards == {}
    assert asked.read_text().split() == ["-L"]


def test_no_call_beside_a_process_that_hangs_in_the_driver(tmp_path: Path) -> None:
    (tmp_path / "proc/4242").mkdir(parents=True)
    status = "Name:\tnvidia-smi\nState:\tD (disk sleep)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"
    (tmp_path / "proc/4242/status").write_text(status)
    (tmp_path / "host").mkdir()
    asked = tmp_path / "asked"
    program = f"#!/bin/sh\ntouch {asked}\n"
    assert smi_cases.details(tmp_path / "host", program, proc=tmp_path / "proc").cards == {}
    assert not asked.exists()


@pytest.mark.parametrize(
    ("profile", "mib"),
    [("1g.5gb", 4864), ("3g.40gb", 38912), ("1g.10gb+me", 9728), ("1c.3g.20gb", 19456), ("odd", 0), ("3g.99999gb", 0)],
)
def test_a_profile_tells_the_least_memory_of_a_mig_device(profile: str, mib: int) -> None:
    assert MigDevice("MIG-1", profile).memory_mib == mib


def test_a_card_without_details_has_unknown_values() -> None:
    assert card_details.read(Answer(124)).of(UUID) == CardDetails()


@given(st.lists(st.text(max_size=60) | st.sampled_from(["# all", "# reports", "# listed", "# late", f"{UUID}, x"])))
def test_no_answer_breaks_the_reader(lines: list[str]) -> None:
    found = card_details.read(Answer(0, "\n".join(lines).encode(errors="replace")))
    assert all(len(card.bus_id) <= 100 for card in found.cards.values())


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_report_is_bounded(before: str, after: str) -> None:
    line = f"{before} NVRM: Xid (PCI:0000:01:00): 79, {after}".replace("\r", " ").replace("\n", " ")
    found = card_details.read(Answer(0, f"# reports\n{line}\n".encode(errors="replace")))
    for report in found.reports:
        assert isinstance(report, Report)
        assert len(report.time) <= 60
        assert len(report.text) <= 200
