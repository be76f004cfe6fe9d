"""`make test-vm` names what a machine lacks, leaves cases out by name after a broken case, keeps results by part."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from provision.lab.shell import LabError
from tests import results
from tests.verdicts import Verdict
from tests.vm import demo, lab, page
from tests.vm.__main__ import RESULTS, Part, main, parts
from tests.vm.carrier import Carrier
from tests.vm.case import Case, Judged, NotRunError, played
from tests.vm.guest import Said, talked

JUDGED = Judged("Debian 12 on Linux", "6.1.0")


def raising(error: Exception) -> Callable[[], str]:
    """Work of a case that ends with an error."""

    def work() -> str:
        raise error

    return work


def words(cases: Sequence[Case]) -> list[tuple[str, str, str]]:
    """Name, verdict and evidence of each case."""
    return [(each.case, each.verdict, each.evidence) for told in played("demo", JUDGED, cases) for each in told]


def test_cases_give_their_evidence() -> None:
    assert words([Case("boots", lambda: "12 s"), Case("serves", lambda: "yes")]) == [
        ("boots", "holds", "12 s"),
        ("serves", "holds", "yes"),
    ]


@pytest.mark.parametrize(
    ("error", "word", "evidence"),
    [
        (AssertionError("two are left"), "differs", "two are left"),
        (AssertionError(), "differs", "the condition does not hold"),
        (LabError("no boot; its console: panic", "look there"), "failed", "no boot; its console: panic look there"),
        (subprocess.TimeoutExpired("make", 60, b"so far"), "failed", "no end within 60 s: so far"),
        (OSError("gone"), "failed", "OSError: gone"),
        (NotRunError("no time was left"), "not run", "no time was left"),
    ],
)
def test_an_error_becomes_a_verdict_with_evidence(error: Exception, word: str, evidence: str) -> None:
    assert words([Case("boots", raising(error))]) == [("boots", word, evidence)]


def test_after_a_broken_case_the_cases_that_build_on_it_are_not_run_and_say_so() -> None:
    cases = [Case("boots", raising(AssertionError("no"))), Case("serves", lambda: "yes")]
    assert words(cases)[1] == ("serves", "not run", "the case before is broken: boots")


def test_after_a_broken_case_that_stands_alone_the_part_goes_on() -> None:
    cases = [Case("AppArmor", raising(AssertionError("no")), alone=True), Case("serves", lambda: "yes")]
    assert words(cases)[1] == ("serves", "holds", "yes")


def test_a_case_may_give_verdicts_of_its_own_and_one_of_them_breaks_no_other_case() -> None:
    own = [Verdict("x", "1", "demo", "a test", "differs", "no"), Verdict("x", "1", "demo", "another", "holds")]
    assert [word for _, word, _ in words([Case("file", lambda: own), Case("next", lambda: "yes")])] == [
        "differs",
        "holds",
        "holds",
    ]


def fake_parts(work: Callable[[], str] = lambda: "yes") -> dict[str, Part]:
    """Two parts that boot nothing."""

    def cases(_carrier: Carrier, _judged: Judged) -> list[Case]:
        return [Case("serves", work)]

    return {name: Part(f"About {name}.", Judged("Debian", "12"), "bookworm", cases, 6) for name in ("demo", "lab")}


def run(folder: Path, *chosen: str, known: dict[str, Part] | None = None, lacks: str = "") -> int:
    """Run fake parts, with results and page in a folder."""

    def require(_memory: float) -> str:
        if lacks:
            raise NotRunError(lacks)
        return "emulated"

    target = folder / "vm.md"
    return main(chosen, known or fake_parts(), require=require, folder=folder, target=target, work=folder / "work")


def test_a_run_keeps_results_and_page_and_a_part_alone_leaves_the_others_alone(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    before = (tmp_path / "demo.json").read_bytes()
    assert run(tmp_path, "lab", known=fake_parts(raising(AssertionError("no")))) == 1
    assert (tmp_path / "demo.json").read_bytes() == before
    text = (tmp_path / "vm.md").read_text()
    assert "### demo: 1 holds\n\nAbout demo." in text
    assert "* lab: serves (Debian 12): differs: no" in text.partition("## Every case")[0]
    assert "emulated" in text


def test_a_part_that_cannot_run_is_not_run_on_the_page_and_the_exit_code_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, "demo", lacks="no qemu: apt-get failed") == 1
    text = (tmp_path / "vm.md").read_text()
    assert "| serves | Debian 12 | not run | no qemu: apt-get failed | 0.0 |" in text
    assert "| lab | not run: `make test-vm PARTS=lab` was not typed yet |" in text


def test_a_run_that_breaks_off_leaves_its_verdicts_and_names_the_open_cases(tmp_path: Path) -> None:
    def cases(_carrier: Carrier, _judged: Judged) -> list[Case]:
        return [Case("boots", lambda: "12 s"), Case("serves", raising(MemoryError("killed"))), Case("ends", lambda: "")]

    part = Part("About demo.", Judged("Debian", "12"), "bookworm", cases, 6)
    with pytest.raises(MemoryError):
        run(tmp_path, "demo", known={"demo": part})
    text = (tmp_path / "vm.md").read_text()
    assert "| boots | Debian 12 | holds | 12 s |" in text
    for name in ("serves", "ends"):
        assert f"| {name} | Debian 12 | failed | the run broke off before this case |" in text


def test_an_unknown_part_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "everything") == 2
    assert "no such part: everything; there are demo, lab" in capsys.readouterr().err


def test_the_parts_of_the_run_are_the_parts_of_the_issue() -> None:
    known = parts()
    assert list(known) == ["demo", "lab", "hosts-bookworm", "hosts-trixie"]
    assert all("SIMULATED" in known[name].about for name in ("demo", "hosts-bookworm", "hosts-trixie"))


def test_the_committed_page_is_the_page_of_the_committed_results() -> None:
    known = {name: part.about for name, part in parts().items()}
    assert page.PAGE.read_text() == page.render(results.load(RESULTS, list(known)), known)


def test_the_lab_part_has_every_file_of_lab_tests_and_the_sample_of_the_faults() -> None:
    files = lab.files()
    assert files[0] == "tests/lab/test_lab.py"
    assert "tests/faults" in files
    assert {path.name for path in Path("tests/lab").glob("test_*.py")} == {
        Path(name).name for name in files if name != "tests/faults"
    }


REPORT = """<testsuites><testsuite>
<testcase classname="tests.lab.test_lab" name="test_up" time="1.5" />
<testcase classname="tests.lab.test_lab" name="test_cut" time="2"><failure message="assert 1 == 2">def test_cut():
&gt;       assert 1 == 2
E       assert 1 == 2</failure></testcase>
<testcase classname="tests.lab.test_lab" name="test_save" time="0"><error message="no lab">gone</error></testcase>
<testcase classname="" name="" time="0.1" />
</testsuite></testsuites>"""


class FakeCarrier:
    """A carrier: pytest ends there with an exit code and leaves a report."""

    def __init__(self, code: int, report: str) -> None:
        self.login = self
        self._code = code
        self._report = report

    def sh(self, text: str, seconds: float = 60, *, check: bool = True) -> Said:
        """Answer to the commands of the part."""
        if "pytest" in text:
            assert not check or not self._code
            return Said(self._code, [(1.0, "no tests ran")])
        return Said(0, [(0.0, self._report)] if text.startswith("cat") else [])


def told_by_the_lab(code: int, report: str) -> list[tuple[str, str, str]]:
    """Name, verdict and evidence of a file of lab tests."""
    tests = lab.Tests(cast(Carrier, FakeCarrier(code, report)), JUDGED)
    tests.up()
    return words([Case("tests/lab/test_lab.py", lambda: tests.run("tests/lab/test_lab.py"))])


def test_a_file_of_lab_tests_that_runs_out_of_time_says_so() -> None:
    assert [name for name, _, _ in told_by_the_lab(1, REPORT)][-1].endswith("test_save")  # a whole file
    name, word, why = told_by_the_lab(124, REPORT)[-1]
    assert (name, word) == ("tests/lab/test_lab.py", "not run")
    assert why.endswith("were over: the other tests of the file have not run")


def test_a_file_without_a_finished_test_differs_only_where_there_was_time() -> None:
    assert [word for _, word, _ in told_by_the_lab(124, "")] == ["not run"]
    assert told_by_the_lab(5, "") == [("tests/lab/test_lab.py", "differs", "pytest ran no test: no tests ran")]


def test_each_test_of_the_lab_has_a_verdict_with_pytests_evidence() -> None:
    told = lab.verdicts(REPORT, JUDGED)
    assert [(each.case, each.verdict, each.evidence, each.seconds) for each in told] == [
        ("tests/lab/test_lab.py: test_up", "holds", "", 1.5),
        ("tests/lab/test_lab.py: test_cut", "differs", "assert 1 == 2", 2.0),
        ("tests/lab/test_lab.py: test_save", "failed", "no lab\ngone", 0.0),
    ]
    assert {each.version for each in told} == {"6.1.0"}


def test_the_phases_of_the_demo_come_from_its_prompts() -> None:
    lines = [(1.0, "booting"), (18.0, "$ provision plan --no-diff"), (20.0, "$ provision deploy --yes"), (30.5, "ok")]
    lines += [(40.0, "$ provision verify"), (50.0, "$ curl -N x"), (51.0, "Answered by gpu-01")]
    assert demo.phases(Said(0, lines)) == "lab up 18 s, plan 2 s, deploy 20 s, verify 10 s"


def test_a_command_gets_its_input_and_its_lines_go_to_the_log(tmp_path: Path) -> None:
    text = "import sys; print(len(sys.stdin.read())); print('to stderr', file=sys.stderr); sys.exit(3)"
    said = talked([sys.executable, "-c", text], tmp_path / "log", 60, b"x" * 200_000)
    assert (said.code, sorted(said.text.splitlines())) == (3, ["200000", "to stderr"])
    assert "to stderr" in (tmp_path / "log").read_text()


def test_a_command_that_takes_too_long_is_ended_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        talked(["sh", "-c", "echo so far; exec sleep 600"], tmp_path / "log", 3)
    assert caught.value.output == b"so far"
