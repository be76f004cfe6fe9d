"""Instances of one host that earlier runs left out of the upstream: they get requests again when they can serve.

`recovery` says at which moments of a run: an instance that the run does not change proves itself before anything is
changed, the others prove themselves at the end of their host's part, or before that if they are in the way.
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
    """Whether a run left an instance out: it is down, no operator drained it, and its address was once known.

    Args:
        member: of a pool.
    """
    return member.down and not member.drained and member.address != NOWHERE


class LeftOut:
    """Gives back the instances of one host that earlier runs left out.

    Args:
        host: the host.
        lease: its lock.
        roll: shared by all hosts of the run.
        admission: gives requests to its instances.
    """

    def __init__(self, host: Host, lease: Lease, roll: Roll, admission: Admission) -> None:
        self.host = host
        self.lease = lease
        self.roll = roll
        self.admission = admission
        self._names: set[str] = set()
        self._errors: dict[str, HostError] = {}  # instance that did not get back in -> why
        self._tried: set[tuple[str, str]] = set()  # step, and instance that was tested because it was in the way of it

    @property
    def error(self) -> HostError | None:
        """The first error of an instance that could not be given back."""
        return next(iter(self._errors.values()), None)

    def recover(self, listed: Mapping[str, Member], changing: frozenset[str], *, early: bool = False) -> None:
        """Learn which instances were left out, and give back those that can serve. Raises nothing: see `error`.

        Args:
            listed: label -> member of the pools, as read at the start of the run.
            changing: names of instances that this run changes, or `EVERY`: they prove themselves after that.
            early: whether these get a chance before that, too: other hosts, which may wait for them, begin before.
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
        """Give a lock back that is taken meanwhile: the part of the host takes it again where anything is to change."""
        was_locked = self.lease.held
        yield
        # A balancer may just be told of others' instances, under the same lock.
        if self.lease.held and not (was_locked or self.host.balancer or self.roll.context.cut.is_set()):
            with contextlib.suppress(HostError):  # the lease ends by itself
                self.lease.end()

    def try_once(self, names: Collection[str], step: str) -> bool:
        """Give back instances that are out and may be well, before they are changed; a test that fails counts nothing.

        Args:
            names: instances, also those that this run makes.
            step: id of the step that they are in the way of: each instance is tested once for that.

        Returns:
            whether any instance got back in.
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
        """Have instances prove themselves that the balancers learn of in the last wave. Raises nothing: see `error`.

        Args:
            names: their names.
        """
        for name in names:
            if self._is_settled(name) or self.roll.context.stop.is_set():
                continue
            try:
                self.admission.prove(name)
            except HostError as error:
                self.roll.members.leave_out(label(self.host.name, name), error.message, halts=False)
                self._errors[name] = error

    def give_back(self, made: Collection[str]) -> None:
        """Give back what is still out at the end of the host's part of the run. Raises nothing: see `error`.

        Args:
            made: names of the instances that this run made: they are not among what earlier runs left out any more.
        """
        declared = {instance.name for instance in self.host.instances}  # what a rollback brings back has no models
        with self._no_longer_locked():
            self._admit(self._names & declared - set(made))

    def _admit(self, names: Collection[str]) -> None:
        """Give back instances, and keep the errors of those that stay out; what another run holds is tried again."""
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
        """Whether this run knows already if an instance can serve."""
        return self._state(name) in (Membership.IN, Membership.NOT_READY)
