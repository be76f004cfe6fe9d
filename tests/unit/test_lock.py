"""The lock's own scripts, run by the shell of this machine in a folder of the test's."""

import shutil
import subprocess
import time

import pytest

from provision import lock
from provision.command import Answer
from provision.errors import FactError, HostError, LockedError

ALICE, BOB = "alice@desk", "bob@lab"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "FOLDER", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def by(monkeypatch):
    """Speak as somebody."""

    def speak(name):
        monkeypatch.setattr(lock, "who", lambda: name)

    speak(ALICE)
    return speak


def ran(command):
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=False, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


def status():
    return lock.held(ran(lock.status()))


def test_nobody_has_it_and_looking_writes_nothing(folder):
    assert status() is None
    assert not folder.exists()


def test_a_run_takes_it_renews_it_and_gives_it_back(by):
    lock.checked(ran(lock.acquire("run-1")))
    first = status()
    assert (first.run, first.who, first.busy, first.why) == ("run-1", ALICE, False, "")
    assert 170 <= first.left <= 180
    lock.checked(ran(lock.acquire("run-1", 1000)))
    assert status().left > 1000
    ran(lock.release("run-2"))
    assert status() is not None, "only its own"
    ran(lock.release("run-1"))
    assert status() is None


def test_another_run_is_refused_and_told_who_has_it(by):
    lock.checked(ran(lock.acquire("run-1")))
    with pytest.raises(LockedError, match=r"alice@desk, run run-1, for \d+ s, lease ends in 3 min") as caught:
        lock.checked(ran(lock.acquire("run-2")))
    assert "expires by itself" in caught.value.hint


def test_a_lease_that_ended_is_taken_over_but_not_while_a_job_runs_for_somebody_else(by, folder, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", -5.0)
    monkeypatch.setattr(lock, "RENEW_SECONDS", -5.0)
    lock.checked(ran(lock.acquire("run-1")))
    (folder / "jobs/a").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as job:
        (folder / "jobs/a/pid").write_text(str(job.pid))
        by(BOB)
        with pytest.raises(LockedError, match="a job of it still runs here"):
            lock.checked(ran(lock.acquire("run-2")))
        by(ALICE)
        lock.checked(ran(lock.acquire("run-3")))
        assert status().run == "run-3", "who began the job may come back to it"
        job.kill()


def test_a_lock_by_hand_does_not_expire_and_says_why(by, folder):
    lock.checked(ran(lock.acquire_by_hand("kernel upgrade; $(touch /tmp/x) 'q'")))
    found = status()
    assert (found.run, found.left, found.why, found.is_over) == ("", None, "kernel upgrade; $(touch /tmp/x) 'q'", False)
    with pytest.raises(LockedError, match=r"alice@desk by hand for .*: kernel upgrade") as caught:
        lock.checked(ran(lock.acquire("run-1")))
    assert "provision lock release" in caught.value.hint
    by(BOB)
    with pytest.raises(LockedError, match="by hand"):
        lock.checked(ran(lock.acquire_by_hand("mine")))
    assert lock.held(ran(lock.take_away(force=False))).who == ALICE, "anybody may release it: it is for people"
    assert status() is None


def test_a_lock_by_hand_outlives_a_boot_and_a_lease_does_not(by, folder, tmp_path):
    lock.checked(ran(lock.acquire("run-1")))
    shutil.rmtree(folder)
    assert status() is None
    lock.checked(ran(lock.acquire_by_hand("new card")))
    shutil.rmtree(folder)
    assert 0 <= status().seconds < 60
    with pytest.raises(LockedError, match="new card"):
        lock.checked(ran(lock.acquire("run-1")))
    shutil.rmtree(folder)
    assert (tmp_path / "by-hand/lock").stat().st_mode & 0o777 == 0o600
    assert lock.held(ran(lock.take_away(force=False))).why == "new card"
    assert status() is None


def test_a_lock_by_hand_that_is_garbage_keeps_nobody_off(by, tmp_path):
    (tmp_path / "by-hand").mkdir()
    (tmp_path / "by-hand/lock").write_text("garbage\n")
    lock.checked(ran(lock.acquire("run-1")))
    assert status().run == "run-1"
    ran(lock.release("run-1"))
    assert status() is None


def test_what_a_lock_by_hand_replaces_is_gone_with_it(by, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", -5.0)
    monkeypatch.setattr(lock, "RENEW_SECONDS", -5.0)
    lock.checked(ran(lock.acquire("run-1")))
    lock.checked(ran(lock.acquire_by_hand("mine")))
    assert lock.held(ran(lock.take_away(force=False))).why == "mine"
    assert status() is None


def test_a_runs_lock_is_taken_away_by_force_alone(by):
    lock.checked(ran(lock.acquire("run-1")))
    with pytest.raises(LockedError, match="run-1") as caught:
        lock.held(ran(lock.take_away(force=False)))
    assert "--force" in caught.value.hint
    assert lock.held(ran(lock.take_away(force=True))).run == "run-1"
    assert status() is None
    assert lock.held(ran(lock.take_away(force=True))) is None


@pytest.mark.parametrize(
    "text", ["", "garbage", "run-1", "a b c d\n", "run-1 -5 x alice\n", "\n\n", "run 99999999999999999999 1 x\n"]
)
def test_a_lock_that_is_not_ours_to_read_is_no_end(by, folder, text):
    folder.mkdir()
    (folder / "lock").write_text(text)
    answer = ran(lock.acquire("run-2"))
    if answer.exit:
        with pytest.raises(HostError):
            lock.checked(answer)
        ran(lock.take_away(force=True))
        lock.checked(ran(lock.acquire("run-2")))
    assert status().run == "run-2"


def test_an_answer_that_is_no_lock_is_an_error():
    with pytest.raises(FactError):
        lock.held(Answer(0, b"something else\n", b""))


def test_two_at_once_one_has_it(by):
    commands = [lock.acquire(f"run-{number}") for number in range(6)]
    processes = [
        subprocess.Popen(one.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for one in commands
    ]
    for process, command in zip(processes, commands, strict=True):
        process.stdin.write(command.stdin)
        process.stdin.close()
    deadline = time.monotonic() + 60
    codes = sorted(process.wait(max(0.1, deadline - time.monotonic())) for process in processes)
    for process in processes:
        process.stdout.close()
        process.stderr.close()
    assert codes == [0, *[lock.HELD] * 5]


def test_a_lock_that_is_given_back_while_a_job_runs_still_keeps_others_off(by, folder):
    lock.checked(ran(lock.acquire("run-1")))
    (folder / "jobs/a").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as job:
        (folder / "jobs/a/pid").write_text(str(job.pid))
        assert ran(lock.release("run-1")) == Answer(0, b"", b"")
        by(BOB)
        with pytest.raises(LockedError, match="its lease has ended, a job of it still runs here"):
            lock.checked(ran(lock.acquire("run-2")))
        by(ALICE)
        lock.checked(ran(lock.acquire("run-3")))
        job.kill()


def test_a_user_without_a_name_has_a_number(monkeypatch):
    monkeypatch.setattr(lock.getpass, "getuser", lambda: {}["LOGNAME"])
    assert lock.who.__wrapped__().startswith(f"uid-{lock.os.getuid()}@")


def test_blanks_in_the_name_of_a_user_end_up_in_no_word_of_a_lock(monkeypatch):
    monkeypatch.setattr(lock.getpass, "getuser", lambda: "john doe")
    assert lock.who.__wrapped__().startswith("johndoe@")
