"""One host's traffic: cordon, drain, uncordon its instances. `apply.traffic` has the interface and its purpose.

`admission` alone uncordons an instance. `left_out` handles the instances that earlier runs left out.
"""

import contextlib
import time
from collections.abc import Collection, Mapping

from provision.errors import HostError, RefusedError, UnreachableError
from provision.inventory import Host
from provision.plan import role_interface
from provision.rollout.admission import Admission, Say
from provision.rollout.balancer_pool import BalancerPool, about_balancer, still_running, update_all
from provision.rollout.left_out import LeftOut
from provision.rollout.members import Membership, Slot
from provision.rollout.roll import Roll
from provision.runs.context import Stopped
from provision.runs.lease import Lease
from provision.ssh.transport import Transport
from provision.steps.base import EVERY
from provision.steps.nginx.upstream import NOWHERE, Member, label


class HostTraffic:
    """Takes instances of one host out of the upstream, and has them admitted again.

    Args:
        host: the gpu host.
        session: the connection to the host.
        lease: the lock on the host.
        roll: shared by all hosts of the run.
        say: tells the operator about progress.
    """

    def __init__(self, host: Host, session: Transport, lease: Lease, roll: Roll, say: Say) -> None:
        self.host = host
        self.roll = roll
        self.say = say
        self.admission = Admission(host, session, lease, roll, say)
        self.left_out = LeftOut(host, lease, roll, self.admission)

    def lost_cards(self, names: Collection[str]) -> None:
        """Note the instances of this host with a lost card, by the latest plan.

        Args:
            names: the instances.
        """
        self.roll.members.lost_cards(self.host.name, [self._label(name) for name in names])

    def request(self, names: frozenset[str], step: str) -> Slot | None:
        """Return a slot for the instances that get requests, or will after their test.

        Args:
            names: instances, or `EVERY`.
            step: id of the step that needs the instances out.

        Returns:
            the slot; None if no balancer sends to any of the instances.

        Raises:
            RefusedError: an unreadable balancer may send to the instances.
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
        """Mark the instances of a slot `down` on every balancer, if the slot still fits.

        Args:
            slot: the instances, with a reserved place in the budget.

        Returns:
            whether the instances are out. If not, `slot.blockers` has the reasons, and the slot is released.

        Raises:
            HostError: a balancer cannot be read, or could not be told.
        """
        self._stop_before(slot.step)
        members = self.roll.members
        blockers = self._blockers(slot)
        undrained = [key for key, member in blockers.items() if not member.drained]
        # A down instance of this host may block other hosts, while an instance of another host blocks this host.
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
        """Wait until the streams of the instances have ended. After `ollama.drain_timeout` report and cut the rest.

        Args:
            slot: the cordoned instances.
        """
        limit = self.host.serving.drain_timeout
        deadline = time.monotonic() + limit
        names = ", ".join(slot.at)

        def waiting(count: int) -> None:
            self.say("progress", slot.step, f"waiting: {still_running(count, names)}")
            self._stop_before(slot.step)

        for pool in slot.pools:
            with about_balancer(self.roll.context):
                count, answers = pool.wait_idle(list(slot.at.values()), deadline, waiting)
            if count:
                why = f"after {limit:.0f} s" if answers else "the balancer does not answer any more"
                through = f"through {pool.host.name}"
                streams = f"1 stream {through} is" if count == 1 else f"{count} streams {through} are"
                cut = f"waiting no longer: {streams} cut ({why})"
                self.say("progress", f"drain:{names}", cut)
        self._stop_before(slot.step)

    def uncordon(self, slot: Slot) -> None:
        """Test the instances of a slot, and admit each healthy instance.

        Args:
            slot: the instances that went out.

        Raises:
            HostError: the first failed test. The instance stays out, and the roll is halted.
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
        """Admit the healthy instances of a slot after an error. A failed test is not reported beside that error.

        Args:
            slot: the instances, or None if no instance was taken out.
        """
        for key, name in zip(slot.at, slot.instances, strict=True) if slot else ():
            if self.roll.members.state(key) is not Membership.CORDONED:
                continue
            if self.roll.context.cut.is_set():  # a test may take half an hour: leave it to the next deploy
                self.roll.members.leave_out(key, f"{key} was left out of the upstream")
            elif self._is_removed(name):
                self.roll.members.leave_out(key, f"{key} is gone, and nothing took its place")
            else:
                with contextlib.suppress(HostError):
                    self.admission.admit(name, slot.pools if slot else ())
        if slot:
            self.roll.members.release(slot)

    def hold(self, name: str) -> bool:
        """Mark the member of an instance `down` before the instance is made: a new instance has no model yet.

        A balancer may list such an instance because the host was installed anew, or because somebody removed the
        container.

        Args:
            name: the instance.

        Returns:
            whether a balancer sent requests to the instance, so that the mark took time.

        Raises:
            HostError: a balancer sends to the instance and could not be told.
        """
        key = self._label(name)
        pools = self.roll.pools.sending_to(self.host, key)
        if not pools:
            return False
        update_all(pools, lambda pool: pool.update(down=[key]))
        self.roll.members.hold(key)
        return True

    def missing(self, name: str) -> None:
        """Note that a cordoned instance is gone: the test comes after the instance is made again.

        Args:
            name: the instance.
        """
        self.roll.members.hold(self._label(name))

    def prove(self, name: str, step: str) -> bool:
        """Make sure that an instance has passed its test in this run. An instance that is out is admitted.

        Args:
            name: the instance. An instance that is not declared has no test.
            step: id of the step that waits for the test.

        Returns:
            whether the test was made now.

        Raises:
            HostError: the instance did not pass its test.
        """
        state = self.roll.members.state(self._label(name))
        if state is Membership.IN or all(instance.name != name for instance in self.host.instances):
            return False
        if state is Membership.NEW:
            self._admit_new(name)
        elif not self.left_out.try_once([name], step):
            self.admission.prove(name, failed="keeps its previous container")
        return True

    def finish(self) -> None:
        """Admit the instances that are still out at the end of the host's part.

        Raises:
            HostError: a new instance failed its test, or a balancer could not be told.
        """
        # An instance that only a rollback brings back has no models, and stays out.
        declared = {instance.name for instance in self.host.instances}
        created = [name for name in self._own(self.roll.members.labels(Membership.NEW)) if name in declared]
        self.left_out.give_back(created)
        first: HostError | None = None
        for name in created:
            if self.roll.context.cut.is_set():
                break
            try:
                self._admit_new(name)
            except HostError as error:
                first = first or error
        if first is not None:
            raise first

    def _admit_new(self, name: str) -> None:
        """Admit an instance that this run made."""
        self.admission.admit(name, self.roll.pools.of(self.host))
        self.admission.announce(name)

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
        """Return the members that are down and leave no room for a slot."""
        listed: dict[str, Member] = {}
        for pool in slot.pools:
            now = self._members(pool)
            listed.update({key: member for key, member in now.items() if member.down or key not in listed})
        return self.roll.budget.blockers(slot, self.roll.members.out(slot.scope), listed, self.roll.members.unusable)

    def _own(self, keys: Collection[str]) -> list[str]:
        """Return the names of this host's instances among some labels."""
        return sorted(key.rpartition("/")[2] for key in keys if self._is_own(key))

    def _label(self, name: str) -> str:
        return label(self.host.name, name)

    def _is_own(self, key: str) -> bool:
        return key.rpartition("/")[0] == self._label("").rstrip("/")

    def _is_meant(self, key: str, names: frozenset[str]) -> bool:
        """Whether a label is an own instance among `names` that can serve: a removed instance cannot."""
        if key in self.roll.members.unusable or self.roll.members.state(key) is Membership.REMOVED:
            return False
        return self._is_own(key) if names == EVERY else key in {self._label(name) for name in names}

    def _is_removed(self, name: str) -> bool:
        """Whether this run removes an instance that is no longer declared."""
        declared = any(instance.name == name for instance in self.host.instances)
        return not declared and role_interface.declaring(self.host) in self.roll.context.roles

    def _has_successor(self, slot: Slot) -> bool:
        """Whether the host has an instance that the balancers learn in the last wave."""
        listed = {key for pool in slot.pools for key in self.roll.pools.first_members(pool)}
        return any(self._label(instance.name) not in listed for instance in self.host.instances)

    def _stop_before(self, step: str) -> None:
        """Raise `Stopped` if the run is to stop. No command of this step has run yet."""
        if self.roll.context.stop.is_set():
            raise Stopped(f"stopped before {step}", "run the command again to go on")
