"""What `make test` runs, part by part: `python -m tests.parts MAKE`. The last lines say how long each part took.

Runs before anything is installed: it uses the standard library alone.
"""

import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
# The parts of a row run side by side.
ROWS = (("install",), ("lint",), ("unit", "lab-parts"), ("lab-test",))
TARGETS = {"install": ".venv/installed"}
# A file with long tests alone, which run in their slices.
LONG = re.compile(r"^pytestmark = .*pytest\.mark\.matrix", re.MULTILINE)


@dataclass
class Part:
    """One part of the run.

    Attributes:
        name: the part.
        code: the exit code; None where the part did not run.
        seconds: how long the part took.
        tests: how its tests ended, by "passed", "failed" and "skipped".
        missing: the files without a passed test, though their tests are the point of the part.
    """

    name: str
    code: int | None = None
    seconds: float = 0
    tests: Counter[str] | None = None
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"  {_counted(self.tests)}" if self.tests else ""
        if self.code is None:
            return f"{self.name:<12} not run"
        return f"{self.name:<12} {_clock(self.seconds)}{counts}{'  FAILED' if self.failed else ''}"

    @property
    def failed(self) -> bool:
        return self.code != 0 or bool(self.missing)


def run(make: list[str], wanted: Iterable[str] | None = None) -> int:
    """Run every part, the next row only if none failed, and print the table; the exit code.

    Args:
        make: the words that start make.
        wanted: the files with a test that must pass in the lab; by default all of tests/lab and tests/faults.
    """
    parts = {name: Part(name) for row in ROWS for name in row}
    begun, code = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        reports = Path(folder)
        try:
            for row in ROWS:
                _side_by_side([parts[name] for name in row], make, reports)
                _judge(parts, reports, lab_files() if wanted is None else wanted)
                code = int(any(parts[name].failed for name in row))
                if code:
                    break
        except KeyboardInterrupt:
            code = 130
    _print(parts.values(), time.monotonic() - begun)
    return code


def _side_by_side(parts: list[Part], make: list[str], reports: Path) -> None:
    begun = time.monotonic()
    running = {}
    for part in parts:
        words = [*make, "--no-print-directory", TARGETS.get(part.name, part.name), f"REPORTS={reports}"]
        running[part.name] = subprocess.Popen(words)
    try:
        while any(part.code is None for part in parts):
            for part in parts:
                if part.code is None and running[part.name].poll() is not None:
                    part.code, part.seconds = running[part.name].returncode, time.monotonic() - begun
            time.sleep(0.1)
    except KeyboardInterrupt:
        for process in running.values():  # Ctrl-C reached the processes too
            process.wait()
        raise


def _judge(parts: dict[str, Part], reports: Path, wanted: Iterable[str]) -> None:
    """Read how the tests of each part ended, and look for lab tests that did not run."""
    for part in parts.values():
        report = reports / f"{part.name}.xml"
        if part.code is not None and report.exists():
            part.tests = Counter(ending for _, ending in _cases(report))
    lab = parts["lab-test"]
    if lab.code == 0:
        report = reports / "lab-test.xml"
        passed = {name for name, ending in _cases(report) if ending == "passed"} if report.exists() else set()
        lab.missing = tuple(file for file in wanted if not any(f"{name}.".startswith(f"{file}.") for name in passed))


def _cases(report: Path) -> list[tuple[str, str]]:
    """Return the class of every test in a report of pytest, and how the test ended."""
    endings = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    cases = ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it
    return [
        (case.get("classname", ""), next((endings[e.tag] for e in case if e.tag in endings), "passed"))
        for case in cases
    ]


def lab_files() -> list[str]:
    """Return every file of lab tests that has a test in every run, as reports write it."""
    return [
        f"tests.{path.parent.name}.{path.stem}"
        for kind in ("lab", "faults")
        for path in sorted((TESTS / kind).glob("test_*.py"))
        if not LONG.search(path.read_text())
    ]


def _print(parts: Iterable[Part], seconds: float) -> None:
    tests = Counter[str]()
    print()
    for part in parts:
        print(part)
        tests += part.tests or Counter()
    for part in parts:
        if part.missing:
            print(f"the lab tests did not run: no test passed of {', '.join(part.missing)}")
    print(f"{'in all':<12} {_clock(seconds)}")
    print(f"tests: {_counted(tests)}", flush=True)


def _counted(tests: Counter[str]) -> str:
    skipped = f", {tests['skipped']} skipped" if tests["skipped"] else ""
    return f"{tests['passed']} passed, {tests['failed']} failed{skipped}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:>3}m{int(seconds) % 60:02}s"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
