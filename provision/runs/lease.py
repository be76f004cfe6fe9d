"""A run's lock on one host: taken with the first change, renewed with every exec and by the run's keeper, given back
with the last change."""

import threading
import time
from collections.abc import Callable, Sequence

from provision.command import Answer, Run
from provision.errors import LockedError
from provision.runs.lease_keeper import LeaseKeeper
from provision.runs.lock import Holder, HostLock
from provision.runs.setup import Setup
from provision.ssh.transport import Transport


class Lease:
    """The lock of one run on one host.

    Args:
        session: the transport to the host.
        run_id: the id of the run.
        keeper: renews the lease from the first successful `took` until the lock is given back.
        is_over: whether a run is over, as far as this machine knows: its lock is taken over at once.
        setup: of the run.
        timeout_factor: by how much commands may take longer on the host.
    """

    def __init__(
        self,
        session: Transport,
        run_id: str,
        keeper: LeaseKeeper,
        is_over: Callable[[str], bool] = lambda run: False,
        setup: Setup | None = None,
        timeout_factor: int = 1,
    ) -> None:
        setup = setup or Setup()
        self._factor = timeout_factor
        self.session = session
        self.run_id = run_id
        self.is_over = is_over
        self.poll = setup.timings.lock_poll
        """Seconds between two attempts while another run has the lock."""
        self.wanted: Callable[[], bool] = lambda: True
        """Whether the keeper renews the lease: an unused lease may expire."""
        self.last_renewal = setup.timings.last_renewal * timeout_factor
        """Seconds that a renewal under way may take before the lock is given back in any case."""
        self.held = False
        """Whether the host may hold this run's lock."""
        self._keeper = keeper
        self._lock = setup.host_lock
        self._kept = False  # whether the keeper renews the lease
        self._renewing = threading.Lock()  # held while a renewal is under way
        self._renewed = 0.0  # on the monotonic clock
        self._covered = 0.0  # on the monotonic clock, the latest end of the present exec

    def acquire(self, seconds: float = 0.0, dead: str = "") -> Run:
        """Return the command that takes or renews the lock; its answer goes to `took`.

        Args:
            seconds: how long the next commands may take on a usual host.
            dead: id of a dead run whose lock to take over, or empty.
        """
        # Before the answer, because the answer may be lost; giving back a lock that is not ours does nothing.
        self.held = True
        seconds *= self._factor
        self._covered = time.monotonic() + seconds
        return self._lock.acquire(self.run_id, seconds, dead)

    def took(self, answer: Answer) -> None:
        """Check that the lock was taken; from now on the run's keeper renews the lease.

        Raises:
            LockedError: another run or an operator has the lock.
        """
        try:
            self._lock.checked(answer)
        except LockedError:
            self.held = False
            raise
        self._renewed, self._covered = time.monotonic(), 0.0
        self._kept = True
        self._keeper.join(self)

    def is_due(self, every: float) -> bool:
        """Whether the lease is wanted, and was last renewed more than `every` seconds ago."""
        return self.wanted() and time.monotonic() - self._renewed > every

    def renew(self, every: float) -> None:
        """Renew the lease if due, beside the commands of the host's own thread. Does nothing after the lock is given
        back.

        Args:
            every: seconds between two renewals.

        Raises:
            LockedError: another run or an operator has the lock.
            UnreachableError: the connection is closed, or lost.
        """
        if not self._renewing.acquire(blocking=False):
            return
        try:
            if self._kept and self.is_due(every):
                self._renewed = time.monotonic()
                left = max(0.0, self._covered - self._renewed)  # else the renewal would shorten the lease
                command = self._lock.acquire(self.run_id, left)
                self._lock.checked(self.session.batch([command], stop=False, beside=True)[0])
        finally:
            self._renewing.release()

    def wait(self, answer: Answer, seconds: float, stop: threading.Event, say: Callable[[str], None]) -> bool:
        """Check that the lock was taken; if not, wait for the lock.

        The lock of a run that is over, as far as this machine knows, is taken over without a wait.

        Args:
            answer: to `acquire`.
            seconds: the longest wait.
            stop: ends the wait.
            say: tells the operator who has the lock.

        Returns:
            whether there was a wait.

        Raises:
            LockedError: another run or an operator still has the lock.
        """
        deadline = time.monotonic() + seconds
        waited = False
        while True:
            try:
                self._took_or_takes_over(answer)
            except LockedError as error:
                if time.monotonic() >= deadline or stop.is_set():
                    raise
                say(f"waiting: {error.message}")
            else:
                return waited
            waited = True
            time.sleep(self.poll)
            answer = self.session.batch([self.acquire()], stop=False)[0]

    def _took_or_takes_over(self, answer: Answer) -> None:
        """Check that the lock was taken; if a run that is over has the lock, take it over in one more exec."""
        try:
            self.took(answer)
        except LockedError as error:
            if not (error.run and self.is_over(error.run)):
                raise
            self.took(self.session.batch([self.acquire(dead=error.run)], stop=False)[0])

    def release(self) -> Run:
        """Return the command that gives the lock back; its answer goes to `gave_back`."""
        self._leave()
        return self._lock.release(self.run_id)

    def gave_back(self, answer: Answer) -> None:
        """Note whether the lock was given back."""
        self._leave()
        self.held = answer.exit != 0

    def end(self, before: Sequence[Run] = (), *, cut_off: bool = False) -> None:
        """Give the lock back, if held.

        Args:
            before: commands to run before, with or without a lock.
            cut_off: whether the connection was lost in the middle of a command. The command may still be running, so
                the lease is left to expire. This machine knows that the run is over, and its next run does not wait.
        """
        self._leave()
        commands = [*before, *([self.release()] if self.held and not cut_off else [])]
        self.held = False
        if commands:
            self.session.batch(commands, stop=False)

    def _leave(self) -> None:
        """Have the keeper stop renewing. A renewal after the release would take the lock again."""
        self._kept = False
        self._keeper.leave(self)
        if self._renewing.acquire(timeout=self.last_renewal):
            self._renewing.release()


def take_away(session: Transport, lock: HostLock, is_over: Callable[[str], bool], *, force: bool) -> Holder | None:
    """Take a lock away from a host: a lock by hand, an expired lease, or the lock of a run that is over.

    Args:
        session: the transport to the host.
        lock: the commands for the lock of the host.
        is_over: whether a run is over, as far as this machine knows.
        force: take away the lock of a run that may still be at work too.

    Returns:
        the holder of the former lock, or None.

    Raises:
        LockedError: the run of the lock may still be at work, or a job of the run is running.
    """
    try:
        return lock.holder_of(session.batch([lock.take_away(force=force)], stop=False)[0])
    except LockedError as error:
        if not is_over(error.run):
            raise
        return lock.holder_of(session.batch([lock.take_away(force=False, dead=error.run)], stop=False)[0])
