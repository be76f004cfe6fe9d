"""Jobs of the host, run by a real shell on this machine, in a folder of the test's own."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from provision.runs.lock import HostLock
from provision.ssh import jobs
from tests.shell import sh


@pytest.fixture
def follower(paths):
    """A function that makes a follower of a job in the folder of the test."""
    return lambda run, on_line=print: jobs.Follower(run, on_line, paths.jobs)


def follow(follower, chunk=7):
    done = subprocess.run(["sh", "-s"], input=follower.script(), capture_output=True, check=False, timeout=60)
    for start in range(0, len(done.stdout), chunk):
        follower.feed(done.stdout[start : start + chunk])
    return follower.answer()


def job(text, *args):
    return sh(text, *args, title="a job", job=True)


def test_a_job_is_followed_to_its_exit_code(follower):
    lines = []
    answer = follow(follower(job('for i in 1 2 3; do echo "$1 $i"; done; echo oops >&2; exit 4', "it's"), lines.append))
    assert answer.exit == 4
    assert lines == ["it's 1", "it's 2", "it's 3", "oops"]
    assert answer.text.splitlines() == lines


def test_a_job_runs_on_without_a_follower_and_is_found_again(tmp_path, follower):
    begun, end = tmp_path / "begun", tmp_path / "end"
    text = 'touch "$3"; until [ -e "$4" ]; do sleep 0.05; done; echo "$1" >>"$2"; echo ended'
    run = job(text, "once", *map(str, (tmp_path / "count", begun, end)))
    cut = subprocess.Popen(["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    cut.stdin.write(follower(run, print).script())
    cut.stdin.close()
    while not begun.exists():
        time.sleep(0.01)
    cut.kill()
    threading.Timer(0.5, end.touch).start()
    lines = []
    assert follow(follower(run, lines.append)).exit == 0
    assert lines == ["ended"]
    assert (tmp_path / "count").read_text() == "once\n"


def test_a_job_that_ended_without_a_connection_does_not_run_again(tmp_path, follower):
    run = job('echo "$1" >>"$2"; echo ended', "once", str(tmp_path / "count"))
    lines = []
    first = follower(run, lines.append)
    subprocess.run(["sh", "-s"], input=first.script(), capture_output=True, check=False, timeout=60)  # all of it lost
    assert follow(first).exit == 0
    assert (lines, (tmp_path / "count").read_text()) == (["ended"], "once\n")


def test_an_equal_finished_job_does_not_count_as_the_new_job(tmp_path, follower):
    run = job('echo "$1" >>"$2"', "again", str(tmp_path / "count"))
    follow(follower(run, print))
    follow(follower(run, print))
    assert (tmp_path / "count").read_text() == "again\nagain\n"


def test_releasing_the_lock_forgets_finished_jobs(follower, paths):
    follow(follower(job("echo hello")))
    lock = HostLock(paths)
    for command in (lock.acquire("run-1"), lock.release("run-1")):
        subprocess.run(command.words, input=command.stdin, check=True, timeout=60)
    assert list(Path(paths.jobs).iterdir()) == []


def test_the_same_command_is_the_same_job_and_another_command_another_job():
    assert jobs.folder(job("true", "a"), "/jobs") == jobs.folder(job("true", "a"), "/jobs")
    assert jobs.folder(job("true", "a"), "/jobs") != jobs.folder(job("true", "b"), "/jobs")


def test_a_truncated_log_is_no_answer(follower):
    broken = follower(job("true"))
    assert b"begin" in broken.script()
    broken.feed(b"\nhalf of something")
    assert broken.answer() is None
