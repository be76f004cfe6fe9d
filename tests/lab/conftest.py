"""Fixtures and hooks for tests of the lab, and the check after each test that no instance was left out."""

import pytest

from tests.fleet import DEPLOYED, Done, Fleet, at_work, serves_again, settle, wait_for

__all__ = ["DEPLOYED", "Done", "Fleet", "at_work", "serves_again", "settle", "wait_for"]
UPSTREAM = "/etc/provision/nginx/upstream.conf"
PASSED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def nothing_left_out(request):
    """A test that leaves an instance out of the balancer fails itself, instead of a later test that counts
    instances."""
    shared = "fleet" in request.fixturenames
    lab = request.getfixturevalue("lab") if shared else None
    yield
    if lab and request.node.stash.get(PASSED, False):
        text = lab.host("lb-01").run(["cat", UPSTREAM], check=False).stdout  # some tests have another balancer
        assert [line for line in text.splitlines() if " down;" in line] == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report
