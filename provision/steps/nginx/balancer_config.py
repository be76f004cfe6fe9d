"""The balancer's configuration: a generation whose upstream names every instance of the inventory.

An instance's address is what its host was read to listen on in this run; else the one in the present upstream; else
what the inventory alone can say. Hosts and instances that failed are `down`, and so is what an operator drained; hosts
that this run did not visit keep their mark.
"""

import dataclasses
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.render import render
from provision.steps.base import Check, RefusalError, State
from provision.steps.facts import Fleet, HostFacts
from provision.steps.nginx import balancer_checks
from provision.steps.nginx import upstream as marks
from provision.steps.nginx.generation import Generation
from provision.steps.nginx.upstream import Drained, Place, is_ipv4

UPSTREAM = marks.FILE
NOWHERE = "192.0.2.1"  # TEST-NET-1, RFC 5737: no machine has it; always with `down`


@dataclass(frozen=True, kw_only=True)
class Server:
    """One instance, as the upstream needs it.

    Args:
        host: name of its host.
        instance: its name there.
        port: TCP port.
        weight: its share.
        max_conns: requests that may be at it at once; 0 for no limit.
        address: what the inventory alone says of its address, perhaps a name.
        settled: whether it listens there and nowhere else; else that is only where its host is reached.
    """

    host: str
    instance: str
    port: int
    weight: int
    max_conns: int
    address: str
    settled: bool = False

    @property
    def label(self) -> str:
        """`host/instance`, of characters that mean nothing to nginx."""
        return marks.label(self.host, self.instance)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the upstream.

    Args:
        label: `host/instance`.
        address: an IPv4 address.
        port: TCP port.
        weight: its share.
        max_conns: see `Server`.
        down: whether nothing is sent to it.
        drained: the comment of one that an operator drained, or empty.
    """

    label: str
    address: str
    port: int
    weight: int
    max_conns: int
    down: bool
    drained: str = ""


@dataclass(frozen=True, kw_only=True)
class Balancing(Generation):
    """nginx's configuration as the balancer.

    Args:
        servers: every instance it sends to.
        method: the balancing method as nginx's directive, or empty for round robin.
        max_fails: failures within `fail_timeout` after which an instance is left alone for as long.
        fail_timeout: in nginx's notation.
        keepalive: idle connections that each worker keeps.
        listens: where clients reach it, in words for the plan.
        url: where clients on the host itself reach the balancer, for the proofs.
        model: a model that every instance serves, for the proofs; empty where there is none.
        scattered: models that only some of the instances serve -> how many do.
    """

    servers: tuple[Server, ...]
    method: str
    max_fails: int
    fail_timeout: str
    keepalive: int
    listens: str
    url: str
    model: str = ""
    scattered: Mapping[str, str] = field(default_factory=dict)

    def rendered(self, facts: HostFacts, have: State) -> Mapping[str, bytes]:
        """The files, with the upstream of this run."""
        lines = upstream(self.servers, facts, have)
        text = render(
            f"balancer/{UPSTREAM}.j2",
            servers=lines,
            named=_named(lines),
            zone=_zone(len(lines)),
            method=self.method,
            max_fails=self.max_fails,
            fail_timeout=self.fail_timeout,
            keepalive=self.keepalive,
        )
        return {**self.files, UPSTREAM: text}

    def marked(self, files: Mapping[str, bytes], facts: HostFacts, have: State) -> Mapping[str, bytes]:
        """The upstream of then with the marks of now: who is drained or failed stays out, whatever it was then."""
        then = files.get(UPSTREAM, b"").decode(errors="replace")
        present, named = marks.members(marks.text_of(have)), marks.members(then)
        kept = marks.drained(marks.text_of(have)) if present else facts.fleet.drained
        then = marks.marked(then, undrain=set(marks.drained(then)))
        declared = {server.label for server in self.servers}
        if present:
            known = _where_they_are(named, present, facts.fleet, declared)
            then = marks.placed(then, marks.text_of(have), known)
            named = marks.members(then)
        down = {name for name in named if _stays_out(name, facts.fleet, present.get(name), name in declared)}
        text = marks.marked(then, down, _as_they_are(set(named) - down), _of(kept, named))
        if any(not one.down for one in present.values()) and all(one.down for one in marks.members(text).values()):
            raise RefusalError("no instance that serves would be left in the upstream of then; it is left as it is")
        return {**files, UPSTREAM: text.encode()}

    def impact(self, have: State, want: State) -> str:
        """What happens to open streams; before the first time, who will reach it."""
        return f"listens on {self.listens}" if have is None and want else super().impact(have, want)

    def check(self, live: Any) -> Iterator[Check]:
        """What the present configuration is for: see `balanced`."""
        yield from super().check(live)
        expected = {s.label: (s.port, s.weight, s.max_conns) for s in self.servers}
        settled = {s.label: s.address for s in self.servers if s.settled}
        yield from balancer_checks.members(live, expected, settled)
        yield from balancer_checks.edge(live, self.url, self.status_port)
        yield from balancer_checks.models(self.scattered)
        if self.model and self.servers:
            yield from balancer_checks.stream(live, self.url, self.model)


def upstream(servers: tuple[Server, ...], facts: HostFacts, have: State) -> list[Line]:
    """The lines of the upstream, in the order of the inventory.

    Args:
        servers: every instance.
        facts: of the balancer, with what this run knows of the fleet.
        have: the present configuration.

    Raises:
        RefusalError: hosts failed, and without them nothing would be left that still serves. What was not reached
            from here may well be reached by the balancer, and is worth more than an empty upstream.
    """
    before = marks.members(marks.text_of(have))
    drained = marks.drained(marks.text_of(have)) if before else facts.fleet.drained
    serving = any(not member.down for member in before.values())
    known = _known(servers, facts, before) if serving else [(one, before.get(one.label)) for one in servers]
    lines = [_line(server, facts, member, drained.get(server.label)) for server, member in known]
    if serving and servers and not lines:
        raise RefusalError("no instance that was deployed would be left in the upstream; deploy their hosts first")
    if serving and lines and facts.fleet.failed and all(one.down for one in lines):
        failed = ", ".join(sorted(facts.fleet.failed))
        raise RefusalError(f"no instance would be left in the upstream, because of {failed}; it is left as it is")
    return lines


def _known(
    servers: tuple[Server, ...], facts: HostFacts, before: Mapping[str, marks.Member]
) -> Iterator[tuple[Server, marks.Member | None]]:
    """The instances that this run or an earlier one brought to their end, with what the balancer, which serves, has.

    Of a host that this run did not bring to its end, it is what the balancer has, also under names or ports that are no
    longer declared: that is what serves there. What is new there, or was left half made, would swallow requests; and
    marked `down` it would count as out, and be in the way of others.
    """
    declared = {server.label for server in servers}
    hosts = {_place(server.label): server for server in servers}
    for server in servers:
        # a host that has another name now is the same where its instances are
        same = (one for name, one in before.items() if _place(name) not in hosts and one.at == _at(server, facts))
        member = before.get(server.label) or next(same, None)
        if member or server.host in facts.fleet.addresses:
            yield server, member
    for name, one in before.items():
        alike = hosts.get(_place(name))
        if alike and name not in declared and alike.host not in facts.fleet.addresses:
            instance = name.rpartition("/")[2]
            yield dataclasses.replace(alike, instance=instance, port=one.port, address=one.address), one


def _place(label: str) -> str:
    """The host of a label."""
    return label.rpartition("/")[0]


def _at(server: Server, facts: HostFacts) -> str:
    """Where the inventory says that it is."""
    return f"{_ip(server.address) or _ip(facts.resolved.get(server.address, ''))}:{server.port}"


def _line(server: Server, facts: HostFacts, before: marks.Member | None, drained: Drained | None) -> Line:
    fleet = facts.fleet
    old = before.address if before and before.address != NOWHERE else ""
    stated = _ip(server.address) or _ip(facts.resolved.get(server.address, ""))
    address = _ip(fleet.addresses.get(server.host, "")) or old or stated
    kept = bool(old) and before is not None and before.down and server.host not in fleet.addresses
    unknown = before is None and server.host in fleet.partly
    failed = unknown or server.host in fleet.failed or server.label in fleet.unfit
    return Line(
        label=server.label,
        address=address or NOWHERE,
        port=before.port if old and before and server.host not in fleet.addresses else server.port,
        weight=server.weight,
        max_conns=server.max_conns,
        down=failed or kept or drained is not None or not address,
        drained=drained.comment if drained else "",
    )


def _stays_out(label: str, fleet: Fleet, now: marks.Member | None, declared: bool) -> bool:
    """Whether an instance of a configuration of then gets no requests, by what is known of it now.

    One that came back and is not declared was made without its models, and nobody has tested it.
    """
    host = label.rpartition("/")[0]
    if host in fleet.failed or label in fleet.unfit or (now is None and host in fleet.partly):
        return True
    return (now is None or now.down) and (host not in fleet.addresses or not declared)


def _where_they_are(
    then: Collection[str], now: Mapping[str, marks.Member], fleet: Fleet, declared: Collection[str]
) -> set[str]:
    """The instances of which the present upstream knows better where they are than one of then.

    Those of hosts that this run did not bring to their end are as they are, whatever they were; and of the others
    those that get requests, because they proved themselves there; what was added since is not taken away from them,
    unless this run takes it away.
    """
    others = {name for name in {*then, *now} if _place(name) not in fleet.addresses}
    kept = {name for name in {*then, *declared} if name not in fleet.unfit or name in then}
    return others | {name for name, one in now.items() if name in kept and not one.down}


def _as_they_are(names: Collection[str]) -> dict[str, Place]:
    return {name: Place("", name) for name in names}


def _of(drained: Mapping[str, Drained], named: Container[str]) -> dict[str, Drained]:
    return {name: one for name, one in drained.items() if name in named}


def _ip(text: str) -> str:
    """The address, if it is an IPv4 one."""
    return text if is_ipv4(text) else ""


def _named(lines: list[Line]) -> list[Line]:
    """Lines with an address of their own: nginx refuses a map with two equal keys."""
    first = {(line.address, line.port): line for line in reversed(lines) if line.address != NOWHERE}
    return [line for line in lines if first.get((line.address, line.port)) is line]


def _zone(count: int) -> int:
    """KiB of the upstream's shared memory: measured with nginx 1.26.3 and 1.30.4, with room to spare."""
    return 64 + count
