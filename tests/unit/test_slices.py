"""Beside the sample a run takes one of forty slices of the faults and long tests, by the number of its commit."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests import parts, slices

ROOT = slices.ROOT


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", *identity, "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A repository of 43 commits."""
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "-q")
    for _ in range(43):
        git(folder, "commit", "-q", "--allow-empty", "-m", "x")
    return folder


def test_the_number_of_commits_chooses_the_slice(clone):
    assert slices.of_commit(clone) == 3
    git(clone, "commit", "-q", "--allow-empty", "-m", "x")
    assert slices.of_commit(clone) == 4


def test_in_a_shallow_clone_the_hash_chooses_the_slice(clone, tmp_path):
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{clone}", "shallow")
    assert slices.of_commit(tmp_path / "shallow") == int(git(clone, "rev-parse", "HEAD"), 16) % slices.SLICES


def test_without_a_history_the_run_takes_slice_0_and_says_so(tmp_path, capfd):
    assert slices.of_commit(tmp_path) == 0
    assert "no git history here: slice 0" in capfd.readouterr().err


def collected(marks, **more):
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", marks, "tests/lab", "tests/faults"]
    # A machine without a lab deselects the tests, but not with this variable.
    environment = {**os.environ, "PROVISION_REQUIRE_LAB": "1", **more}
    said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^tests/.*::.*$", said, re.MULTILINE)


def test_a_slice_is_a_fortieth_of_the_tests_outside_the_sample():
    others = collected("(faults or matrix) and not sample", PROVISION_SLICE="")
    wanted = [name for place, name in enumerate(others) if slices.of_test(place) == 7]
    assert wanted
    assert abs(len(wanted) - len(others) / slices.SLICES) <= slices.RUN
    assert collected("slice", PROVISION_SLICE="7") == wanted


def test_every_file_that_must_run_has_a_test_in_every_run():
    names = collected("sample or not (faults or matrix)", PROVISION_SLICE="")
    files = {name.partition(".py::")[0].replace("/", ".") for name in names}
    assert files == set(parts.lab_files())


def test_every_test_belongs_to_one_slice_of_consecutive_tests():
    places = [slices.of_test(place) for place in range(1000)]
    assert set(places) == set(range(slices.SLICES))
    assert all(len(set(places[first : first + slices.RUN])) == 1 for first in range(0, 1000, slices.RUN))


def test_without_a_number_no_test_belongs_to_a_slice(monkeypatch):
    monkeypatch.delenv("PROVISION_SLICE", raising=False)
    assert slices.chosen() is None


def test_the_tests_of_the_slice_are_named_at_the_end(monkeypatch):
    lines = []
    report = SimpleNamespace(nodeid="tests/faults/test_apt.py::test_it[a]", keywords={"slice": 1})
    stats = {
        "passed": [report, SimpleNamespace(nodeid="other", keywords={})],
        "": [report],
        "deselected": [SimpleNamespace(nodeid="x", keywords={"slice": 1})],
    }
    reporter = SimpleNamespace(stats=stats, section=lines.append, write_line=lines.append)
    monkeypatch.setenv("PROVISION_SLICE", "7")
    slices.summary(reporter)
    assert lines == [f"slice 7 of {slices.SLICES}: 1 faults and long tests beside the sample", report.nodeid]
