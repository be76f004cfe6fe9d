"""Which host goes next: works on hosts at the same time, and says when each may take instances out of the upstream.

A host is an iterator of slots. It does what it can, hands out a slot when instances must go out, and is resumed when
there is room for them. One thread decides for all hosts, so no host waits for another: where nothing is under way and
no slot fits, no slot will ever fit, and the roll is halted.
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

MEND = "mend that, then deploy again"
MAKE_ROOM = "bring it back, or drain what is to stay out, or allow more by {}.max_unavailable; then deploy again"
RENAMED = "deploy again: the balancers learn of the renamed instances at the end of this run"


@dataclass(eq=False)
class Work:
    """One host's part of a wave.

    Args:
        slots: does the work; hands out a slot whenever instances must go out. Keeps the errors of its host.
        say: tells the operator what the host waits for.
        slot: the slot that the host waits for, or None.
        refused: whether the host was resumed, and there was no room for its slot after all.
        resumed: how much had happened when the host was resumed.
        alone: how much had happened when the host was resumed while no other held room.
        waits_for: what the operator was told that the host waits for.
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
        roll: where every instance stands, and how many may be out.
        forks: hosts at the same time.
    """

    def __init__(self, roll: Roll, forks: int) -> None:
        self.roll = roll
        self.forks = forks
        self._events: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._hint = MEND  # what to do where the roll is halted
        self._bug: BaseException | None = None  # of a host that did not keep its errors
        self._progress = 0  # how often a host came further

    def wake(self) -> None:
        """Have it look at once whether the run is to stop. Safe to call from any thread, and when it is not at work."""
        self._events.put(None)

    def run(self, works: Iterable[Work]) -> None:
        """Do all of this work.

        Args:
            works: one for each host, in the order in which the hosts begin.
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
        """The hosts that go on: there is room for their slot, or there never will be."""
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
        """One host that asks again while no other holds room: those that ask at once may keep each other out."""
        for work in waiting:
            if work.alone != self._happened():
                work.alone = self._happened()
                if self._fits(work):
                    return [work]
        return []

    def _halt(self, waiting: Sequence[Work]) -> None:
        """Halt the roll: there will never be room for those that wait."""
        blockers = {label for work in waiting if work.slot for label in work.slot.blockers}
        are_renamed = blockers.isdisjoint(self.roll.budget.replicas.all_declared())
        self._hint = RENAMED if are_renamed else MAKE_ROOM.format(declaring())
        text = are_out(sorted(blockers))
        self.roll.members.halt(f"{text} out of the upstream already, and more than max_unavailable would be")

    def _fits(self, work: Work) -> bool:
        """Whether there is room for a slot; then it is reserved."""
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
        """Whether a host was refused and nothing happened since: those that it kept waiting have its room meanwhile."""
        return work.refused and work.resumed == self._happened()

    def _happened(self) -> int:
        """How often a host came further or admitted an instance: that can make room beside what is down already."""
        return self._progress + self.roll.members.admissions

    def _ended(self, work: Work) -> list[Work]:
        """The work itself, if it waits for a slot now."""
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
        """Go on with a host until it needs a slot, or has ended. Runs in a thread of the pool."""
        before, slot = work.slot, None
        try:
            slot = self._resume(work)
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, when all others have come to their end
            self._bug = self._bug or error
        finally:
            work.slot, work.refused = slot, slot is not None and slot is before
            self._events.put(work)

    def _resume(self, work: Work) -> Slot:
        if work.slot is None:
            return next(work.slots)
        if self.roll.context.stop.is_set():
            return self._throw(work, Stopped(f"stopped before {work.slot.step}", "run it again to go on"))
        if why := self.roll.members.halted:
            return self._throw(work, Stopped(f"not taken out of the upstream: {why}", self._hint))
        return next(work.slots)

    def _throw(self, work: Work, error: Stopped) -> Slot:
        if work.slot is not None:
            self.roll.members.release(work.slot)
        throw: Callable[[Stopped], Slot] = work.slots.throw  # type: ignore[attr-defined]
        return throw(error)
