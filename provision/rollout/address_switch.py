"""Moves the common address of the balancers to another balancer, and loses no stream on the way.

New connections begin on the next balancer while the holder finishes its streams (`steps/keepalived/handover.py`). If
the address does not move after all, the holder serves new connections again, and the next balancer finishes the streams
that it has. The holder does the same by itself if this machine is lost.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from provision.command import Answer, Run
from provision.errors import HostError, RefusedError, UnreachableError
from provision.events import Event
from provision.inventory import Host, duration_seconds, shared_settings
from provision.plan import planner
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.transport import Transport
from provision.steps.keepalived import handover
from provision.steps.keepalived.address import NAME, VirtualAddress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Seat:
    """A balancer that can hold the common address.

    Args:
        host: the balancer.
        session: a connection for the switch alone.
        step: the guard of the address.
    """

    host: Host
    session: Transport
    step: VirtualAddress

    def ask(self, command: Run) -> Answer:
        """Run a command and return its answer.

        Raises:
            HostError: the command failed, or the host cannot be reached.
        """
        answer = self.session.batch([command], stop=False)[0]
        if answer.exit:
            said = answer.complaint.strip().rpartition("\n")[2]
            message = f"{self.host.name}: {said or f'{command} failed'}"
            raise HostError(message, stderr=answer.complaint, exit_status=answer.exit)
        return answer

    def seen(self) -> Mapping[str, Any]:
        """Return the state of the guard: whether this balancer holds the address.

        Raises:
            HostError: the host cannot be read.
        """
        fact = self.step.fact()
        answer = self.session.batch([fact.command], stop=False)[0]
        return planner.parse(fact, {fact.command: answer}, self.step.id) or {}


@dataclass(frozen=True)
class Moved:
    """A switch.

    Args:
        holder: the balancer that had the address.
        to: the balancer that has the address now.
        cut: requests that had not ended in time, and were cut.
        seconds: the wait for requests to end.
    """

    holder: str
    to: str
    cut: int
    seconds: float


class AddressSwitch:
    """The balancers of the common address.

    Args:
        context: of the run.
        become_password: sudo's password for the balancers (`-K`), or None for the password in the inventory.
    """

    def __init__(self, context: Context, become_password: str | None = None) -> None:
        self.context = context
        self._password = become_password
        self._seats: dict[str, Seat] = {}
        self.leases: dict[str, Lease] = {}
        """Balancer -> the lock of this run, as far as the run has asked for it."""

    def seats(self) -> dict[str, Seat]:
        """Return name -> seat of every balancer; empty without a common address."""
        if not self._seats:
            for host in self.context.inventory.group("balancer"):
                entries = self.context.setup.catalog.steps(host, self.context.inventory)
                step = next((entry.step for entry in entries if entry.step.compared_as == NAME), None)
                if step is not None:
                    session = self.context.setup.transport(host.connection, self._password)
                    self._seats[host.name] = Seat(host, session, cast(VirtualAddress, step))
        return self._seats

    def holders(self) -> list[str]:
        """Return the balancers that have the address, as far as they can be reached."""
        found = []
        for name, seat in self.seats().items():
            with contextlib.suppress(UnreachableError):
                found += [name] if seat.seen()["holds"] else []
        return found

    def holder(self) -> Seat:
        """Return the balancer that has the address.

        Raises:
            RefusedError: nobody has the address, or several have.
            HostError: a balancer cannot be read.
        """
        names = self.holders()
        if len(names) != 1:
            address = next(iter(self.seats().values())).step.address
            said = f"{' and '.join(names)} have {address} at the same time" if names else f"nobody has {address}"
            raise RefusedError(said, "provision verify names the cause; nothing was changed")
        return self.seats()[names[0]]

    def next_of(self, holder: Seat) -> Seat:
        """Return the first balancer of the inventory, other than the holder, that can take the address.

        Args:
            holder: the balancer with the address.

        Raises:
            RefusedError: no other balancer can.
        """
        why = []
        for name, seat in self.seats().items():
            if name == holder.host.name:
                continue
            try:
                seat.ask(handover.well())
            except HostError as error:
                why.append(error.message)
            else:
                return seat
        raise RefusedError(f"no other balancer can take {holder.step.address}: {'; '.join(why)}")

    def move(self, holder: Seat, to: Seat, timeout: float, say: Say) -> Moved:
        """Move the address.

        Args:
            holder: the balancer with the address.
            to: the next balancer.
            timeout: seconds to wait for the streams of the holder; then they are cut.
            say: hears the progress.

        Raises:
            Stopped: the operator stopped the wait: the address is where it was.
            HostError: the address is where it was, or `provision verify` tells where.
        """
        address, begun = holder.step.address, time.monotonic()
        seen = holder.seen()
        at = seen["at"].get(holder.step.peers[to.host.name], "")
        to.ask(handover.well())
        streams = round(patience(holder.host))
        given = False
        try:
            answer = holder.ask(handover.begin(address, _ports(holder.host), at, seen["interface"], streams))
            left = self._idle(holder, to, handover.workers(answer), begun + timeout, say)
            given = True
            holder.ask(handover.give())
            try:
                to.ask(handover.wait_for(address, has=True))
            except HostError as error:
                message = f"{to.host.name} did not take {address} in {handover.TAKES} s"
                raise HostError(message, "look at journalctl -u provision-keepalived on both balancers") from error
            holder.ask(handover.wait_for(address, has=False))
        finally:
            with contextlib.suppress(HostError):  # the holder takes new connections back by itself
                keep = not given and self._is_well(to)  # a dead balancer has no streams to finish
                holder.ask(handover.take_back(streams) if keep else handover.end())
        return Moved(holder.host.name, to.host.name, left, time.monotonic() - begun)

    @staticmethod
    def _is_well(seat: Seat) -> bool:
        try:
            seat.ask(handover.well())
        except HostError:
            return False
        return True

    def _idle(self, holder: Seat, to: Seat, workers: Sequence[int], deadline: float, say: Say) -> int:
        """Wait until the streams of the holder have ended, and return how many requests are left.

        The next balancer gets the new connections meanwhile, so a balancer that is not well any more ends the wait.
        """
        port = shared_settings.balancer(holder.host).status_port
        while True:
            wait = max(0, min(handover.POLL, round(deadline - time.monotonic())))
            left = handover.count(holder.ask(handover.active(port, wait, workers)))
            if left is None:
                raise HostError(f"{holder.host.name} does not tell its requests in progress")
            self._confirm(to, holder)
            if not left or time.monotonic() >= deadline:
                return left
            say(
                f"waiting: {left} {'request is' if left == 1 else 'requests are'} in progress on {holder.host.name};"
                " new requests go to the next balancer already"
            )
            if self.context.stop.is_set():
                raise Stopped("stopped before the address moved", "run the command again to go on")

    @staticmethod
    def _confirm(to: Seat, holder: Seat) -> None:
        try:
            to.ask(handover.well())
        except HostError as error:
            keeps = f"{holder.host.name} keeps {holder.step.address}, and serves new connections again"
            message = f"{to.host.name} is not well any more: {error.message.removeprefix(f'{to.host.name}: ')}; {keeps}"
            raise HostError(message, "repair the balancer, then run the command again", stderr=error.stderr) from error

    @contextlib.contextmanager
    def locked(self, *seats: Seat) -> Iterator[None]:
        """Hold the locks of balancers, so that no other run changes them while the address moves.

        Args:
            seats: the balancers.

        Raises:
            LockedError: another run or an operator has a lock.
            HostError: a balancer cannot be reached.
            RefusedError: the first balancer does not have the address any more.
        """
        leases = [self._lease(seat) for seat in seats]
        try:
            for seat, lease in zip(seats, leases, strict=True):
                answer = seat.session.batch([lease.acquire()], stop=False)[0]
                lease.wait(answer, self.context.lock_wait, self.context.stop, partial(self._tell, seat))
            if self.holder() is not seats[0]:
                raise RefusedError(f"{seats[0].host.name} does not have the address any more", "run the command again")
            yield
        finally:
            for lease in leases:
                with contextlib.suppress(HostError):  # the lease expires by itself
                    lease.end()

    def _lease(self, seat: Seat) -> Lease:
        lease = self.context.lease(seat.session, seat.host.connection.timeout_factor)
        self.leases[seat.host.name] = lease
        return lease

    def _tell(self, seat: Seat, text: str) -> None:
        self.context.listen(Event(seat.host.name, "progress", "lock", text))

    def close(self) -> None:
        """Close the connections."""
        for seat in self._seats.values():
            seat.session.close()


def patience(host: Host) -> float:
    """Return how long the streams of a balancer may take before a switch: `balancer.shutdown_timeout`, in seconds.

    Args:
        host: the balancer.
    """
    return duration_seconds(shared_settings.balancer(host).shutdown_timeout)


def _ports(host: Host) -> tuple[int, ...]:
    settings = shared_settings.balancer(host)
    return tuple(int(address.rpartition(":")[2]) for address in (*settings.addresses, *settings.redirects))
