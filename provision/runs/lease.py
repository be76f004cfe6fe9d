"""A run's lock on one host: taken with the first change, renewed with every exec and by the run's keeper, given back
with the last change."""

import threading
import time
from collections.abc import Callable, Sequence

from provision.command import Answer, Run
from provision.errors import LockedError
from provision.runs import lock
from provision.runs.lease_keeper import LeaseKeeper
from provision.ssh.session import Session

POLL = 2.0  # seconds
LAST_RENEWAL = 5.0  # seconds


class Lease:
    """The lock of one run on one host.

    Args:
        session: the connection.
        run_id: the run.
        keeper: renews the lease from the first answer that says it is taken, until it is given back.
        is_over: whether the run of this id is over, as far as this machine knows; its lock is taken over at once.
    """

    def __init__(
        self,
        session: Session,
        run_id: str,
        keeper: LeaseKeeper,
        is_over: Callable[[str], bool] = lambda run: False,
    ) -> None:
        self.session = session
        self.run_id = run_id
        self.is_over = is_over
        self.poll = POLL
        """Seconds between two looks at a lock that somebody else has."""
        self.wanted: Callable[[], bool] = lambda: True
        """Whether the keeper renews it: a lease that nobody needs for the moment may end."""
        self.last_renewal = LAST_RENEWAL
        """Seconds that a renewal under way may take before the lock is given back all the same."""
        self.held = False
        """Whether the host may hold this run's lock."""
        self._keeper = keeper
        self._kept = False  # whether the keeper renews it
        self._renewing = threading.Lock()  # held while a renewal is under way
        self._renewed = 0.0  # on the monotonic clock
        self._covered = 0.0  # likewise, until when the exec may take that is under way

    def acquire(self, seconds: float = 0.0, dead: str = "") -> Run:
        """The command that takes or renews it; its answer goes to `took`.

        Args:
            seconds: how long what comes now may take.
            dead: id of a run whose lock is taken over, or empty.
        """
        self.held = True  # before the answer: it may be lost, and giving back what is not ours does nothing
        self._covered = time.monotonic() + seconds
        return lock.acquire(self.run_id, seconds, dead)

    def took(self, answer: Answer) -> None:
        """Make sure that it was taken; from then on the run's keeper renews it.

        Raises:
            LockedError: somebody else has it.
        """
        try:
            lock.checked(answer)
        except LockedError:
            self.held = False
            raise
        self._renewed, self._covered = time.monotonic(), 0.0
        self._kept = True
        self._keeper.join(self)

    def is_due(self, every: float) -> bool:
        """Whether it is wanted, and its last renewal is more than `every` seconds ago."""
        return self.wanted() and time.monotonic() - self._renewed > every

    def renew(self, every: float = lock.RENEW_SECONDS) -> None:
        """Renew it if it is due, beside what the host's own thread does. Does nothing once it is given back.

        Args:
            every: seconds between two renewals.

        Raises:
            LockedError: somebody else has it.
            UnreachableError: the connection is closed, or lost.
        """
        if not self._renewing.acquire(blocking=False):
            return
        try:
            if self._kept and self.is_due(every):
                self._renewed = time.monotonic()
                left = max(0.0, self._covered - self._renewed)  # or it would shorten the lease
                command = lock.acquire(self.run_id, left)
                lock.checked(self.session.batch([command], stop=False, beside=True)[0])
        finally:
            self._renewing.release()

    def wait(self, answer: Answer, seconds: float, stop: threading.Event, say: Callable[[str], None]) -> bool:
        """Make sure that it was taken, or wait for it as long as is allowed.

        The lock of a run that is over, as far as this machine knows, is taken over without a wait.

        Args:
            answer: to `acquire`.
            seconds: the longest wait.
            stop: ends the wait.
            say: is told whom it waits for.

        Returns:
            whether it had to be waited for.

        Raises:
            LockedError: somebody else still has it.
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
        """Make sure that it was taken; take it over from a run that is over, in one more exec."""
        try:
            self.took(answer)
        except LockedError as error:
            if not (error.run and self.is_over(error.run)):
                raise
            self.took(self.session.batch([self.acquire(dead=error.run)], stop=False)[0])

    def release(self) -> Run:
        """The command that gives it back; its answer goes to `gave_back`."""
        self._leave()
        return lock.release(self.run_id)

    def gave_back(self, answer: Answer) -> None:
        """Note whether it was given back."""
        self._leave()
        self.held = answer.exit != 0

    def end(self, before: Sequence[Run] = (), *, cut_off: bool = False) -> None:
        """Give it back, if it is held.

        Args:
            before: what is run before that in any case.
            cut_off: whether the connection was lost in the middle: what ran then may still run, so the lease is left
                to end by itself. This machine knows that it is over, and does not wait for it.
        """
        self._leave()
        commands = [*before, *([self.release()] if self.held and not cut_off else [])]
        self.held = False
        if commands:
            self.session.batch(commands, stop=False)

    def _leave(self) -> None:
        """Have the keeper renew it no more. A renewal that came after it was given back would take it again."""
        self._kept = False
        self._keeper.leave(self)
        if self._renewing.acquire(timeout=self.last_renewal):
            self._renewing.release()


def take_away(session: Session, is_over: Callable[[str], bool], *, force: bool) -> lock.Holder | None:
    """Take a lock away from a host: one by hand, one whose lease has ended, or that of a run that is over.

    Args:
        session: the connection.
        is_over: whether the run of this id is over, as far as this machine knows.
        force: take away that of a run too that may still be at work.

    Returns:
        the lock that was there, or None.

    Raises:
        LockedError: a run has it that may still be at work, or a job of it runs.
    """
    try:
        return lock.holder_of(session.batch([lock.take_away(force=force)], stop=False)[0])
    except LockedError as error:
        if not is_over(error.run):
            raise
        return lock.holder_of(session.batch([lock.take_away(force=False, dead=error.run)], stop=False)[0])
