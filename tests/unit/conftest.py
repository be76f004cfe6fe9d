"""The folders of every unit test: logs of this machine and files of runs on hosts stay below `tmp_path`."""

from pathlib import Path

import pytest

from provision import testing
from provision.runs.lease_keeper import LeaseKeeper
from provision.ssh.host_paths import DEFAULT, HostPaths

FOLDERS = (DEFAULT.run, DEFAULT.state)


@pytest.fixture(autouse=True)
def logs_of_this_machine_are_apart(tmp_path, monkeypatch):
    """Keep the logs of runs in the folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "logs"))


@pytest.fixture(autouse=True)
def this_machine_is_no_host():
    """No test runs a script in the folders that a run uses on a host: the test has forgotten its own folders."""
    before = {folder: Path(folder).stat().st_mtime_ns for folder in FOLDERS if Path(folder).exists()}
    yield
    after = {folder: Path(folder).stat().st_mtime_ns for folder in FOLDERS if Path(folder).exists()}
    assert after == before


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
