"""The host facts by recorded and derived answers of nvidia-smi (tests/smi_cases.py says what a case has)."""

from pathlib import Path

import pytest

from provision.steps import nvidia_smi
from tests import smi_cases

CASES = smi_cases.cases()


@pytest.mark.parametrize("name", CASES)
def test_the_cards_of_a_host(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    found = smi_cases.host_facts(tmp_path, smi_cases.replay(case["answers"]))
    assert [smi_cases.shown(card) for card in found.cards] == case["cards"]
    assert found.driver_error == case["error"]


@pytest.mark.parametrize("name", CASES)
def test_a_case_says_where_its_answers_are_from(name: str) -> None:
    case = CASES[name]
    assert case["source"] in smi_cases.SOURCES
    assert case["of"]


def test_a_call_that_no_case_has_does_not_pass(tmp_path: Path) -> None:
    found = smi_cases.host_facts(tmp_path, smi_cases.replay([]))
    assert found.cards == ()
    assert f"no answer to --query-gpu={nvidia_smi.CORE}" in found.driver_error


# A process that SIGKILL does not end, as /proc shows the process: no test can make a real one without a broken driver.
STATUS = "Name:\tnvidia-smi\nState:\t{state}\nSigPnd:\t0000000000000000\nShdPnd:\t{pending}\n"


@pytest.mark.parametrize(
    ("state", "pending", "hangs"),
    [
        ("D (disk sleep)", "0000000000004100", True),
        ("D (disk sleep)", "0000000000004000", False),  # only SIGTERM: the process may end yet
        ("D (disk sleep)", "0000000000000000", False),  # an ordinary wait for the driver
        ("S (sleeping)", "0000000000000100", False),
    ],
)
def test_no_read_calls_nvidia_smi_beside_a_process_that_hangs_in_the_driver(
    tmp_path: Path, state: str, pending: str, hangs: bool
) -> None:
    (tmp_path / "proc/4242").mkdir(parents=True)
    (tmp_path / "proc/4242/status").write_text(STATUS.format(state=state, pending=pending))
    (tmp_path / "host").mkdir()
    program = smi_cases.replay(CASES["healthy"]["answers"])
    found = smi_cases.host_facts(tmp_path / "host", program, proc=tmp_path / "proc")
    assert (found.cards == ()) is hangs
    assert ("process 4242 (nvidia-smi) hangs in the driver" in found.driver_error) is hangs
