"""One host's traffic: its instances are cordoned, drained, and uncordoned. `apply.traffic` says what for.

An instance comes back by `admission` alone; `left_out` has those that earlier runs left out.
"""

import contextlib
import time
from collections.abc import Collection, Mapping

from provision.errors import HostError, RefusedError, UnreachableError
from provision.inventory import Host
from provision.plan import role_interface
from provision.rollout.admission import Admission, Say
from provision.rollout.balancer_pool import BalancerPool, about_balancer, update_all
from provision.rollout.left_out import LeftOut
from provision.rollout.members import Membership, Slot
from provision.rollout.roll import Roll
from provision.runs.context import Stopped
from provision.runs.lease import Lease
from provision.ssh.session import Session
from provision.steps.base import EVERY
from provision.steps.nginx.upstream import NOWHERE, Member, label


class HostTraffic:
    """Takes instances of one host out of the upstream, and gives them back.

    Args:
        host: the host.
        session: its connection.
        lease: its lock.
        roll: shared by all hosts of the run.
        say: is told what happens.
    """

    def __init__(self, host: Host, session: Session, lease: Lease, roll: Roll, say: Say) -> None:
        self.host = host
        self.roll = roll
        self.say = say
        self.admission = Admission(host, session, lease, roll, say)
        self.left_out = LeftOut(host, lease, roll, self.admission)

    def lost_cards(self, names: Collection[str]) -> None:
        """Know which instances of this host lost a card, by its latest plan.

        Args:
            names: their names.
        """
        self.roll.members.lost_cards(self.host.name, [self._label(name) for name in names])

    def request(self, names: frozenset[str], step: str) -> Slot | None:
        """Which of these instances get requests, or will when they have proved themselves.

        Args:
            names: instances, or `EVERY`.
            step: id of the step that needs them out.

        Returns:
            the slot that they need to go out; None where no balancer sends to any of them.

        Raises:
            RefusedError: a balancer cannot be asked, and may send to them.
        """
        at: dict[str, str] = {}
        up: set[str] = set()
        pools = []
        for pool in self.roll.pools.of(self.host):
            members = {key: member for key, member in self._members(pool).items() if self._is_meant(key, names)}
            pools += [pool] if members else []
            at |= {
                key: member.at for key, member in members.items() if not member.drained and member.address != NOWHERE
            }
            up |= {key for key, member in members.items() if not member.down}
        if not at:
            return None
        models = self.roll.budget.replicas.models(self.host, at)
        return Slot(self.host, step, at, tuple(pools), models, frozenset(at) - up)

    def cordon(self, slot: Slot) -> bool:
        """Have no balancer send anything new to instances, if there is room for them beside what is out.

        Args:
            slot: the instances, for which room is reserved.

        Returns:
            whether they are out; if not, `slot.blockers` says why, and their room is released.

        Raises:
            HostError: a balancer cannot be asked, or could not be told.
        """
        self._stop_before(slot.step)
        members = self.roll.members
        blockers = self._blockers(slot)
        undrained = [key for key, member in blockers.items() if not member.drained]
        # Its own that are down may be in the way of other hosts, which are in its way.
        own = self._own([*undrained, *slot.down]) if blockers else []
        if self.left_out.try_once(own, slot.step):
            blockers = self._blockers(slot)
        if blockers:
            names = (f"{key} (drained)" if member.drained else key for key, member in sorted(blockers.items()))
            slot.blockers = tuple(names)
            members.release(slot)
            return False
        members.cordon(slot)
        for pool in slot.pools:
            with about_balancer(self.roll.context):
                pool.update(down=slot.at)
        return True

    def drain(self, slot: Slot) -> None:
        """Wait until the streams of instances have ended; after `ollama.drain_timeout` the rest is cut, and told.

        Args:
            slot: the instances, cordoned.
        """
        limit = self.host.serving.drain_timeout
        deadline = time.monotonic() + limit
        names = ", ".join(slot.at)

        def waiting(count: int) -> None:
            self.say("progress", slot.step, f"waiting: {count} streams of {names} still run")
            self._stop_before(slot.step)

        for pool in slot.pools:
            with about_balancer(self.roll.context):
                count, answers = pool.wait_idle(list(slot.at.values()), deadline, waiting)
            if count:
                why = f"after {limit:.0f} s" if answers else "it does not answer any more"
                cut = f"waiting no longer: {count} streams through {pool.host.name} are cut ({why})"
                self.say("progress", f"drain:{names}", cut)
        self._stop_before(slot.step)

    def uncordon(self, slot: Slot) -> None:
        """Have instances prove themselves, and the balancers send to those that do.

        Args:
            slot: the instances that went out.

        Raises:
            HostError: the first error of an instance; it stays out, and the roll is halted.
        """
        first: HostError | None = None
        for key, name in zip(slot.at, slot.instances, strict=True):
            if self.roll.members.state(key) is not Membership.CORDONED:
                continue
            if self._is_removed(name):
                self.roll.members.remove(key, succeeded=self._has_successor(slot))
                continue
            try:
                self.admission.admit(name, slot.pools)
            except HostError as error:
                first = first or error
        if first is not None:
            raise first

    def abandon(self, slot: Slot | None) -> None:
        """After an error while instances are out: give back those that are well; that error is told, not another one.

        Args:
            slot: the instances, or None where none was taken out.
        """
        for key, name in zip(slot.at, slot.instances, strict=True) if slot else ():
            if self.roll.members.state(key) is not Membership.CORDONED:
                continue
            if self.roll.context.cut.is_set():  # no test of half an hour: the next deploy does it
                self.roll.members.leave_out(key, f"{key} was left out of the upstream")
            elif self._is_removed(name):
                self.roll.members.leave_out(key, f"{key} is gone, and nothing took its place")
            else:
                with contextlib.suppress(HostError):
                    self.admission.admit(name, slot.pools if slot else ())
        if slot:
            self.roll.members.release(slot)

    def hold(self, name: str) -> bool:
        """Have no balancer send to an instance that is about to be made: it has no model yet.

        Such a host was installed anew, or its container was removed by hand.

        Args:
            name: its name.

        Returns:
            whether a balancer sent to it, and this took its time.

        Raises:
            HostError: a balancer sends to it and could not be told.
        """
        key = self._label(name)
        pools = self.roll.pools.sending_to(self.host, key)
        if not pools:
            return False
        update_all(pools, lambda pool: pool.update(down=[key]))
        self.roll.members.hold(key)
        return True

    def missing(self, name: str) -> None:
        """An instance that went out is not there: it proves itself when it has been made.

        Args:
            name: its name.
        """
        self.roll.members.hold(self._label(name))

    def finish(self) -> None:
        """Give back what is still out now that the host's part of the run is over.

        Raises:
            HostError: an instance that was made is not fit to serve, or a balancer could not be told.
        """
        declared = {instance.name for instance in self.host.instances}  # what a rollback brings back has no models
        made = [name for name in self._own(self.roll.members.labels(Membership.NEW)) if name in declared]
        self.left_out.give_back(made)
        first: HostError | None = None
        for name in made:
            if self.roll.context.cut.is_set():
                break
            try:
                self.admission.admit(name, self.roll.pools.of(self.host))
                self.admission.announce(name)
            except HostError as error:
                first = first or error
        if first is not None:
            raise first

    def _members(self, pool: BalancerPool) -> Mapping[str, Member]:
        try:
            return pool.members()
        except HostError as error:
            balancer = pool.host.name
            wrong = "cannot be reached" if isinstance(error, UnreachableError) else "cannot be read"
            raise RefusedError(
                f"{balancer} {wrong}, and may send to the instances of {self.host.name}: none of them is replaced",
                f"bring {balancer} back, or take it out of the inventory; then deploy again",
                command=error.command,
                stderr=error.stderr or error.message,
            ) from error

    def _blockers(self, slot: Slot) -> dict[str, Member]:
        """The members that are down, and leave no room for a slot."""
        listed: dict[str, Member] = {}
        for pool in slot.pools:
            now = self._members(pool)
            listed.update({key: member for key, member in now.items() if member.down or key not in listed})
        return self.roll.budget.blockers(slot, self.roll.members.out(slot.scope), listed, self.roll.members.unusable)

    def _own(self, keys: Collection[str]) -> list[str]:
        """Names of this host's instances among some labels."""
        return sorted(key.rpartition("/")[2] for key in keys if self._is_own(key))

    def _label(self, name: str) -> str:
        return label(self.host.name, name)

    def _is_own(self, key: str) -> bool:
        return key.rpartition("/")[0] == self._label("").rstrip("/")

    def _is_meant(self, key: str, names: frozenset[str]) -> bool:
        """Whether a label is one of this host's instances that are meant, and can serve: a removed one cannot."""
        if key in self.roll.members.unusable or self.roll.members.state(key) is Membership.REMOVED:
            return False
        return self._is_own(key) if names == EVERY else key in {self._label(name) for name in names}

    def _is_removed(self, name: str) -> bool:
        """Whether an instance is not declared any more, and this run removes it."""
        declared = any(instance.name == name for instance in self.host.instances)
        return not declared and role_interface.declaring() in self.roll.context.roles

    def _has_successor(self, slot: Slot) -> bool:
        """Whether the host has an instance that the balancers learn of in the last wave only."""
        listed = {key for pool in slot.pools for key in self.roll.pools.first_members(pool)}
        return any(self._label(instance.name) not in listed for instance in self.host.instances)

    def _stop_before(self, step: str) -> None:
        """Leave the host as it is, if that is wished: nothing has been changed for this step yet."""
        if self.roll.context.stop.is_set():
            raise Stopped(f"stopped before {step}", "run it again to go on")
