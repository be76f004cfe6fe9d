"""Moves the common address of the balancers by hand: the checks before, the locks, and the outcome of each balancer."""

from dataclasses import dataclass

from provision.errors import GuardError, HostError, RefusedError, UsageError
from provision.events import Event
from provision.rollout.address_switch import AddressSwitch, Moved, Seat, patience
from provision.rollout.balancer_pool import BalancerPool
from provision.rollout.roll import Roll
from provision.runs import interrupt
from provision.runs.context import Context
from provision.steps.keepalived.layout import UNIT

NAMED = 5  # members shown by name


@dataclass
class Switched:
    """The outcome of one balancer.

    Args:
        host: the name of the balancer.
        holds: whether the balancer has the address now.
        changed: whether the switch gave the address to the balancer, or took it away.
        cut: requests of the balancer that had not ended in time.
        error: the failure, or None.
    """

    host: str
    holds: bool = False
    changed: bool = False
    cut: int = 0
    error: HostError | None = None

    @property
    def result(self) -> str:
        """`ok`, `changed`, `failed`, `unreachable`, `locked` or `stopped`."""
        return interrupt.result(self.error, changed=self.changed)


class Switching:
    """A switch by hand.

    Args:
        context: of the run.
        become_password: sudo's password (`-K`), or None for the password in the inventory.
        to: the next holder; empty for the first other balancer that can take the address.

    Raises:
        UsageError: there is no common address, or no such balancer.
    """

    guarded = ""  # no guard stops a switch after its begin
    guard_exit = GuardError.exit_code

    def __init__(self, context: Context, become_password: str | None, to: str = "") -> None:
        self.context = context
        self.interrupted = False
        """Whether the operator stopped it."""
        self._to = to
        self._switch = AddressSwitch(context, become_password)
        self._roll = Roll.of(context, become_password)
        if not self._switch.seats():
            raise UsageError(
                "the balancers of this inventory have no common address", "balancer.vip gives them one: docs/vip.md"
            )
        if to and to not in self._switch.seats():
            raise UsageError(f"{to} is no balancer of the address", f"balancers are {', '.join(self._switch.seats())}")

    def hosts(self) -> list[str]:
        """Return the names of the balancers."""
        return list(self._switch.seats())

    def switch(self, timeout: float | None, *, force: bool) -> list[Switched]:
        """Move the address.

        Args:
            timeout: seconds to wait for the streams of the holder; None for `balancer.shutdown_timeout`.
            force: whether to switch to a balancer with other marks.
        """
        outcomes = {name: Switched(name) for name in self._switch.seats()}
        at = self._to or next(iter(outcomes))
        try:
            holder = self._switch.holder()
            at = holder.host.name
            outcomes[at].holds = True
            if self._to == at:
                return [outcomes[at]]
            to = self._next(holder)
            moved = self._moved(holder, to, patience(holder.host) if timeout is None else timeout, force=force)
            outcomes[moved.holder] = Switched(moved.holder, changed=True, cut=moved.cut)
            outcomes[moved.to] = Switched(moved.to, holds=True, changed=True)
        except HostError as error:
            outcomes[at].error = interrupt.for_operator(error, self.context, locked=at in self._switch.leases)
        finally:
            self._give_back()
        return [outcome for outcome in outcomes.values() if outcome.changed or outcome.holds or outcome.error]

    def interrupt(self, *, now: bool) -> None:
        """Stop before the address moves, or cut the connections now: the holder then ends the handover by itself."""
        self.interrupted = True
        self.context.stop.set()
        if now:
            self.context.cut.set()
            self._switch.close()

    def under_way(self) -> list[str]:
        """Return the names of the balancers that may hold this run's lock."""
        return [name for name, lease in self._switch.leases.items() if lease.held]

    def close(self) -> None:
        """Close every connection."""
        self._switch.close()
        self._roll.pools.close()

    def _next(self, holder: Seat) -> Seat:
        """Return the next holder.

        Raises:
            RefusedError: no other balancer is well, or keepalived would choose an earlier balancer of the inventory.
        """
        first = self._switch.next_of(holder)
        names = list(self._switch.seats())
        if self._to and names.index(self._to) > names.index(first.host.name):
            raise RefusedError(
                f"keepalived would give the address to {first.host.name}, before {self._to} in the inventory",
                f"provision switch {first.host.name}; or first, on {first.host.name}: systemctl stop {UNIT}",
            )
        return self._switch.seats()[self._to] if self._to else first

    def _moved(self, holder: Seat, to: Seat, timeout: float, *, force: bool) -> Moved:
        def say(text: str) -> None:
            self.context.listen(Event(holder.host.name, "progress", "switch", text))

        with self._switch.locked(holder, to):
            if not force:
                self._compare(holder, to)
            return self._switch.move(holder, to, timeout, say)

    def _compare(self, holder: Seat, to: Seat) -> None:
        """Refuse a balancer that would send requests to an instance that the holder keeps out.

        Raises:
            RefusedError: the marks differ.
        """
        marks = {}
        for pool in self._pools():
            if pool.host.name in (holder.host.name, to.host.name):
                members = pool.members().items()
                marks[pool.host.name] = {label for label, member in members if not (member.down or member.drained)}
        here, there = marks.get(holder.host.name, set()), marks.get(to.host.name, set())
        if other := sorted(here ^ there):
            names = ", ".join(other[:NAMED]) + (f" and {len(other) - NAMED} more" if len(other) > NAMED else "")
            raise RefusedError(
                f"{to.host.name} and {holder.host.name} do not send to the same instances ({names})",
                "deploy first, so that all balancers are alike; or use --force",
            )

    def _pools(self) -> list[BalancerPool]:
        sources = [host for host in self.context.inventory.hosts if host.gpu]
        return self._roll.pools.of(sources[0]) if sources else []

    def _give_back(self) -> None:
        self._roll.pools.finish()
        self.context.keeper.stop()
