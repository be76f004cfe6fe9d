"""The page of runs against real programs names every case and every failure, and no folder of the machine."""

from dataclasses import replace

import pytest

from tests import results
from tests.contract.ollama import cases
from tests.real import page
from tests.real.__main__ import PARTS, RESULTS
from tests.results import Machine, Result
from tests.verdicts import Program, Verdict

HOLDS = Verdict("Ollama", "0.17.4", "plain", "root GET", "holds", "", 0.25)
MACHINE = Machine(4, 16, "6.1.0", "CPU only")


def result(*verdicts, part="contract"):
    """The run of a part with two programs."""
    programs = [Program("Ollama", "0.17.4", "Go module, built here"), Program("nginx", "1.26.3", "built from source")]
    return Result(part, "2026-11-30", "abc1234", MACHINE, 480.0, "", programs, list(verdicts))


def render(*verdicts):
    """The page of a run of the contract alone."""
    return page.render([result(*verdicts)], ["contract"])


def test_the_page_says_program_version_origin_case_verdict_date_and_commit():
    text = render(HOLDS)
    row = "| contract | 2026-11-30 | abc1234 | 4 cores, 16 GiB, kernel 6.1.0, CPU only | 8 min | 1 holds |"
    assert row in text
    assert "| Ollama | 0.17.4 | Go module, built here | 1 |" in text
    assert "### plain: 1 holds" in text
    assert "| root GET | Ollama 0.17.4 | holds |  | 0.2 |" in text


def test_a_part_that_never_ran_is_named():
    text = page.render([result(HOLDS)], ["contract", "clients"])
    assert "| clients | not run: `make test-real PARTS=clients` was not typed yet |" in text


def test_each_part_keeps_its_own_date_and_commit_and_its_note_stands_below_its_heading():
    later = result(replace(HOLDS, group="scripts", case="a load"), part="scripts")
    later.date, later.commit, later.note = "2026-12-01", "def5678, with changes", "The part took something along."
    text = page.render([result(HOLDS), later], ["contract", "scripts"])
    assert "| contract | 2026-11-30 | abc1234 |" in text
    assert "| scripts | 2026-12-01 | def5678, with changes |" in text
    assert "The part took something along." in text.partition("### scripts")[2]
    assert "| Ollama | 0.17.4 | Go module, built here | 2 |" in text


def test_a_group_says_what_the_cases_are_about_and_what_is_simulated_in_them():
    text = render(HOLDS, replace(HOLDS, group="scripts", case="a load"))
    assert (
        "What clients ask first; methods, paths and connections. Requests and facts: `tests/contract/ollama/plain.yaml`"
        in text
    )
    assert "SIMULATED in all cases: the container and its card" in text.partition("### scripts")[2]


@pytest.mark.parametrize(
    ("verdict", "passes"),
    [
        (HOLDS, True),
        (replace(HOLDS, verdict="listed", evidence="a reason"), True),
        (replace(HOLDS, verdict="not run", evidence="a reason"), True),
        (replace(HOLDS, verdict="not run"), False),
        (replace(HOLDS, verdict="differs", evidence="status"), False),
        (replace(HOLDS, verdict="failed", evidence="no Go"), False),
    ],
)
def test_a_run_fails_with_a_difference_a_failure_or_a_case_left_out_without_a_reason(verdict, passes):
    verdicts = (HOLDS, replace(verdict, case="root HEAD"))
    assert result(*verdicts).passed is passes
    assert ("## What fails" in render(*verdicts)) is not passes


def test_a_run_without_verdicts_does_not_pass():
    assert not result().passed


def test_a_verdict_that_fails_the_run_stands_at_the_top_with_the_evidence():
    text = render(HOLDS, replace(HOLDS, case="root HEAD", verdict="failed", evidence="no program `go`"))
    assert "* plain: root HEAD (Ollama 0.17.4): failed: no program `go`" in text.partition("## Every case")[0]


def test_the_page_names_what_only_a_recording_backs():
    judged = [
        Verdict("Ollama", "0.17.4", case.group, case.name, "holds")
        for case in cases.load()
        if case.name in {"root GET", "embed text"}
    ]
    backed = render(*judged).partition("What only a recording backs")[2].partition("## Every case")[0]
    older, unasked = (line for line in backed.splitlines() if line.startswith("*"))
    assert "(1): `embed text`." in older  # the texts of 0.17 and 0.33 differ
    assert "`root HEAD`" in unasked
    assert "`root GET`" not in backed
    assert "`show in other case`" in next(
        line for line in backed.splitlines() if line.startswith("Without a recording")
    )


def test_evidence_is_one_short_line_without_folders_ports_and_registries():
    evidence = "open /tmp/some/folder/x: 127.0.0.1:40213 | https://models.example.net/v2/x\n<b> " + "y" * 1000
    text = render(replace(HOLDS, evidence=evidence))
    (row,) = (line for line in text.splitlines() if line.startswith("| root GET"))
    assert "open FOLDER: 127.0.0.1:PORT \\| REGISTRY/v2/x &lt;b>" in row
    assert len(row) < 600


def test_a_page_has_no_drawing_for_a_terminal():
    drawn = replace(HOLDS, evidence="exit 1: \x1b[?2026h\x1b[?25l\x1b[1G\u2819 \x1b[K\x1b[?25hError: refused")
    assert "| exit 1: Error: refused |" in render(drawn)


def test_the_committed_page_is_the_page_of_the_committed_results():
    assert page.PAGE.read_text() == page.render(results.load(RESULTS, PARTS), PARTS)
