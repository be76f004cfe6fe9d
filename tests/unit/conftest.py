"""What no unit test may touch: where a host keeps its journal and a lock by hand, and this machine its logs."""

import pytest

from provision.runs import journal, lock
from provision.runs.lease_keeper import LeaseKeeper


@pytest.fixture(autouse=True)
def kept_apart(tmp_path, monkeypatch):
    """Journals, locks by hand and logs go to the test's own folder."""
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    monkeypatch.setattr(journal, "STORE", str(tmp_path / "kept"))
    monkeypatch.setattr(lock, "BY_HAND_FILE", str(tmp_path / "by-hand" / "lock"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def no_lease_is_renewed_after_its_test(monkeypatch):
    """A test that does not come to the end of its run leaves leases, and its keeper would renew them for ever."""
    keepers, join = [], LeaseKeeper.join

    def joined(keeper, lease):
        keepers.append(keeper)
        join(keeper, lease)

    monkeypatch.setattr(LeaseKeeper, "join", joined)
    yield
    for keeper in keepers:
        keeper.stop()
