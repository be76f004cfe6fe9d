"""Is it well? The state of every instance and balancer, the worst first. Takes no lock and changes nothing."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.actions.exit_code import of_errors
from provision.actions.status_rows import WELL, WORST_FIRST, BalancerRow, Latest, Row, rank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from provision.actions.polling import Answered, Poll
    from provision.actions.request import Request
    from provision.actions.status_reads import Balancer, Reading
    from provision.inventory import Host, Inventory
    from provision.ssh.transport import Transport

WINDOW = 300
"""Seconds of requests to add up."""
EVERY = 5.0
"""Seconds between two screens."""
VERIFY_FAILED = 5


@dataclass(frozen=True)
class Status:
    """The state of the fleet at a moment.

    Args:
        inventory: all hosts.
        at: the moment, in seconds since 1970 by this machine.
        window: seconds of requests that were added up.
        hosts: the latest knowledge about every selected host, in the order of the inventory.
        rows: the instances, and hosts without an answer; worst first.
        balancers: the balancers, worst first.
    """

    inventory: Inventory
    at: float
    window: int
    hosts: Sequence[Latest]
    rows: Sequence[Row]
    balancers: Sequence[BalancerRow]

    @property
    def _every(self) -> Sequence[Row | BalancerRow]:
        return [*self.rows, *self.balancers]

    @property
    def counts(self) -> Mapping[str, int]:
        """State -> number of rows and balancers, worst first."""
        found = Counter(row.state for row in self._every)
        return {state: found[state] for state in WORST_FIRST if found[state]}

    @property
    def is_well(self) -> bool:
        """Whether there is no finding."""
        return all(finding.state in WELL for row in self._every for finding in row.findings)

    @property
    def exit_code(self) -> int:
        """0 if all is well; the code of a failed or unreachable host; else 5 for a finding."""
        return of_errors(latest.error for latest in self.hosts if latest.error) or (
            0 if self.is_well else VERIFY_FAILED
        )


def status(request: Request, window: int = WINDOW) -> Status:
    """Ask every selected host once, in one exec.

    Args:
        request: selects the hosts.
        window: seconds of requests to add up.

    Raises:
        InventoryError: the inventory has problems.
        UsageError: no host is selected.
    """
    with _asking(request, window) as (poll, view):
        poll.ask()
        poll.wait()
        return view(poll.answers)


def watch(
    request: Request,
    window: int = WINDOW,
    every: float = EVERY,
    sleep: Callable[[float], None] | None = None,
) -> Iterator[Status]:
    """Ask every selected host again and again, over kept connections, and yield the state of the fleet.

    Args:
        request: selects the hosts.
        window: seconds of requests to add up.
        every: seconds between two states.
        sleep: waits for a number of seconds; None for a real wait.

    Raises:
        InventoryError: the inventory has problems.
        UsageError: no host is selected.
    """
    import time

    with _asking(request, window) as (poll, view):
        for answers in poll.rounds(every, sleep or time.sleep):
            yield view(answers)


@contextmanager
def _asking(
    request: Request, window: int
) -> Iterator[tuple[Poll[Reading], Callable[[Mapping[str, Answered[Reading]]], Status]]]:
    """Yield the poll of the hosts, and the view on its answers; cut the connections at the end."""
    from provision.actions.asking import setup_of
    from provision.actions.polling import Poll
    from provision.actions.status_reads import questions
    from provision.plan import role_interface

    setup = setup_of(request)
    inventory = role_interface.load(request.inventory, request.overrides, served=False)
    hosts = inventory.select(request.limit)
    asked = {host.name: questions(host, inventory, setup, window) for host in hosts}

    def work(host: Host, session: Transport) -> Reading:
        commands = asked[host.name].commands
        answers = session.batch(list(commands.values()), stop=False)
        return asked[host.name].parse(dict(zip(commands, answers, strict=True)))

    def connect(host: Host) -> Transport:
        return setup.transport(host.connection, request.become_password)

    def view(answers: Mapping[str, Answered[Reading]]) -> Status:
        return _viewed(inventory, hosts, answers, setup.clock(), window)

    poll = Poll(hosts, work, connect, request.forks, setup.clock)
    try:
        yield poll, view
    finally:
        poll.close()


def _viewed(
    inventory: Inventory, hosts: Sequence[Host], answers: Mapping[str, Answered[Reading]], now: float, window: int
) -> Status:
    """Return the state of the fleet by the latest answers."""
    from provision.actions.status_balancers import balancer_row
    from provision.actions.status_instances import instance_rows
    from provision.inventory import topology

    latest = [_latest(host, answers[host.name], now) for host in hosts]
    known = {one.host.name: one.reading.balancer for one in latest if one.reading and one.reading.balancer}
    rows: list[Row] = []
    for one in latest:
        if one.host.gpu:
            senders = {each.name for each in topology.balancers(one.host, inventory)}
            rows += instance_rows(one, {name: known[name] for name in known if name in senders})
    balancers = [one for one in latest if topology.is_balancing(one.host, inventory)]
    listed = [balancer_row(one, _holders(balancers), now) for one in balancers]
    return Status(inventory, now, window, latest, sorted(rows, key=rank), sorted(listed, key=rank))


def _latest(host: Host, answered: Answered[Reading], now: float) -> Latest:
    age = None if answered.at is None else max(0.0, now - answered.at)
    return Latest(host, answered.answer, answered.error, age)


def _holders(balancers: Sequence[Latest]) -> Mapping[str, Sequence[str]]:
    """Return common address -> the balancers that have it. A balancer without an answer may have the address, so an
    address without a known holder counts only where every balancer answered."""
    found: dict[str, list[str]] = {}
    unsure = False
    for one in balancers:
        balancer: Balancer | None = one.reading.balancer if one.reading else None
        if one.error is not None or balancer is None or (balancer.vip and balancer.holds is None):
            unsure = True
        elif balancer.vip:
            found.setdefault(balancer.vip, [])
            if balancer.holds:
                found[balancer.vip].append(one.host.name)
    return {address: names for address, names in found.items() if names or not unsure}
