"""Giving back what earlier runs left out of the upstream: it proves itself first."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from provision.apply.host_run import HostRun
from provision.errors import HostError
from provision.plan.role_order import INSTANCES, LAST
from provision.rollout.budget import Rolling
from provision.runs.context import Context
from provision.steps.nginx import upstream as marks


class On(Protocol):
    """Does something on hosts, at the same time; a host's error stays with the host."""

    def __call__(self, work: Callable[[HostRun], None], runs: Sequence[HostRun], *, failed: bool = False) -> None: ...


class Readmission:
    """Tests what is marked down on hosts that are well, before it gets requests again.

    Args:
        context: what the hosts share.
        rolling: who is out in this run.
        runs: the hosts of the run.
        on: does something on those of them that are well, or on those that are not.
        serves: whether a host that is not serves as before, but for some of its instances.
    """

    def __init__(
        self,
        context: Context,
        rolling: Rolling,
        runs: Sequence[HostRun],
        on: On,
        serves: Callable[[HostRun], bool],
    ) -> None:
        self.context = context
        self.rolling = rolling
        self.runs = [run for run in runs if run.host.gpu and run.roles & INSTANCES]
        self._all = runs
        self._on = on
        self._serves = serves
        self._marked = threading.Event()

    def readmit(self) -> None:
        """Test what would get requests again by the last wave, and mark what no last wave will concern itself with."""
        late = bool(self.context.roles & frozenset(LAST))
        known = [run for run in self.runs if late and run.roles >= INSTANCES]
        hurt = [run for run in self.runs if self._serves(run)]  # their marks stay in the last wave
        rest = [run for run in self.runs if run not in known]
        if rest or hurt:
            waiting = self.rolling.waiting([run.host for run in {*rest, *hurt}])
            self._on(functools.partial(self._given_back, waiting), rest if waiting else ())
            self._on(functools.partial(self._given_back, waiting), hurt if waiting else (), failed=True)
        if late and not self.context.stop.is_set():
            self._look_again()
            self._marked.clear()
            self._on(functools.partial(self._test, self._down()), known)
            if self._marked.is_set():
                self._look_again()

    def _look_again(self) -> None:
        """Read the balancers whose marks this run has changed."""
        touched = {marker.host.name for marker in self.rolling.known if marker.touched}
        self._on(HostRun.read, [run for run in self._all if run.host.name in touched])

    def _down(self) -> set[str]:
        """What is down by the balancers of this run, and no operator's wish."""
        texts = [run.upstream() for run in self._all]
        down = {name for text in texts for name, one in marks.members(text).items() if one.down}
        return down - {name for text in texts for name in marks.drained(text)}

    def _test(self, waiting: set[str], run: HostRun) -> None:
        """Test the instances of a host that wait. The last wave has balancers send to them, if all of them are well."""
        well, error = self._tested(waiting, run)
        if error is not None:
            self._send_to(well, run)
            raise error

    def _given_back(self, waiting: set[str], run: HostRun) -> None:
        """Test the instances of a host that wait, and have its balancers send to those that are well."""
        well, error = self._tested(waiting, run)
        self._send_to(well, run)
        if error is not None:
            raise error

    def _tested(self, waiting: set[str], run: HostRun) -> tuple[dict[str, str], HostError | None]:
        """Label -> `ADDRESS:PORT` of those that wait and are well, and the first error of those that are not."""
        well: dict[str, str] = {}
        first: HostError | None = None
        for label, name in self._of(run, waiting).items():
            if self.context.stop.is_set():
                break
            try:
                well[label] = run.turn.test(name)
            except HostError as error:
                run.turn.failed = True
                self.rolling.unfit.add(label)
                first = first or error
        return well, first

    def _send_to(self, well: Mapping[str, str], run: HostRun) -> None:
        for label, at in well.items():
            if self.context.stop.is_set():
                return
            self._marked.set()
            self.rolling.readmit(run.host, label, at)
            run.say("progress", f"test:{label.rpartition('/')[2]}", "it gets requests again")

    def _of(self, run: HostRun, waiting: set[str]) -> dict[str, str]:
        """Label -> name of a host's instances that wait."""
        found = {marks.label(one.host, one.name): one.name for one in run.host.instances}
        may = waiting - self.rolling.unfit - self.rolling.lost
        return {label: name for label, name in found.items() if label in may}


def prove(rolling: Rolling, run: HostRun, label: str) -> bool:
    """Have what an earlier run left out prove itself, and the balancers send to it.

    Args:
        rolling: who is out in this run.
        run: its host.
        label: its label.

    Returns:
        whether it was given back; an instance that is not declared any more never is.

    Raises:
        HostError: it did not pass its test, or a balancer cannot be told.
    """
    name = next((one.name for one in run.host.instances if marks.label(one.host, one.name) == label), None)
    if name is None:
        return False
    rolling.readmit(run.host, label, run.turn.test(name))
    return True
