"""The folders of every unit test: logs of this machine and files of runs on hosts stay below `tmp_path`."""

import pytest

from provision import testing
from provision.runs.lease_keeper import LeaseKeeper
from provision.ssh.host_paths import HostPaths


@pytest.fixture(autouse=True)
def logs_of_this_machine_are_apart(tmp_path, monkeypatch):
    """Keep the logs of runs in the folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "logs"))


@pytest.fixture
def setup(tmp_path):
    """A setup whose hosts are shells of this machine, with every file of a run in the folder of the test."""
    return testing.setup(tmp_path)


@pytest.fixture
def paths(setup) -> HostPaths:
    """The folders of runs on the hosts of `setup`."""
    return setup.paths


@pytest.fixture(autouse=True)
def keepers_stop_with_their_test(monkeypatch):
    """A test that ends before its run leaves leases, and a keeper renews leases for ever."""
    keepers, join = [], LeaseKeeper.join

    def joined(keeper, lease):
        keepers.append(keeper)
        join(keeper, lease)

    monkeypatch.setattr(LeaseKeeper, "join", joined)
    yield
    for keeper in keepers:
        keeper.stop()
