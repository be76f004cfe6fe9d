"""What is wrong with each balancer, for `provision status`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.actions.status_rows import FEWEST, BalancerRow, Finding, Latest, failure_of, ordered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provision.actions.status_reads import Balancer

SOON = 30
"""Days before the end of a certificate from which the end is a finding: a deploy renews the certificate then."""
DAY = 86400.0


def balancer_row(latest: Latest, holders: Mapping[str, Sequence[str]], now: float) -> BalancerRow:
    """Return the row of a balancer.

    Args:
        latest: about the balancer.
        holders: common address -> the balancers that have it, of all addresses whose balancers all answered.
        now: the present, in seconds since 1970.
    """
    balancer = latest.reading.balancer if latest.reading else None
    if latest.error is not None or balancer is None:
        return BalancerRow(host=latest.host.name, findings=(failure_of(latest),), age=latest.age, balancer=balancer)
    state, log = balancer.state, balancer.log
    days = int((state.ends.timestamp() - now) // DAY) if state and state.ends else None
    return BalancerRow(
        host=latest.host.name,
        findings=ordered([*_of_balancer(balancer, days), *_of_address(balancer, holders)]),
        age=latest.age,
        balancer=balancer,
        days=days,
        in_flight=sum(balancer.in_flight.values()) if balancer.in_flight is not None else None,
        requests=sum(recent.requests for recent in log.instances.values()) if log else 0,
    )


def _of_balancer(balancer: Balancer, days: int | None) -> Iterator[Finding]:
    state, log = balancer.state, balancer.log
    if state is None:
        yield Finding("failed", balancer.error)
        return
    if state.down:
        yield Finding("down", state.down)
    if state.stale:
        yield Finding("stale", state.stale)
    if state.members and all(member.down for member in state.members.values()):
        yield Finding("down", "every instance is cordoned or drained: no request finds an instance")
    if days is not None and state.ends and days < SOON:
        when = "has ended" if days < 0 else f"ends in {days} days"
        yield Finding("ended" if days < 0 else "ends soon", f"the certificate {when} ({state.ends:%Y-%m-%d})")
    if log and log.unserved >= FEWEST:
        yield Finding("failing", f"{log.unserved} of the last requests found no instance")
    if balancer.log_error:
        yield Finding("failed", balancer.log_error)


def _of_address(balancer: Balancer, holders: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    names = holders.get(balancer.vip)
    if names is None:
        return
    if not names:
        yield Finding("no holder", f"no balancer has {balancer.vip}: look at provision-keepalived on the balancers")
    if len(names) > 1 and balancer.holds:
        yield Finding("two holders", f"{', '.join(names)} have {balancer.vip}, and clients reach either")
