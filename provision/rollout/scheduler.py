"""The scheduler: works on hosts side by side, and decides when a host may take instances out of the upstream.

A host is an iterator of slots. The host works until instances must go out, yields a slot, and is resumed when the slot
fits. One thread decides for all hosts, so hosts never wait for each other. If no host is working and no slot fits, no
slot will ever fit: the scheduler halts the roll.
"""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from provision.plan.role_interface import declaring
from provision.rollout.budget import are_out
from provision.rollout.members import Slot
from provision.rollout.roll import Roll
from provision.runs.context import Stopped

MEND = "repair the cause, then deploy again"
MAKE_ROOM = "bring it back, or drain what is to stay out, or allow more by {}.max_unavailable; then deploy again"
RENAMED = "deploy again: the balancers learn of the renamed instances at the end of this run"


@dataclass(eq=False)
class Work:
    """One host's part of a wave.

    Args:
        slots: does the work, and yields a slot whenever instances must go out. Keeps the errors of its host.
        say: tells the operator why the host waits.
        slot: the slot that the host waits for, or None.
        refused: whether the host was resumed with a slot that did not fit after all.
        resumed: the count of events (`_happened`) when the host was resumed.
        alone: the count of events when the host was resumed while no slot was taken.
        waits_for: the labels last shown to the operator as blockers.
    """

    slots: Iterator[Slot]
    say: Callable[[str], None]
    slot: Slot | None = None
    refused: bool = False
    resumed: int = -1
    alone: int = -1
    waits_for: tuple[str, ...] = ()


class Scheduler:
    """Runs the work of hosts, and grants slots.

    Args:
        roll: the membership of every instance, and the budget.
        forks: hosts at the same time.
    """

    def __init__(self, roll: Roll, forks: int) -> None:
        self.roll = roll
        self.forks = forks
        self._events: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._hint = MEND  # what the operator should do after a halt
        self._bug: BaseException | None = None  # an exception that a host's work let through
        self._progress = 0  # number of times a host made progress

    def wake(self) -> None:
        """Have the scheduler check now whether the run is to stop. Safe from any thread, also while idle."""
        self._events.put(None)

    def run(self, works: Iterable[Work]) -> None:
        """Do the work of all hosts.

        Args:
            works: the work of each host, in the order in which the hosts begin.
        """
        fresh = deque(works)
        waiting: list[Work] = []
        running = 0
        with ThreadPoolExecutor(self.forks, thread_name_prefix="host") as pool:
            while fresh or waiting or running:
                begun = [fresh.popleft() for _ in range(min(len(fresh), self.forks - running - len(waiting)))]
                granted = self._granted(waiting, idle=not running and not begun)
                waiting = [work for work in waiting if work not in granted]
                for work in (*begun, *granted):
                    work.resumed = self._happened()
                    pool.submit(self._go_on, work)
                running += len(begun) + len(granted)
                ended = self._events.get()
                if ended is not None:
                    running -= 1
                    waiting += self._ended(ended)
        if self._bug is not None:
            raise self._bug

    def _granted(self, waiting: Sequence[Work], *, idle: bool) -> list[Work]:
        """Return the hosts to resume: their slot fits, or no slot will ever fit."""
        if self.roll.context.stop.is_set() or self.roll.members.halted:
            return list(waiting)
        granted = [work for work in waiting if not self._is_refused(work) and self._fits(work)]
        if idle and waiting and not granted:
            granted = self._alone(waiting)
        if idle and waiting and not granted:
            self._halt(waiting)
            return list(waiting)
        return granted

    def _alone(self, waiting: Sequence[Work]) -> list[Work]:
        """Retry a single host while no slot is taken: two hosts that ask together may block each other."""
        for work in waiting:
            if work.alone != self._happened():
                work.alone = self._happened()
                if self._fits(work):
                    return [work]
        return []

    def _halt(self, waiting: Sequence[Work]) -> None:
        """Halt the roll: the waiting slots will never fit."""
        blockers = {label for work in waiting if work.slot for label in work.slot.blockers}
        are_renamed = blockers.isdisjoint(self.roll.budget.replicas.all_declared())
        self._hint = (
            RENAMED
            if are_renamed
            else MAKE_ROOM.format(next(declaring(work.slot.host) for work in waiting if work.slot))
        )
        text = are_out(sorted(blockers))
        self.roll.members.halt(f"{text} out of the upstream already, as many as max_unavailable allows")

    def _fits(self, work: Work) -> bool:
        """Reserve a slot if it fits; return whether it does."""
        slot = work.slot
        if slot is None:
            return False
        others = self.roll.members.out(slot.scope)
        if not self.roll.budget.fits(slot, others):
            self._wait(work, sorted(label for label, other in others.items() if other.host is not slot.host))
            return False
        self.roll.members.reserve(slot)
        return True

    def _is_refused(self, work: Work) -> bool:
        """Whether a host was refused and nothing has changed since: the hosts behind it use the room meanwhile."""
        return work.refused and work.resumed == self._happened()

    def _happened(self) -> int:
        """Count progress and admissions: both can make room beside members that are down already."""
        return self._progress + self.roll.members.admissions

    def _ended(self, work: Work) -> list[Work]:
        """Return the work itself if its host waits for a slot."""
        if work.slot is None or not work.refused:
            self._progress += 1
        if work.slot is None:
            return []
        if work.refused:
            self._wait(work, work.slot.blockers)
        else:
            work.waits_for = ()
        return [work]

    @staticmethod
    def _wait(work: Work, blockers: Sequence[str]) -> None:
        if work.slot is not None:
            work.slot.blockers = tuple(blockers)
        if work.waits_for != tuple(blockers):
            work.waits_for = tuple(blockers)
            work.say(f"waiting: {are_out(blockers)} out of the upstream")

    def _go_on(self, work: Work) -> None:
        """Continue a host until its next slot or its end. Runs in a thread of the pool."""
        before, slot = work.slot, None
        try:
            slot = self._resume(work)
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, after all hosts have ended
            self._bug = self._bug or error
        finally:
            work.slot, work.refused = slot, slot is not None and slot is before
            self._events.put(work)

    def _resume(self, work: Work) -> Slot:
        if work.slot is None:
            return next(work.slots)
        if self.roll.context.stop.is_set():
            return self._throw(work, Stopped(f"stopped before {work.slot.step}", "run the command again to go on"))
        if why := self.roll.members.halted:
            return self._throw(work, Stopped(f"not taken out of the upstream: {why}", self._hint))
        return next(work.slots)

    def _throw(self, work: Work, error: Stopped) -> Slot:
        if work.slot is not None:
            self.roll.members.release(work.slot)
        throw: Callable[[Stopped], Slot] = work.slots.throw  # type: ignore[attr-defined]
        return throw(error)
