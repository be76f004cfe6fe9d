"""A run's lock on one host: taken with the first change, renewed with every exec, given back with the last."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from provision.command import Answer, Run
from provision.errors import HostError, LockedError
from provision.runs import lock
from provision.ssh.session import Session

POLL = 2.0  # seconds between two looks at a lock that somebody else has
BEAT = 5.0  # seconds between two thoughts of whether it is time to renew


class Lease:
    """The lock of one run on one host.

    Args:
        session: the connection.
        run_id: the run.
        dead: ids of runs that are known to be dead; their locks are taken at once.
    """

    def __init__(self, session: Session, run_id: str, dead: Sequence[str] = ()) -> None:
        self.session = session
        self.run_id = run_id
        self.dead = dead
        self.held = False
        """Whether the host may hold this run's lock."""
        self._renewed = 0.0

    def acquire(self, seconds: float = 0.0) -> Run:
        """The command that takes or renews it; its answer goes to `took`.

        Args:
            seconds: how long what comes now may take.
        """
        self.held = True  # before the answer: it may be lost, and giving back what is not ours does nothing
        return lock.acquire(self.run_id, seconds, self.dead)

    def took(self, answer: Answer) -> None:
        """Make sure that it was taken.

        Raises:
            LockedError: somebody else has it.
        """
        lock.checked(answer)
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Keep it while something long is waited for."""
        if time.monotonic() - self._renewed > lock.RENEW_SECONDS:
            self._renewed = time.monotonic()
            self.took(self.session.batch([self.acquire()], stop=False)[0])

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it in the background, however silent what goes on meanwhile is. A lock that is lost is told later."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(BEAT):
                with contextlib.suppress(HostError):  # the next change takes it again, or says who has it
                    self.renew()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(BEAT)

    def wait(self, answer: Answer, seconds: float, stop: threading.Event, say: Callable[[str], None]) -> bool:
        """Make sure that it was taken, or wait for it as long as is allowed.

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
                self.took(answer)
            except LockedError as error:
                if time.monotonic() >= deadline or stop.is_set():
                    raise
                say(f"waiting: {error.message}")
            else:
                return waited
            waited = True
            time.sleep(POLL)
            answer = self.session.batch([self.acquire()], stop=False)[0]

    def release(self) -> Run:
        """The command that gives it back; its answer goes to `gave_back`."""
        return lock.release(self.run_id)

    def gave_back(self, answer: Answer) -> None:
        """Note whether it was given back."""
        self.held = answer.exit != 0

    def end(self, before: Sequence[Run] = (), *, cut_off: bool = False) -> None:
        """Give it back, if it is held.

        Args:
            before: what is run before that in any case.
            cut_off: whether the connection was lost in the middle: what ran then may still run, so the lease is left
                to end by itself. This machine knows that it is over, and does not wait for it.
        """
        commands = [*before, *([self.release()] if self.held and not cut_off else [])]
        self.held = False
        if commands:
            self.session.batch(commands, stop=False)
