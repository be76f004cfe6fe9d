"""The project's own lab tests on cgroup v2, in the same carrier as `demo`: tests/lab/test_lab.py first, then the sample
of the faults, then the other files of tests/lab as far as the time allows. Each test has a row; a file without time
says so."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tests.results import ROOT
from tests.verdicts import Verdict, Word
from tests.vm import demo
from tests.vm.carrier import OFFLINE, Carrier
from tests.vm.case import Case, Judged, NotRunError, ending

MINUTES = 30
"""The time of the part from `lab up` on, with a quiet machine of two cores; other tests are not run."""
_GRACE = 120  # seconds for a test at work when the time is over
_OVER = (124, 137)  # exit codes of timeout(1) for a command without an end in time
_TOO_LATE = f"the {MINUTES} minutes of the part were over"
_FIRST = ("tests/lab/test_lab.py", "tests/faults", "tests/lab/test_deploy.py", "tests/lab/test_reboot.py")
_NAME = "carried"
_REPORT = "/root/report.xml"
_BUILDS = f"/var/lib/provision-lab/{_NAME}/cache"


def files(root: Path = ROOT) -> list[str]:
    """Return the files and folders of the part's tests, the most telling first."""
    rest = [f"tests/lab/{path.name}" for path in sorted((root / "tests/lab").glob("test_*.py"))]
    return [*_FIRST, *(name for name in rest if name not in _FIRST)]


def cases(carrier: Carrier, judge: Judged) -> list[Case]:
    """Return the cases of the part: the carrier, the lab, and each file of tests.

    Args:
        carrier: the machine of the tests.
        judge: gets the version of the kernel.
    """
    tests = Tests(carrier, judge)
    return [
        Case("the carrier boots with Debian's kernel and a unified cgroup hierarchy", tests.boots),
        Case("a lab comes up", tests.up),
        *(Case(name, lambda name=name: tests.run(name), alone=True) for name in files()),  # type: ignore[misc]
    ]


class Tests:
    """The tests of the part in the carrier.

    Args:
        carrier: the machine of the tests.
        judge: gets the version of the kernel.
    """

    def __init__(self, carrier: Carrier, judge: Judged) -> None:
        self._carrier = carrier
        self._judge = judge
        self._begun = 0.0

    def boots(self) -> str:
        """The carrier boots; with the part `demo` before, the carrier runs and has the clone."""
        said = demo.booted(self._carrier, self._judge)
        if self._carrier.login.sh("test -x /root/provision/.venv/bin/pytest", check=False).code:
            said = f"{said}; {demo.installed(self._carrier)}"
        return said

    def up(self) -> str:
        """The lab that the tests share is up, and gets the nginx of the carrier."""
        self._begun = time.monotonic()
        said = self._carrier.login.sh(
            f"cd /root/provision; {OFFLINE}; .venv/bin/provision lab up --install --name {_NAME};"
            f" if [ -d /root/.cache/provision ]; then mkdir -p {_BUILDS}; cp -a /root/.cache/provision {_BUILDS}; fi",
            120,
        )
        return f"lab up: {said.seconds:.0f} s"

    def run(self, name: str) -> Sequence[Verdict]:
        """Run the tests of a file, and return a verdict for each, and for the rest of the file where the time is over.

        Raises:
            NotRunError: the time of the part is over.
        """
        left = MINUTES * 60 - (time.monotonic() - self._begun)
        if left < 60:
            raise NotRunError(_TOO_LATE)
        limit = left + _GRACE
        sample = "-m sample" if name == "tests/faults" else "-m 'not matrix'"
        env = f"PROVISION_REQUIRE_LAB=1 PROVISION_KEEP_LAB=1 PROVISION_LAB_NAME={_NAME}"
        said = self._carrier.login.sh(
            f"cd /root/provision; rm -f {_REPORT}; export {env};"
            f" timeout -k {_GRACE} -s INT {limit:.0f} .venv/bin/pytest -q {sample} --junitxml={_REPORT} {name}",
            limit + 2 * _GRACE,
            check=False,
        )
        report = self._carrier.login.sh(f"cat {_REPORT} || true").text
        over = said.code in _OVER
        if "<testcase" not in report:
            if over:
                raise NotRunError(f"{_TOO_LATE}, and no test of the file had ended")
            raise AssertionError(f"pytest ran no test: {ending(said.text)}")
        judge, why = self._judge, f"{_TOO_LATE}: the other tests of the file have not run"
        rest = [Verdict(judge.program, judge.version, "lab", name, "not run", why)] if over else []
        return [*verdicts(report, judge), *rest]


def verdicts(report: str, judge: Judged) -> list[Verdict]:
    """Return a verdict for each test: a failure differs, and an error before or after the test gives no verdict.

    Args:
        report: pytest's report in JUnit's XML. An interrupted pytest adds a row without a name, which is no test.
        judge: the judged program.
    """
    rows = ET.fromstring(report).iter("testcase")  # noqa: S314 - pytest wrote it
    return [_verdict(row, judge) for row in rows if row.get("name")]


def _verdict(row: ET.Element, judge: Judged) -> Verdict:
    words: dict[str, Word] = {"failure": "differs", "error": "failed", "skipped": "not run"}
    broken = next((each for each in row if each.tag in words), None)
    word: Word = "holds" if broken is None else words[broken.tag]
    name = f"{row.get('classname', '').replace('.', '/')}.py: {row.get('name', '')}"
    evidence = "" if broken is None else _reason(broken)
    return Verdict(judge.program, judge.version, "lab", name, word, evidence, float(row.get("time", 0)))


def _reason(broken: ET.Element) -> str:
    """The lines with pytest's mark of an error, or the end of the text."""
    text = f"{broken.get('message', '')}\n{broken.text or ''}"
    return "; ".join(line[1:].strip() for line in text.splitlines() if line.startswith("E ")) or ending(text)
