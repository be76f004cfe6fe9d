"""Fixtures of the cases against real programs, and the record from which the page is written."""

import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from provision.lab.model_registry import ModelRegistry
from tests.real import models
from tests.real.install import ollama
from tests.real.install import programs as real_programs
from tests.real.install.programs import Programs
from tests.real.instance import Host, Instance
from tests.real.noted import Noted

NOTED = pytest.StashKey[Noted]()
RECORD = os.environ.get("PROVISION_REAL_RECORD", "")


@pytest.fixture(scope="session")
def programs() -> Programs:
    """All real programs. A missing program is installed here too, so that a single test can be run by hand."""
    return real_programs.installed()


@pytest.fixture(scope="session")
def known(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of models with the three small models, created by the real server."""
    maker = Host(tmp_path_factory.mktemp("maker"), programs.ollama.program).prepare().instance("maker").start()
    models.create(maker, programs.weights)
    yield maker.folder / "models"
    maker.stop()


@pytest.fixture(scope="module")
def host(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A gpu host without instances; whatever runs in its end is stopped."""
    made = Host(tmp_path_factory.mktemp("host"), programs.ollama.program).prepare()
    yield made
    for folder in (made.folder / "containers").iterdir():
        Instance(made, folder.name, 0, {}).kill()


@pytest.fixture(scope="module")
def ollama1(host: Host, known: Path) -> Instance:
    """A running instance with the three models."""
    return host.instance("ollama1", known).start()


@pytest.fixture(scope="module")
def empty(host: Host) -> Instance:
    """A running instance without models."""
    return host.instance("empty").start()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ModelRegistry]:
    """A model registry on loopback."""
    with ModelRegistry(tmp_path / "registry").serving() as serving:
        yield serving


@pytest.fixture
def noted(request: pytest.FixtureRequest) -> Noted:
    """The case's notes for the page. Installs nothing: some parts need no Ollama."""
    notes = Noted(version=ollama.PINNED.version)
    request.node.stash[NOTED] = notes
    return notes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    notes = item.stash.get(NOTED, Noted())
    if report.when == "call" and report.passed and not (notes.evidence or notes.not_run):
        report.outcome, report.longrepr = "failed", "the case notes nothing for its row of the page"
    if RECORD and (report.when == "call" or not report.passed):
        _record(item, report, notes)
    return report


def _record(item: pytest.Item, report: pytest.TestReport, notes: Noted) -> None:
    """Write a line per case when the case ends, so that a broken-off run keeps its cases."""
    name, _, parameter = item.name.partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    row = {
        "program": notes.program,
        "version": notes.version,
        "group": item.path.stem.removeprefix("test_").replace("_", " "),
        "case": f"{words}: {parameter[:-1]}" if parameter else words,
        "verdict": _word(report, notes),
        "evidence": notes.not_run or notes.evidence if report.passed else _failure(report),
        "seconds": round(report.duration, 1),
    }
    with Path(RECORD).open("a") as file:
        file.write(json.dumps(row) + "\n")


def _word(report: pytest.TestReport, notes: Noted) -> str:
    """A failed call is a difference; a failure before or after the call gives no verdict."""
    if report.passed:
        return "not run" if notes.not_run else "holds"
    return "differs" if report.when == "call" else "failed"


def _failure(report: pytest.TestReport) -> str:
    lines = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return "; ".join(lines)[:1000] or report.longreprtext[-1000:]
