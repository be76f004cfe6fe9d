"""The lock's own scripts, run by the shell of this machine in a folder of the test's."""

import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from provision.command import Answer
from provision.errors import FactError, HostError, LockedError
from provision.runs import lock
from provision.runs.lock import HostLock

ALICE, BOB = "alice@desk", "bob@lab"


@pytest.fixture
def folder(paths):
    return Path(paths.run)


@pytest.fixture
def kept(paths):
    """The file of a lock by hand."""
    return Path(paths.lock_by_hand)


@pytest.fixture
def alice(paths):
    """The lock as Alice takes it."""
    return HostLock(paths, ALICE)


@pytest.fixture
def bob(paths):
    """The same lock as Bob takes it."""
    return HostLock(paths, BOB)


def ended(lock):
    """The same lock, with leases that end before they begin."""
    return replace(lock, lease=-5.0, renewal=-5.0)


def ran(command):
    done = subprocess.run(command.words, input=command.stdin, capture_output=True, check=False, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


def status(lock):
    return lock.holder_of(ran(lock.status()))


def test_reading_a_free_lock_writes_nothing(folder, alice):
    assert status(alice) is None
    assert not folder.exists()


def test_a_run_takes_renews_and_releases_the_lock(alice):
    alice.checked(ran(alice.acquire("run-1")))
    first = status(alice)
    assert (first.run, first.who, first.busy, first.why) == ("run-1", ALICE, False, "")
    assert 170 <= first.left <= 180
    alice.checked(ran(alice.acquire("run-1", 1000)))
    assert status(alice).left > 1000
    ran(alice.release("run-2"))
    assert status(alice) is not None, "a run releases only its own lock"
    ran(alice.release("run-1"))
    assert status(alice) is None


def test_another_run_is_refused_and_told_the_holder(alice):
    alice.checked(ran(alice.acquire("run-1")))
    with pytest.raises(LockedError, match=r"alice@desk, run run-1, for \d+ s, lease ends in 3 min") as caught:
        alice.checked(ran(alice.acquire("run-2")))
    assert "expires by itself" in caught.value.hint


def test_an_expired_lease_is_taken_over_unless_a_job_of_another_operator_runs(folder, alice, bob):
    alice, bob = ended(alice), ended(bob)
    alice.checked(ran(alice.acquire("run-1")))
    (folder / "jobs/a").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as job:
        (folder / "jobs/a/pid").write_text(str(job.pid))
        with pytest.raises(LockedError, match="a job of that run still runs here"):
            bob.checked(ran(bob.acquire("run-2")))
        alice.checked(ran(alice.acquire("run-3")))
        assert status(alice).run == "run-3", "the operator who began the job may come back to it"
        job.kill()


def test_a_lock_by_hand_does_not_expire_and_says_why(alice, bob):
    alice.checked(ran(alice.acquire_by_hand("kernel upgrade; $(touch /tmp/x) 'q'")))
    found = status(alice)
    assert (found.run, found.left, found.why, found.is_over) == ("", None, "kernel upgrade; $(touch /tmp/x) 'q'", False)
    with pytest.raises(LockedError, match=r"alice@desk by hand for .*: kernel upgrade") as caught:
        alice.checked(ran(alice.acquire("run-1")))
    assert "provision lock release" in caught.value.hint
    with pytest.raises(LockedError, match="by hand"):
        bob.checked(ran(bob.acquire_by_hand("mine")))
    assert bob.holder_of(ran(bob.take_away(force=False))).who == ALICE, "anybody may release a lock by hand"
    assert status(bob) is None


def test_a_boot_ends_a_lease_and_no_lock_by_hand(folder, alice, kept):
    alice.checked(ran(alice.acquire("run-1", 9000)))
    shutil.rmtree(folder)  # a boot empties /run
    assert status(alice) is None
    alice.checked(ran(alice.acquire_by_hand("another card")))
    assert [path.stat().st_mode & 0o777 for path in (kept.parent, kept)] == [0o700, 0o600]
    shutil.rmtree(folder)
    found = status(alice)
    assert (found.who, found.why, found.left) == (ALICE, "another card", None)
    assert 0 <= found.seconds < 60
    assert not folder.exists(), "looking writes nothing"
    with pytest.raises(LockedError, match=r"alice@desk by hand for .*: another card"):
        alice.checked(ran(alice.acquire("run-2")))
    shutil.rmtree(folder)
    assert alice.holder_of(ran(alice.take_away(force=False))).why == "another card"
    assert status(alice) is None
    assert list(kept.parent.iterdir()) == []


def test_the_holder_of_a_lock_by_hand_may_change_the_reason(alice, kept):
    alice.checked(ran(alice.acquire_by_hand("another card")))
    first = kept.read_text().split()[2]
    kept.write_text(kept.read_text().replace(first, str(int(first) - 7000)))
    alice.checked(ran(alice.acquire_by_hand("two more cards")))
    assert (status(alice).why, status(alice).seconds >= 7000) == ("two more cards", True)


def test_a_lock_by_hand_replaces_an_expired_lease(alice, bob):
    alice, bob = ended(alice), ended(bob)
    alice.checked(ran(alice.acquire("run-1")))
    bob.checked(ran(bob.acquire_by_hand("another card")))
    ran(bob.release("run-1"))
    assert status(bob).who == BOB
    ran(bob.take_away(force=False))
    assert status(bob) is None


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_was_set_does_not_end_a_lock_by_hand(days, alice, kept):
    alice.checked(ran(alice.acquire_by_hand("another card")))
    since = kept.read_text().split()[2]
    kept.write_text(kept.read_text().replace(since, str(int(since) - days * 86400)))
    assert status(alice).seconds // 3600 == max(0, 24 * days)
    with pytest.raises(LockedError, match="another card"):
        alice.checked(ran(alice.acquire("run-1")))


@pytest.mark.parametrize("text", ["\n\n", "garbage", "a b c d\n", "by-hand-x by-hand", "\0\0\0\0"])
def test_a_damaged_lock_by_hand_stays_until_it_is_released(text, alice, kept):
    kept.parent.mkdir()
    kept.write_text(text)
    assert status(alice).left is None
    with pytest.raises(LockedError, match="by hand"):
        alice.checked(ran(alice.acquire("run-1")))
    ran(alice.take_away(force=False))
    alice.checked(ran(alice.acquire("run-1")))
    assert status(alice).run == "run-1"


def test_a_full_disk_refuses_a_lock_by_hand_names_the_folder_and_leaves_no_file(alice, kept):
    kept.parent.mkdir()
    kept.with_name("lock.new").symlink_to("/dev/full")
    with pytest.raises(HostError, match="could not be taken") as caught:
        alice.checked(ran(alice.acquire_by_hand("another card")))
    assert f"is there room in {kept.parent} (see `df -h {kept.parent}` on the host)" in caught.value.hint
    assert str(kept.parent) in caught.value.stderr
    assert list(kept.parent.iterdir()) == []
    assert status(alice) is None
    alice.checked(ran(alice.acquire("run-1")))


def test_a_full_disk_refuses_a_lease_and_names_the_folder(folder, alice):
    folder.mkdir()
    (folder / "lock.new").symlink_to("/dev/full")
    with pytest.raises(HostError) as caught:
        alice.checked(ran(alice.acquire("run-1")))
    assert f"is there room in {folder} (see `df -h {folder}` on the host)" in caught.value.hint
    assert status(alice) is None


def test_only_force_releases_the_lock_of_a_run(alice):
    alice.checked(ran(alice.acquire("run-1")))
    with pytest.raises(LockedError, match="run-1") as caught:
        alice.holder_of(ran(alice.take_away(force=False)))
    assert "--force" in caught.value.hint
    assert alice.holder_of(ran(alice.take_away(force=True))).run == "run-1"
    assert status(alice) is None
    assert alice.holder_of(ran(alice.take_away(force=True))) is None


def test_the_operator_of_a_dead_run_releases_its_lock_and_nobody_else_does(alice, bob):
    alice.checked(ran(alice.acquire("run-1")))
    for dead in ("", "run-2", "run"):
        with pytest.raises(LockedError, match="run-1"):
            alice.holder_of(ran(alice.take_away(force=False, dead=dead)))
    with pytest.raises(LockedError, match="alice"):
        bob.holder_of(ran(bob.take_away(force=False, dead="run-1")))
    assert alice.holder_of(ran(alice.take_away(force=False, dead="run-1"))).run == "run-1"
    assert status(alice) is None


def test_a_running_job_keeps_the_lock_of_a_dead_run(folder, alice):
    alice.checked(ran(alice.acquire("run-1")))
    (folder / "jobs/a").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as job:
        (folder / "jobs/a/pid").write_text(str(job.pid))
        with pytest.raises(LockedError, match="a job of that run still runs here") as caught:
            alice.holder_of(ran(alice.take_away(force=False, dead="run-1")))
        assert "wait until that job has ended" in caught.value.hint
        job.kill()
    assert alice.holder_of(ran(alice.take_away(force=False, dead="run-1"))).run == "run-1"


def test_a_dead_run_never_matches_a_lock_by_hand(alice):
    alice.checked(ran(alice.acquire_by_hand("another card")))
    found = alice.holder_of(ran(alice.take_away(force=False, dead=f"{lock.BY_HAND}-{ALICE}")))
    assert (found.left, found.why) == (None, "another card")


@pytest.mark.parametrize(
    "text", ["", "garbage", "run-1", "a b c d\n", "run-1 -5 x alice\n", "\n\n", "run 99999999999999999999 1 x\n"]
)
def test_a_damaged_lease_does_not_block_a_host_for_good(folder, text, alice):
    folder.mkdir()
    (folder / "lock").write_text(text)
    answer = ran(alice.acquire("run-2"))
    if answer.exit:
        with pytest.raises(HostError):
            alice.checked(answer)
        ran(alice.take_away(force=True))
        alice.checked(ran(alice.acquire("run-2")))
    assert status(alice).run == "run-2"


def test_an_answer_without_a_lock_is_an_error(alice):
    with pytest.raises(FactError):
        alice.holder_of(Answer(0, b"something else\n", b""))


@pytest.mark.parametrize("by_hand", [False, True], ids=["runs", "operators"])
def test_of_two_operators_at_once_one_gets_the_lock(by_hand, paths):
    commands = []
    for number in range(6):
        operator = HostLock(paths, f"op{number}@desk")
        commands.append(operator.acquire_by_hand("mine") if by_hand else operator.acquire(f"run-{number}"))
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


def test_a_lock_released_during_a_job_still_keeps_other_operators_off(folder, alice, bob):
    alice.checked(ran(alice.acquire("run-1")))
    (folder / "jobs/a").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as job:
        (folder / "jobs/a/pid").write_text(str(job.pid))
        assert ran(alice.release("run-1")) == Answer(0, b"", b"")
        with pytest.raises(LockedError, match="its lease has ended, a job of that run still runs here"):
            bob.checked(ran(bob.acquire("run-2")))
        alice.checked(ran(alice.acquire("run-3")))
        job.kill()


def test_a_user_without_a_name_has_a_number():
    assert lock.name_of(lambda: {}["LOGNAME"]).startswith(f"uid-{lock.os.getuid()}@")


def test_blanks_in_a_user_name_do_not_reach_the_lock():
    assert lock.name_of(lambda: "john doe").startswith("johndoe@")


def test_a_lock_with_a_time_of_thousands_of_digits_is_an_error(alice):
    with pytest.raises(FactError, match="is not one of ours"):
        alice.holder_of(Answer(0, f"run {'9' * 5000} 0 0 no alice@desk\n\n".encode()))
