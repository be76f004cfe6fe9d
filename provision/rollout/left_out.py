"""Instances of one host that earlier runs left out of the upstream, and that get requests again after a passed test.

`recovery` decides when to test: an instance without changes in this run at the start, an instance with changes at the
end of its host's part, or earlier if the instance blocks others.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping

from provision.errors import HostError, LockedError
from provision.inventory import Host
from provision.rollout.admission import Admission, Failure
from provision.rollout.members import Membership
from provision.rollout.roll import Roll
from provision.runs.lease import Lease
from provision.steps.base import EVERY
from provision.steps.nginx.upstream import NOWHERE, Member, label


def is_left_out(member: Member) -> bool:
    """Whether a run left an instance out: `down`, not drained by an operator, and with a known address.

    Args:
        member: of a pool.
    """
    return member.down and not member.drained and member.address != NOWHERE


class LeftOut:
    """Admits the instances of one host that earlier runs left out.

    Args:
        host: the gpu host.
        lease: the lock on the host.
        roll: shared by all hosts of the run.
        admission: tests and uncordons instances.
    """

    def __init__(self, host: Host, lease: Lease, roll: Roll, admission: Admission) -> None:
        self.host = host
        self.lease = lease
        self.roll = roll
        self.admission = admission
        self._names: set[str] = set()
        self._errors: dict[str, HostError] = {}  # instance that was not admitted -> error
        self._tried: set[tuple[str, str]] = set()  # (step, blocking instance) of the tests done for a step

    @property
    def error(self) -> HostError | None:
        """The first error of an instance that was not admitted."""
        return next(iter(self._errors.values()), None)

    def recover(self, listed: Mapping[str, Member], changing: frozenset[str], *, early: bool = False) -> None:
        """Find the instances that were left out, and admit every instance that passes its test. Errors go to `error`.

        Args:
            listed: label -> member of the pools, as read at the start of the run.
            changing: names of instances with changes in this run, or `EVERY`: tested after the change.
            early: test changing instances now as well, because hosts that begin earlier may wait for these instances.
        """
        unusable = self.roll.members.unusable
        for instance in self.host.instances:
            key = label(self.host.name, instance.name)
            if key in listed and is_left_out(listed[key]) and key not in unusable:
                self._names.add(instance.name)
        later = self._names if changing == EVERY else self._names & changing
        with self._no_longer_locked():
            self._admit(self._names - later)
            if early:
                self.try_once(later, "")

    @contextlib.contextmanager
    def _no_longer_locked(self) -> Iterator[None]:
        """Give back a lock that was taken meanwhile. The host's own part takes the lock again for its changes."""
        was_locked = self.lease.held
        yield
        # Another thread may be marking members on this balancer under the same lock.
        if self.lease.held and not (was_locked or self.host.balancer or self.roll.context.cut.is_set()):
            with contextlib.suppress(HostError):  # the lease expires by itself
                self.lease.end()

    def try_once(self, names: Collection[str], step: str) -> bool:
        """Test instances that are out before their change, and admit the healthy ones. A failed test has no
        consequence.

        Args:
            names: instances, also new instances of this run.
            step: id of the step that the instances block. Each instance is tested once for a step.

        Returns:
            whether any instance was admitted.
        """
        admitted = False
        for name in sorted(names):
            state = self._state(name)
            is_out = state is Membership.NEW or (state is None and name in self._names)
            if not is_out or (step, name) in self._tried or self.roll.context.stop.is_set():
                continue
            self._tried.add((step, name))
            with contextlib.suppress(HostError):
                self.admission.admit(name, self.roll.pools.of(self.host), Failure.IGNORED)
                if state is None:
                    self.roll.members.recovered.add(label(self.host.name, name))
                self.admission.announce(name)
                admitted = True
        return admitted

    def check(self, names: Collection[str]) -> None:
        """Test instances whose address the balancers learn in the last wave. Errors go to `error`.

        Args:
            names: the instances.
        """
        for name in names:
            if self._is_settled(name) or self.roll.context.stop.is_set():
                continue
            try:
                self.admission.prove(name)
            except HostError as error:
                self.roll.members.leave_out(label(self.host.name, name), error.message, halts=False)
                self._errors[name] = error

    def give_back(self, created: Collection[str]) -> None:
        """Admit the instances that are still out at the end of the host's part. Errors go to `error`.

        Args:
            created: names of the instances made by this run: no longer left out by an earlier run.
        """
        # An instance that a rollback brings back has no models.
        declared = {instance.name for instance in self.host.instances}
        with self._no_longer_locked():
            self._admit(self._names & declared - set(created))

    def _admit(self, names: Collection[str]) -> None:
        """Admit instances, and keep the error of each failure. An instance under another run's lock is tried again."""
        for name in sorted(names):
            if self._is_settled(name) or not isinstance(self._errors.get(name), LockedError | None):
                continue
            if self.roll.context.stop.is_set():
                return
            try:
                self.admission.admit(name, self.roll.pools.of(self.host), Failure.STAYS_OUT)
            except HostError as error:
                self._errors[name] = error
            else:
                self._errors.pop(name, None)
                self.roll.members.recovered.add(label(self.host.name, name))
                self.admission.announce(name)

    def _state(self, name: str) -> Membership | None:
        return self.roll.members.state(label(self.host.name, name))

    def _is_settled(self, name: str) -> bool:
        """Whether this run has tested the instance already."""
        return self._state(name) in (Membership.IN, Membership.NOT_READY)
