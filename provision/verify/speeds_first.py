"""Proofs by requests to instances wait until the speeds of all instances are measured.

A speed counts only where no other request is under way at the instance. The proofs of a balancer send requests to the
instances of all hosts, and would spoil the measurement of an instance that answers slowly.
"""

import threading
from collections.abc import Callable


class SpeedsFirst:
    """Holds tasks back until a number of speeds is measured.

    Args:
        speeds: number of the speeds to be measured.
    """

    def __init__(self, speeds: int) -> None:
        self._left = speeds
        self._held: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def hold(self, task: Callable[[], object]) -> None:
        """Run a task after the last measurement: now, or in the thread of the last measurement.

        Args:
            task: a quick function, such as the submission of work to a pool.
        """
        with self._lock:
            if self._left > 0:
                self._held.append(task)
                return
        task()

    def measured(self) -> None:
        """Note the end of a measurement, also of a failed measurement."""
        with self._lock:
            self._left -= 1
            due, self._held = (self._held, []) if self._left == 0 else ([], self._held)
        for task in due:
            task()
