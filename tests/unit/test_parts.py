"""`make test` ends with the time of each part, and fails if lab tests did not run."""

import os
import re
import subprocess
import sys

import pytest

from tests import parts

MAKE = """
import pathlib, sys
target, reports = sys.argv[2], pathlib.Path(sys.argv[3].partition("=")[2])
report = pathlib.Path(f"{target.replace('/', '-')}.xml")
if report.exists():
    (reports / report).write_text(report.read_text())
sys.exit(target in pathlib.Path("failing").read_text().split())
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A `make` whose targets copy the reports of the folder, and fail if the file `failing` names the target."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "failing").write_text("")
    report(tmp_path, "unit", "tests.unit.test_a", "tests.unit.test_a")
    report(tmp_path, "lab-test", "tests.lab.test_a", "tests.faults.test_b.TestCut")
    return [sys.executable, str(tmp_path / "make.py")]


def report(folder, part, *names, inside=""):
    cases = "".join(f'<testcase classname="{name}" name="x">{inside}</testcase>' for name in names)
    (folder / f"{part}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")


FILES = ("tests.lab.test_a", "tests.faults.test_b")


def test_the_last_lines_print_the_time_of_every_part_and_the_tests(make, capfd):
    assert parts.run(make, FILES) == 0
    said = re.sub(r"\d+m\d\ds", "TIME", capfd.readouterr().out)
    assert [re.sub(r" +", " ", line) for line in said.splitlines()] == [
        "",
        "install TIME",
        "lint TIME",
        "unit TIME 2 passed, 0 failed",
        "lab-parts TIME",
        "lab-test TIME 2 passed, 0 failed",
        "in all TIME",
        "tests: 4 passed, 0 failed",
    ]


@pytest.mark.parametrize(("failing", "last"), [("lint", "lint"), ("unit", "lab-parts"), ("lab-parts", "lab-parts")])
def test_no_part_runs_after_a_failed_part(make, tmp_path, capfd, failing, last):
    (tmp_path / "failing").write_text(failing)
    assert parts.run(make, FILES) == 1
    said = capfd.readouterr().out
    assert re.search(rf"^{failing} .*FAILED$", said, re.MULTILINE)
    names = [name for row in parts.ROWS for name in row]
    assert re.findall(r"^(\S+) +not run$", said, re.MULTILINE) == names[names.index(last) + 1 :]


@pytest.mark.parametrize("inside", ["<skipped/>", "<failure/>", "<error/>"])
def test_lab_tests_that_did_not_pass_are_a_failure(make, tmp_path, capfd, inside):
    report(tmp_path, "lab-test", *FILES, inside=inside)
    assert parts.run(make, FILES) == 1
    said = capfd.readouterr().out
    assert "the lab tests did not run: no test passed of tests.lab.test_a, tests.faults.test_b\n" in said
    assert re.search(r"^lab-test .*FAILED$", said, re.MULTILINE)


def test_a_missing_file_of_lab_tests_is_a_failure(make, tmp_path, capfd):
    report(tmp_path, "lab-test", "tests.lab.test_a")
    assert parts.run(make, FILES) == 1
    assert "the lab tests did not run: no test passed of tests.faults.test_b\n" in capfd.readouterr().out


def test_a_lab_run_without_a_report_is_a_failure(make, tmp_path):
    (tmp_path / "lab-test.xml").unlink()
    assert parts.run(make, FILES) == 1


def test_every_file_of_lab_tests_must_run():
    files = parts.lab_files()
    assert {"tests.lab.test_deploy", "tests.faults.test_apt"} <= set(files)
    assert all((parts.TESTS.parent / f"{file.replace('.', os.sep)}.py").exists() for file in files)


def test_the_part_without_a_lab_holds_the_simulator_against_the_contract():
    said = subprocess.run(["make", "-n", "unit"], cwd=parts.TESTS.parent, capture_output=True, text=True, check=True)
    assert "tests/unit tests/contract" in said.stdout
