"""The recordings of real servers and the simulator of the lab keep the contract with Ollama."""

import pytest

from provision.lab.model_registry import ModelRegistry
from tests.contract.ollama import cases, differences, pulls, simulator, targets

CASES = cases.load()
RECORDINGS = {version: targets.Recording(version) for version in targets.RECORDED}
LISTED = differences.load("simulator")


@pytest.mark.parametrize("version", targets.RECORDED)
@pytest.mark.parametrize("case", [case for case in CASES if case.recorded], ids=lambda case: case.name)
def test_a_case_holds_of_the_recordings(case, version):
    assert [*map(str, targets.differences(case, RECORDINGS[version]))] == []


@pytest.mark.parametrize("version", targets.RECORDED)
def test_every_recorded_answer_has_a_case(version):
    recorded = {case.name for case in CASES if case.recorded}
    unrecorded = {case.name for case in CASES if not case.recorded}
    assert set(RECORDINGS[version].names) - unrecorded == recorded


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A simulator, with a registry of models."""
    with ModelRegistry(tmp_path_factory.mktemp("registry")).serving() as registry:
        pulls.publish(registry)
        with simulator.running(tmp_path_factory.mktemp("simulator"), registry.host) as address:
            yield address


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_holds_of_the_simulator(server, case):
    assert differences.complaints(case.name, targets.differences(case, server), LISTED) == []


def test_every_listed_difference_is_of_a_case():
    for target in ("simulator", "live"):
        assert {entry.case for entry in differences.load(target)} <= {case.name for case in CASES}
