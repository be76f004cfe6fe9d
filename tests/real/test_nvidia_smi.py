"""Our calls of nvidia-smi, answered by the real program: the recordings of tests/unit/nvidia_smi, made anew.

SIMULATED: the library that gives the program its cards (tests/real/nvml/stand_in.c), except for the cases without
a driver and without a library.
"""

from pathlib import Path

import pytest

from tests import smi_cases
from tests.real.install import nvidia_smi
from tests.real.install.nvidia_smi import Built
from tests.real.install.workshop import Workshop, default_folder
from tests.real.noted import Noted

RECORDED = {name: case for name, case in smi_cases.cases().items() if case["source"] == "recorded"}


@pytest.fixture(scope="module")
def built() -> Built:
    return nvidia_smi.installed(Workshop(default_folder()))


def library(built: Built, name: str) -> Path:
    """Return the folder of the library for a case."""
    return {"no_driver": built.library, "no_library": Path("/nowhere")}.get(name, built.stand_in)


@pytest.mark.parametrize("name", RECORDED)
def test_the_program_answers_as_recorded(built: Built, tmp_path: Path, noted: Noted, name: str) -> None:
    noted.judge("nvidia-smi", nvidia_smi.VERSION)
    case = RECORDED[name]
    notes, host = tmp_path / "notes", tmp_path / "host"
    notes.mkdir()
    host.mkdir()
    variables = case.get("stand_in", {})
    found = smi_cases.host_facts(host, smi_cases.recording(built.program, library(built, name), notes, variables))
    assert smi_cases.recorded(notes) == case["answers"]
    assert [smi_cases.shown(card) for card in found.cards] == case["cards"]
    noted.evidence = found.driver_error or f"{len(found.cards)} cards"


DETAILS = {name: case for name, case in smi_cases.cases(smi_cases.DETAILS).items() if case["source"] == "recorded"}


@pytest.mark.parametrize("name", DETAILS)
def test_the_program_tells_the_details_as_recorded(built: Built, tmp_path: Path, noted: Noted, name: str) -> None:
    noted.judge("nvidia-smi", nvidia_smi.VERSION)
    case = DETAILS[name]
    notes, host = tmp_path / "notes", tmp_path / "host"
    notes.mkdir()
    host.mkdir()
    variables = case.get("stand_in", {})
    found = smi_cases.details(host, smi_cases.recording(built.program, library(built, name), notes, variables))
    assert smi_cases.recorded(notes) == case["answers"]
    assert {uuid: smi_cases.shown(card) for uuid, card in found.cards.items()} == case["details"]
    noted.evidence = f"{len(found.cards)} cards"
