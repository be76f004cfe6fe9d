"""Jobs of the host, run by a real shell on this machine, in a folder of the test's own."""

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_short_line_is_shown_before_the_next_line_comes(tmp_path, follower):
    seen = tmp_path / "seen"
    text = 'echo short; n=0; until [ -e "$1" ]; do n=$((n + 1)); [ $n -lt 200 ] || exit 9; sleep 0.05; done; echo last'
    lines = []
    following = follower(job(text, str(seen)), lambda line: (lines.append(line), seen.touch()))
    with subprocess.Popen(["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        shell.stdin.write(following.script())
        shell.stdin.close()
        while chunk := shell.stdout.read1(1000):
            following.feed(chunk)
    assert (following.answer().exit, lines) == (0, ["short", "last"])


@given(st.data())
def test_lines_are_shown_once_and_at_once_whatever_the_chunks_and_connections(data):
    parts = st.sampled_from([b"a", b"some words", b"\n", b"\n\n", b"\nprovision-", b" end 0\n", b"\r\n", b"\xff"])
    log = b"".join(data.draw(st.lists(parts, max_size=12)))
    lines = []
    following = jobs.Follower(job("true"), lines.append)
    whole = [line.decode(errors="replace").rstrip("\r") for line in log.split(b"\n")]
    lost = data.draw(st.integers(0, 2))
    while following.answer() is None:
        mark = re.findall(rb"provision-[0-9a-f]{32}", following.script())[-2]
        begin = following.seen
        stream = log[begin:] + b"\n" + mark + b" end 3\n"
        stream = stream[: data.draw(st.integers(0, len(stream)))] if lost else stream
        lost -= bool(lost)
        following.feed(b"\n" + mark + b" begin\n")
        at = 0
        while at < len(stream):
            size = data.draw(st.integers(1, 40))
            following.feed(stream[at : at + size])
            at = min(at + size, len(stream))
            ended = log[: begin + at].count(b"\n")
            late = 1 if ended and not whole[ended - 1] else 0  # an empty line may wait for the next byte
            assert lines[: ended - late] == whole[: ended - late]
    assert lines == (whole if whole[-1] else whole[:-1])
    assert (following.answer().exit, following.answer().stdout) == (3, log)


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
