"""Fixtures of the fault suite, and the record from which docs/reliability.md is written."""

import datetime as dt
import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults.seen import Seen
from tests.faults.world import World
from tests.fleet import DEPLOYED, Fleet, settle

SEEN = pytest.StashKey[Seen]()
RECORD = os.environ.get("PROVISION_FAULTS_RECORD", "")


@pytest.fixture
def world(fleet, lab, tmp_path):
    """The deployed fleet."""
    return World(fleet, lab, tmp_path)


@pytest.fixture(scope="module")
def put_back(lab, first_deploy, tmp_path_factory):
    """For tests that begin where the test before ended: after the last of them every host is as deployed."""
    yield
    lab.restore(label=DEPLOYED)
    settle(Fleet(lab, tmp_path_factory.mktemp("after")))


@pytest.fixture
def seen(request):
    """The case's notes for the page."""
    request.node.stash[SEEN] = Seen()
    return request.node.stash[SEEN]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    noted = item.stash.get(SEEN, Seen())
    if report.when == "call" and report.passed and not (noted.code and noted.again):
        report.outcome, report.longrepr = "failed", "the case notes nothing for its row of the page"
    if RECORD and (report.when == "call" or report.failed):
        _record(item, report, noted)
    return report


def _record(item: pytest.Item, report: pytest.TestReport, noted: Seen) -> None:
    """Write a line per case when the case ends, so that a broken-off suite keeps its cases."""
    name, _, case = item.name.partition("[")
    row = {
        "class": item.path.stem.removeprefix("test_"),
        "case": case.removesuffix("]") or name.removeprefix("test_").replace("_", " "),
        "seconds": round(report.duration),
        "passed": report.passed,
        "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}",
        "failure": "" if report.passed else report.longreprtext[-6000:],
        **vars(noted),
    }
    with Path(RECORD).open("a") as file_:
        file_.write(json.dumps(row) + "\n")
