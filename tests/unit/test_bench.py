"""The parts of the benches: a failed run, or a run that changed something, must not count."""

from pathlib import Path

import pytest

from tests.bench import page
from tests.bench.balancer.client import Answer
from tests.bench.measure import measured
from tests.bench.peers.results import CHANGE, NOOP, Record, Results
from tests.bench.peers.tools import ANSIBLE_QUIET, PYINFRA_QUIET
from tests.bench.roll.__main__ import Phase, served_then

RECAP = "PLAY RECAP ***\ngpu-01 : ok=11   changed={}    unreachable={}    failed={}    skipped=2\n"


@pytest.mark.parametrize(
    ("counts", "quiet"), [((0, 0, 0), True), ((2, 0, 0), False), ((0, 1, 0), False), ((0, 0, 1), False)]
)
def test_a_recap_of_ansible_without_changes_is_recognised(counts, quiet):
    said = RECAP.format(0, 0, 0) + RECAP.format(*counts).partition("\n")[2]
    assert bool(ANSIBLE_QUIET.search(said)) is quiet


@pytest.mark.parametrize(("success", "error", "quiet"), [("-", "-", True), ("2", "-", False), ("-", "1", False)])
def test_a_total_of_pyinfra_without_changes_is_recognised(success, error, quiet):
    said = f"    Grand total                14      {success}         {error}       12          "
    assert bool(PYINFRA_QUIET.search(said)) is quiet


def test_a_process_left_running_by_a_program_is_ended():
    sample = measured(["sh", "-c", "setsid sleep 1000 >&- 2>&- & echo $!"])
    assert sample.code == 0
    assert not Path(f"/proc/{sample.out.strip()}").exists()


def test_a_program_is_interrupted_as_by_ctrl_c():
    assert measured(["sleep", "1000"], interrupt=0.1).code == -2


def test_a_program_that_takes_too_long_is_killed():
    assert measured(["sleep", "1000"], timeout=0.1).code == -9


def test_threads_and_files_are_watched():
    peak = measured(["sleep", "0.2"], watch=True).peak
    assert peak.threads == 1
    assert peak.files >= 3


def test_the_page_keeps_the_text_outside_the_marks(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# Words\n<!-- one -->\nold\n<!-- /one -->\nmore words\n")
    page.write("one", "new", path)
    page.write("two", "other", path)
    page.write("one", "newer", path)
    assert path.read_text() == (
        "# Words\n<!-- one -->\nnewer\n<!-- /one -->\nmore words\n\n<!-- two -->\nother\n<!-- /two -->\n"
    )


@pytest.fixture
def results(tmp_path):
    made = Results(tmp_path / "results.jsonl", resume=False)
    for number, wall in enumerate((1.0, 3.0, 2.0), 1):
        made.add(Record(NOOP, 1, 0.0, "floor", number, wall=wall, execs=1))
        made.add(Record(NOOP, 1, 30.0, "floor", number, wall=wall + 0.3, execs=1))
    made.add(Record(NOOP, 1, 0.0, "provision deploy", 1, wall=3.0))
    made.add(Record(NOOP, 1, 0.0, "pyinfra", 1, wall=0.1, failed="exit 3"))
    return made


def test_medians_ratios_and_round_trips(results):
    assert "| floor | 2.00 | 2.30 |" in results.seconds(NOOP)
    assert "| provision deploy | 3.00 (1.5) ¹ | - |" in results.seconds(NOOP)
    assert "| deploy to floor | at most 1.5 | 1.5 | - |" in results.targets()
    assert results.costs(NOOP, (1, 0.0)).splitlines()[2].endswith("| 10 |")


def test_a_failed_run_does_not_count(results):
    assert "| pyinfra | failed | - |" in results.seconds(NOOP)
    assert results.wall(NOOP, (1, 0.0), "pyinfra") is None
    assert len(results.failures()) == 1


def test_an_interrupted_bench_resumes(results, tmp_path):
    again = Results(tmp_path / "results.jsonl", resume=True)
    assert again.records == results.records
    assert not again.of(CHANGE, (1, 0.0), "floor")
    assert not Results(tmp_path / "results.jsonl", resume=False).records


VICTIM, KILLED = "gpu-01/ollama1", 5.0


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ([Answer("well", 1.0)], ""),
        ([], "nothing was answered"),
        ([Answer("well", 1.0), Answer("failed", 2.0, "502")], "502 of nobody"),
        ([Answer("well", 1.0), Answer("cut", 2.0, "cut", "gpu-02/ollama1")], "cut of gpu-02/ollama1"),
        ([Answer("well", 1.0), Answer("served", 4.9, "cut", VICTIM)], ""),
        ([Answer("well", 1.0), Answer("later", 5.1, "cut", VICTIM)], f"cut of {VICTIM}"),
        ([Answer("well", 1.0), Answer("queued", 4.9, "502", VICTIM)], ""),
        ([Answer("well", 1.0), Answer("retried", 4.9, "502", "gpu-02/ollama1")], "502 of gpu-02/ollama1"),
        ([Answer("served", 4.9, "cut", VICTIM)], "nothing was answered"),
    ],
)
def test_a_kill_excuses_only_the_requests_that_the_victim_was_serving(answers, wrong):
    phase = Phase("x", 1.0, answers, served_then(answers, VICTIM, KILLED))
    assert phase.wrong == (wrong and f"x: {wrong}")


def test_a_roll_excuses_no_failed_request():
    assert Phase("x", 1.0, [Answer("well", 1.0), Answer("cut", 2.0, "cut", VICTIM)]).wrong == f"x: cut of {VICTIM}"
