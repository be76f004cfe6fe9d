"""The lock's own scripts, run by the shell of this machine in a folder of the test's."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from provision.command import Answer
from provision.errors import FactError, HostError, LockedError
from provision.runs import lock

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
    return lock.holder_of(ran(lock.status()))


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
    assert lock.holder_of(ran(lock.take_away(force=False))).who == ALICE, "anybody may release it: it is for people"
    assert status() is None


def test_a_boot_ends_a_lease_and_no_lock_by_hand(by, folder):
    lock.checked(ran(lock.acquire("run-1", 9000)))
    shutil.rmtree(folder)  # as /run is after a boot
    assert status() is None
    lock.checked(ran(lock.acquire_by_hand("another card")))
    kept = Path(lock.BY_HAND_FILE)
    assert [path.stat().st_mode & 0o777 for path in (kept.parent, kept)] == [0o700, 0o600]
    shutil.rmtree(folder)
    found = status()
    assert (found.who, found.why, found.left) == (ALICE, "another card", None)
    assert 0 <= found.seconds < 60
    assert not folder.exists(), "looking writes nothing"
    with pytest.raises(LockedError, match=r"alice@desk by hand for .*: another card"):
        lock.checked(ran(lock.acquire("run-2")))
    shutil.rmtree(folder)
    assert lock.holder_of(ran(lock.take_away(force=False))).why == "another card"
    assert status() is None
    assert list(kept.parent.iterdir()) == []


def test_who_has_it_by_hand_may_say_another_reason_and_has_it_since_then(by, monkeypatch):
    lock.checked(ran(lock.acquire_by_hand("another card")))
    kept = Path(lock.BY_HAND_FILE)
    first = kept.read_text().split()[2]
    kept.write_text(kept.read_text().replace(first, str(int(first) - 7000)))
    lock.checked(ran(lock.acquire_by_hand("two more cards")))
    assert (status().why, status().seconds >= 7000) == ("two more cards", True)


def test_a_lock_by_hand_takes_the_place_of_a_lease_that_ended(by, monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", -5.0)
    monkeypatch.setattr(lock, "RENEW_SECONDS", -5.0)
    lock.checked(ran(lock.acquire("run-1")))
    by(BOB)
    lock.checked(ran(lock.acquire_by_hand("another card")))
    ran(lock.release("run-1"))
    assert status().who == BOB
    ran(lock.take_away(force=False))
    assert status() is None


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_was_set_does_not_end_a_lock_by_hand(by, days):
    lock.checked(ran(lock.acquire_by_hand("another card")))
    kept = Path(lock.BY_HAND_FILE)
    since = kept.read_text().split()[2]
    kept.write_text(kept.read_text().replace(since, str(int(since) - days * 86400)))
    assert status().seconds // 3600 == max(0, 24 * days)
    with pytest.raises(LockedError, match="another card"):
        lock.checked(ran(lock.acquire("run-1")))


@pytest.mark.parametrize("text", ["\n\n", "garbage", "a b c d\n", "by-hand-x by-hand", "\0\0\0\0"])
def test_a_lock_by_hand_that_is_damaged_is_held_until_it_is_taken_away(by, text):
    kept = Path(lock.BY_HAND_FILE)
    kept.parent.mkdir()
    kept.write_text(text)
    assert status().left is None
    with pytest.raises(LockedError, match="by hand"):
        lock.checked(ran(lock.acquire("run-1")))
    ran(lock.take_away(force=False))
    lock.checked(ran(lock.acquire("run-1")))
    assert status().run == "run-1"


def test_where_there_is_no_room_for_a_lock_by_hand_that_place_is_named_and_nothing_is_left(by):
    kept = Path(lock.BY_HAND_FILE)
    kept.parent.mkdir()
    kept.with_name("lock.new").symlink_to("/dev/full")
    with pytest.raises(HostError, match="could not be taken") as caught:
        lock.checked(ran(lock.acquire_by_hand("another card")))
    assert f"is there room in {kept.parent}," in caught.value.hint
    assert str(kept.parent) in caught.value.stderr
    assert list(kept.parent.iterdir()) == []
    assert status() is None
    lock.checked(ran(lock.acquire("run-1")))


def test_where_there_is_no_room_for_a_lease_that_place_is_named(folder):
    folder.mkdir()
    (folder / "lock.new").symlink_to("/dev/full")
    with pytest.raises(HostError) as caught:
        lock.checked(ran(lock.acquire("run-1")))
    assert f"is there room in {folder}," in caught.value.hint
    assert status() is None


def test_a_runs_lock_is_taken_away_by_force_alone(by):
    lock.checked(ran(lock.acquire("run-1")))
    with pytest.raises(LockedError, match="run-1") as caught:
        lock.holder_of(ran(lock.take_away(force=False)))
    assert "--force" in caught.value.hint
    assert lock.holder_of(ran(lock.take_away(force=True))).run == "run-1"
    assert status() is None
    assert lock.holder_of(ran(lock.take_away(force=True))) is None


def test_the_lock_of_a_run_that_is_known_to_be_dead_is_released_but_of_nobody_else(by, folder):
    lock.checked(ran(lock.acquire("run-1")))
    for dead in ("", "run-2", "run"):
        with pytest.raises(LockedError, match="run-1"):
            lock.holder_of(ran(lock.take_away(force=False, dead=dead)))
    by(BOB)
    with pytest.raises(LockedError, match="alice"):
        lock.holder_of(ran(lock.take_away(force=False, dead="run-1")))
    by(ALICE)
    assert lock.holder_of(ran(lock.take_away(force=False, dead="run-1"))).run == "run-1"
    assert status() is None


def test_a_job_of_a_run_that_is_dead_keeps_its_lock_and_says_so(by, folder):
    lock.checked(ran(lock.acquire("run-1")))
    (folder / "jobs/a").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as job:
        (folder / "jobs/a/pid").write_text(str(job.pid))
        with pytest.raises(LockedError, match="a job of it still runs here") as caught:
            lock.holder_of(ran(lock.take_away(force=False, dead="run-1")))
        assert "wait until that job has ended" in caught.value.hint
        job.kill()
    assert lock.holder_of(ran(lock.take_away(force=False, dead="run-1"))).run == "run-1"


def test_a_lock_by_hand_is_none_of_a_run_whatever_is_dead(by):
    lock.checked(ran(lock.acquire_by_hand("another card")))
    found = lock.holder_of(ran(lock.take_away(force=False, dead=f"{lock.BY_HAND}-{ALICE}")))
    assert (found.left, found.why) == (None, "another card")


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
        lock.holder_of(Answer(0, b"something else\n", b""))


@pytest.mark.parametrize("by_hand", [False, True], ids=["runs", "operators"])
def test_two_at_once_one_has_it(by, by_hand):
    commands = []
    for number in range(6):
        by(f"op{number}@desk")
        commands.append(lock.acquire_by_hand("mine") if by_hand else lock.acquire(f"run-{number}"))
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
    assert codes == [0, *[lock.EXIT_HELD] * 5]


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
