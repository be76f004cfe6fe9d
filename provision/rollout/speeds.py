"""The speeds that the readiness tests of a run measured: each instance is compared with the instances before it.

A run stores no speed for later runs: images, drivers and settings change the usual speed. So the first two instances of
a kind are admitted without a comparison, and verify compares all instances.
"""

import threading

from provision.steps import speed
from provision.steps.speed import Speed, Verdict


class Speeds:
    """The speeds of a run. Safe for many threads."""

    def __init__(self) -> None:
        self._rates: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()

    def judge(self, label: str, measured: Speed) -> Verdict:
        """Compare the speed of an instance with the instances that passed in this run, and remember a usual speed.

        Args:
            label: `HOST/INSTANCE`.
            measured: by the readiness test.
        """
        with self._lock:
            known = self._rates.setdefault(measured.what, {})
            verdict = speed.judge(measured.rate, list({**known, label: measured.rate}.values()))
            if verdict.passed is not False:
                known[label] = measured.rate
            return verdict
