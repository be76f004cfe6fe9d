"""Giving back what earlier runs left out of the upstream: it proves itself first."""

import functools
from collections.abc import Callable, Sequence

from provision.apply import HostRun
from provision.context import Context
from provision.errors import HostError
from provision.rolling import Rolling
from provision.sequence import LAST
from provision.steps import upstream as marks

INSTANCES = frozenset({"ollama", "models"})  # the roles that look at whether instances serve

On = Callable[[Callable[[HostRun], None], Sequence[HostRun]], None]
"""Does something on hosts, at the same time; a host's error stays with the host."""


class Readmission:
    """Tests what is marked down on hosts that are well, before it gets requests again.

    Args:
        context: what the hosts share.
        rolling: who is out in this run.
        runs: the hosts of the run.
        on: does something on those of them that are well.
    """

    def __init__(self, context: Context, rolling: Rolling, runs: Sequence[HostRun], on: On) -> None:
        self.context = context
        self.rolling = rolling
        self.runs = runs
        self._on = on

    def readmit(self) -> None:
        """Test what would get requests again by the last wave, and mark what no last wave will concern itself with."""
        late = bool(self.context.roles & frozenset(LAST))
        known = [run for run in self.runs if late and run.roles >= INSTANCES]
        rest = [run for run in self.runs if run.host.gpu and "ollama" in run.roles and run not in known]
        if rest:
            waiting = self.rolling.waiting([run.host for run in rest])
            self._on(functools.partial(self._given_back, waiting), rest if waiting else ())
        if late and not self.context.stop.is_set():
            self._on(HostRun.read, [run for run in self.runs if run.host.name in self.rolling.touched])
            self._on(functools.partial(self._test, self._down()), known)

    def _down(self) -> set[str]:
        """What is down by the balancers of this run, and no operator's wish."""
        texts = [run.upstream() for run in self.runs]
        down = {name for text in texts for name, one in marks.members(text).items() if one.down}
        return down - {name for text in texts for name in marks.drained(text)}

    def _test(self, waiting: set[str], run: HostRun) -> None:
        """Test the instances of a host that wait."""
        for label, name in self._of(run, waiting).items():
            if self.context.stop.is_set():
                return
            try:
                run.turn.test(name)
            except HostError:
                run.turn.failed = True
                self.rolling.unfit.add(label)
                raise

    def _given_back(self, waiting: set[str], run: HostRun) -> None:
        """Test the instances of a host that wait, and have its balancers send to them."""
        for label, name in self._of(run, waiting).items():
            self._test({label}, run)
            if self.context.stop.is_set():
                return
            self.rolling.readmit(run.host, label)
            run.say("progress", f"test:{name}", "it gets requests again")

    def _of(self, run: HostRun, waiting: set[str]) -> dict[str, str]:
        """Label -> name of a host's instances that wait."""
        found = {marks.label(one.host, one.name): one.name for one in run.host.instances}
        return {label: name for label, name in found.items() if label in waiting - self.rolling.unfit}
