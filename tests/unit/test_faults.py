"""The fault suite, its page and `make test` agree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import page

FOLDER = Path(page.__file__).parent
PAGE = page.PAGE.read_text() if page.PAGE.exists() else ""


def test_every_class_is_a_file_and_a_section_of_the_page():
    files = {path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py")}
    assert files == page.CLASSES.keys()
    assert re.findall(r"^<!-- faults (\w+) -->$", PAGE, re.MULTILINE) == list(page.CLASSES)


def test_make_test_runs_one_case_of_every_class():
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "sample", str(FOLDER)]
    # A machine without a lab deselects lab tests, but not with this variable.
    environment = {**os.environ, "PROVISION_REQUIRE_LAB": "1"}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"test_(\w+)\.py::", said)) == sorted(page.CLASSES)


@pytest.mark.parametrize("name", page.CLASSES)
def test_every_class_has_rows_in_the_page(name):
    rows = page.there(name)
    assert rows
    assert [cells for cells in rows.values() if len(cells) != len(page.HEAD)] == []


def test_rows_of_other_cases_stay_until_the_whole_suite_runs(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# words of somebody\n")
    row = {"class": "apt", "code": "3", "said": "a | b on 10.213.7.12", "seconds": 5, "again": "exit 0", "at": "now"}
    page.publish([{**row, "case": "one", "passed": True}, {**row, "case": "two", "passed": False}], "x", 9, page=path)
    page.publish([{**row, "case": "two", "passed": True, "said": ""}], "x", 9, page=path)
    assert page.there("apt", path) == {
        "one": ("one", "3", "`a / b on 10.0.0.12`", "5", "exit 0", "now"),
        "two": ("two", "3", "", "5", "exit 0", "now"),
    }
    assert path.read_text().startswith("# words of somebody\n")
    assert page.there("disk", path) == {}
    page.publish([{**row, "case": "three", "passed": True}], "x", 9, whole=True, page=path)
    assert list(page.there("apt", path)) == ["three"]
