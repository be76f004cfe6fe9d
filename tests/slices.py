"""The slice of the faults and long tests that runs beside the sample: `python -m tests.slices` prints its number.

Every test belongs to one of forty slices by its place in the list, and every commit to a slice by the number of
earlier commits, so that forty commits in a row run every test. A slice takes five neighbouring tests, then five
further on: where a deploy is cut at each of its steps in turn, the next case proves the case before and goes on there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SLICES = 40
RUN = 5  # tests that stay together
ROOT = Path(__file__).parents[1]


def of_commit(root: Path = ROOT) -> int:
    """Return the slice of the checked-out commit, by the number of commits; in a shallow clone by its hash."""
    if _git(root, "rev-parse", "--is-shallow-repository") == "true":
        return int(_git(root, "rev-parse", "HEAD"), 16) % SLICES
    return int(_git(root, "rev-list", "--count", "HEAD") or 0) % SLICES


def of_test(place: int) -> int:
    """Return the slice of a test, by its place among the faults and long tests outside the sample."""
    return place // RUN % SLICES


def chosen() -> int | None:
    """Return the number of the slice chosen for this run, or None."""
    number = os.environ.get("PROVISION_SLICE", "")
    return int(number) if number else None


def mark(items: Sequence["pytest.Item"]) -> None:
    """Mark the tests that the chosen slice adds to the sample.

    Args:
        items: all collected tests, in order.
    """
    tests = [item for item in items if item.get_closest_marker("faults") or item.get_closest_marker("matrix")]
    tests = [item for item in tests if not item.get_closest_marker("sample")]
    for place, item in enumerate(tests):
        if of_test(place) == chosen():
            item.add_marker("slice")


def summary(reporter: "pytest.TerminalReporter") -> None:
    """Name the tests of the slice that ran."""
    reports = [report for kind, reports in reporter.stats.items() if kind != "deselected" for report in reports]
    names = sorted({report.nodeid for report in reports if "slice" in getattr(report, "keywords", ())})
    if chosen() is not None:
        reporter.section(f"slice {chosen()} of {SLICES}: {len(names)} faults and long tests beside the sample")
        for name in names:
            reporter.write_line(name)


def _git(root: Path, *words: str) -> str:
    """Run git, also in a checkout of somebody else: `sudo make test`."""
    argv = ["git", "-c", "safe.directory=*", "-C", str(root), *words]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        print("no git history here: slice 0", file=sys.stderr)
        return ""


if __name__ == "__main__":
    print(of_commit())
