"""What no unit test may touch: where a host keeps its journal, and where this machine keeps its own."""

import pytest

from provision import journal, lock


@pytest.fixture(autouse=True)
def kept_apart(tmp_path, monkeypatch):
    """Journals and logs go to the test's own folder."""
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    monkeypatch.setattr(journal, "STORE", str(tmp_path / "kept"))
    monkeypatch.setattr(lock, "KEPT", str(tmp_path / "by-hand"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
