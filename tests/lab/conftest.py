"""Fixtures and hooks for tests of the lab, and the check after each test that no instance was left out."""

from collections.abc import Iterator

import pytest

from tests.fleet import DEPLOYED, Done, Fleet, at_work, serves_again, settle, wait_for
from tests.gateway.balancer import KEYED, Balancer, balancing

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


@pytest.fixture(scope="module")
def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    """A gateway with keys, for all tests of a module."""
    with balancing(tmp_path_factory.mktemp("gateway"), KEYED) as balancer:
        yield balancer


@pytest.fixture
def front(running_gateway: Balancer) -> Balancer:
    """The gateway of the module, without requests at its instances."""
    running_gateway.taken()
    return running_gateway
