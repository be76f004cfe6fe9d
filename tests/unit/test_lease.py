"""The keeper of a run's leases, against a fake session."""

import threading

import pytest

from provision.command import Answer
from provision.errors import HostError, LockedError, UnreachableError
from provision.runs import lock
from provision.runs.lease import Lease, take_away
from provision.runs.lease_keeper import LeaseKeeper
from provision.runs.lock import HostLock
from provision.testing import ShellHost

GIVEN = Answer(0, b"", b"")
THEIRS = Answer(lock.EXIT_HELD, b"", b"run-0 999 1 2 no alice@desk\n\n")


class Host:
    """A session that counts renewals and gives one answer to everything.

    Args:
        answer: to every command, or the error that is raised instead.
        hangs: whether a renewal waits until `let_go` is set.
    """

    def __init__(self, answer=GIVEN, *, hangs=False):
        self.answer = answer
        self.titles = []
        self.seconds = []
        self.renewals = threading.Semaphore(0)
        self.let_go = threading.Event()
        if not hangs:
            self.let_go.set()

    def batch(self, commands, *, stop, beside=False):
        if beside:
            self.renewals.release()
            self.let_go.wait(120)
        self.titles += [(command.title, beside) for command in commands]
        self.seconds += [float(command.words[-5]) for command in commands if command.title == "take the lock"]
        if isinstance(self.answer, HostError):
            raise self.answer
        return [self.answer] * len(commands)

    def is_renewed(self, times=2):
        return all(self.renewals.acquire(timeout=60) for _ in range(times))

    def is_left_alone(self):
        while self.renewals.acquire(blocking=False):
            pass
        return not self.renewals.acquire(timeout=0.1)


@pytest.fixture
def keeper():
    return LeaseKeeper(every=0.0, look=0.01)


@pytest.fixture
def take(keeper):
    """Takes a lease over a session."""

    def taken(session, keeper=keeper):
        lease = Lease(session, "run-1", keeper)
        lease.acquire()
        lease.took(GIVEN)
        return lease

    return taken


@pytest.fixture
def keepers():
    """The threads of keepers that a test has started."""
    before = set(threading.enumerate())
    return lambda: [one for one in threading.enumerate() if one.name == "leases" and one not in before]


def test_one_thread_renews_every_lease_of_a_run(take, keepers):
    hosts = [Host() for _ in range(5)]
    for host in hosts:
        take(host)
    assert all(host.is_renewed() for host in hosts)
    assert len(keepers()) == 1
    assert {title for host in hosts for title in host.titles} == {("take the lock", True)}


def test_the_keeper_thread_runs_only_while_a_lease_is_held(keeper, keepers):
    lease = Lease(Host(), "run-1", keeper)
    lease.acquire()
    assert keepers() == []
    with pytest.raises(LockedError):
        lease.took(THEIRS)
    assert keepers() == []
    lease.took(GIVEN)
    [thread] = keepers()
    lease.end()
    thread.join(60)
    assert not thread.is_alive()
    lease.took(GIVEN)
    assert len(keepers()) == 1, "a run may take it again"


def test_a_lease_renewed_by_an_exec_is_left_alone(take):
    host, keeper = Host(), LeaseKeeper(every=60.0, look=0.01)
    take(host, keeper)
    assert host.is_left_alone()


def test_a_renewal_does_not_shorten_the_lease_of_a_long_exec(take):
    host = Host()
    lease = take(host)
    lease.acquire(600)
    assert host.is_renewed(3)
    assert host.seconds[-1] > 650
    lease.took(GIVEN)
    assert host.is_renewed(3)
    assert host.seconds[-1] == lock.LEASE_SECONDS


def test_a_silent_host_does_not_delay_the_renewals_of_other_hosts(take):
    hanging, others = Host(hangs=True), [Host(), Host()]
    for host in (hanging, *others):
        take(host)
    assert hanging.is_renewed(1)
    assert all(host.is_renewed(5) for host in others)
    assert hanging.is_left_alone(), "one renewal of a lease at a time"
    hanging.let_go.set()


@pytest.mark.parametrize("answer", [THEIRS, Answer(1, b"", b"no room"), UnreachableError("lost")])
def test_an_error_of_a_renewal_is_left_to_the_next_exec(take, answer):
    host = Host(answer)
    lease = take(host)
    assert host.is_renewed(), "the keeper tries again"
    assert lease.held


def test_a_late_renewal_does_not_take_a_released_lease_again(take):
    host = Host(hangs=True)
    lease = take(host)
    lease.last_renewal = 60.0
    assert host.is_renewed(1)
    threading.Timer(0.2, host.let_go.set).start()
    lease.end()
    assert host.titles == [("take the lock", True), ("release the lock", False)]
    assert host.is_left_alone()


def test_a_silent_renewal_does_not_delay_the_release(keeper):
    host = Host(hangs=True)
    lease = Lease(host, "run-1", keeper)
    lease.last_renewal = 0.05
    lease.acquire()
    lease.took(GIVEN)
    assert host.is_renewed(1)
    lease.end()
    assert host.titles == [("release the lock", False)], "the renewal still waits"
    host.let_go.set()


@pytest.mark.parametrize("how", ["cut", "stop"])
def test_no_renewal_begins_after_a_cut_or_the_end_of_the_run(take, keeper, keepers, how):
    hosts = [Host(), Host()]
    for host in hosts:
        take(host)
    assert all(host.is_renewed(1) for host in hosts)
    [thread] = keepers()
    if how == "cut":
        keeper.cut.set()
    else:
        keeper.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert all(host.is_left_alone() for host in hosts)


class Locked:
    """A host of which other runs have the lock, one after the other.

    Args:
        runs: their ids.
    """

    def __init__(self, *runs):
        self.runs = list(runs)
        self.dead = []

    def batch(self, commands, *, stop, beside=False):
        [command] = commands
        self.dead.append(command.words[-1])
        if self.runs and self.runs[0] == command.words[-1]:
            self.runs.pop(0)
        return [self.answer()]

    def answer(self):
        return (
            Answer(lock.EXIT_HELD, b"", f"{self.runs[0]} 999 1 2 no {lock.who()}\n\n".encode()) if self.runs else GIVEN
        )


def waited(host, seconds, over):
    lease = Lease(host, "run-1", LeaseKeeper(), over.__contains__)
    lease.poll = 0.01
    return lease.wait(host.answer(), seconds, threading.Event(), lambda text: None)


def test_the_lock_of_a_finished_run_is_taken_over_in_one_more_exec():
    host = Locked("run-0")
    assert waited(host, 0, over={"run-0", "run-2"}) is False, "the read of the first exec still holds"
    assert host.dead == ["run-0"]


def test_the_lock_of_a_live_run_costs_no_further_exec():
    host = Locked("run-0")
    with pytest.raises(LockedError, match="run-0"):
        waited(host, 0, over={"run-2"})
    assert host.dead == []


def test_the_lock_of_a_run_that_dies_during_the_wait_is_taken_over():
    host = Locked("run-0")
    over = set()
    threading.Timer(0.1, over.add, ["run-0"]).start()
    assert waited(host, 60, over) is True
    assert (host.dead[0], host.dead[-1]) == ("", "run-0")


def test_a_lock_taken_by_a_third_run_is_not_taken_over():
    host = Locked("run-0", "run-2")
    with pytest.raises(LockedError, match="run-2"):
        waited(host, 0, over={"run-0"})


def test_a_lock_is_released_by_force_or_after_its_run(paths):
    session, lock = ShellHost(), HostLock(paths)
    for over, force in (({"run-0"}, False), ({}, True)):
        lock.checked(session.batch([lock.acquire("run-0")], stop=False)[0])
        with pytest.raises(LockedError, match="run-0"):
            take_away(session, lock, {"run-2"}.__contains__, force=False)
        assert take_away(session, lock, over.__contains__, force=force).run == "run-0"
        assert take_away(session, lock, over.__contains__, force=force) is None
