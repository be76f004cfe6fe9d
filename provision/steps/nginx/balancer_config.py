"""The balancer's configuration: a generation whose upstream names every instance of the inventory.

An instance's address is the listen address that this run read on its host; else the address in the present upstream;
else the inventory's. Failed hosts and instances are `down`, and so are instances that an operator drained; hosts that
this run did not visit keep their marks.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.steps.base import Check, RefusalError, State, Step
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import balancer_checks, client_networks, model_routes, pools, router, tls
from provision.steps.nginx import upstream as marks
from provision.steps.nginx.balanced_engine import BalancedEngine
from provision.steps.nginx.client_networks import Door
from provision.steps.nginx.generation import Files, Generation, rebinds
from provision.steps.nginx.generation_diff import MARK
from provision.steps.nginx.ipv4 import is_ipv4
from provision.steps.nginx.past_upstream import is_not_ready, refuse_loss, restored
from provision.steps.nginx.replica_sets import ReplicaSet, models_of, replica_sets
from provision.steps.nginx.router import Router
from provision.steps.nginx.tls import Tls
from provision.steps.nginx.traffic_shares import Traffic
from provision.steps.nginx.upstream import NOWHERE, Drained, InstanceRef, Member, Upstream
from provision.steps.nginx_paths import CONFIG
from provision.steps.wording import changed_entries

UPSTREAM = marks.FILE


@dataclass(frozen=True, kw_only=True)
class Server:
    """One instance, as the upstream needs it.

    Args:
        host: name of its host.
        instance: its name on the host.
        port: TCP port.
        weight: its share.
        max_conns: greatest number of requests at once; 0 for no limit. Of an instance that takes its requests at once
            from the estimate, the number for a single request at once.
        each: requests more for each further request that such an instance answers at once; 0 for every other instance.
        address: its address by the inventory alone, perhaps a name.
        settled: whether the instance listens at the address and nowhere else; else the address only leads to its host.
        models: names of its models and its public names, canonical and in lower case.
        pool: the pool whose clients alone reach the instance; empty for the common pool.
        site: the other site of the instance; empty for the balancer's site.
    """

    host: str
    instance: str
    port: int
    weight: int
    max_conns: int
    address: str
    settled: bool = False
    each: int = 0
    models: tuple[str, ...] = ()
    pool: str = ""
    site: str = ""

    @property
    def label(self) -> str:
        """`host/instance`, of characters that mean nothing to nginx."""
        return InstanceRef(self.host, self.instance).label

    def limit(self, parallel: int, present: Member | None) -> int:
        """The greatest number of requests at once, by the requests that the instance answers at once.

        Args:
            parallel: as this run read on the host; 0 where unknown.
            present: the member of the present upstream, whose limit stays where the number is unknown.
        """
        if not self.each or not (parallel or present):
            return self.max_conns
        return self.max_conns + (parallel - 1) * self.each if parallel or not present else present.max_conns


@dataclass(frozen=True, kw_only=True)
class Balancing(Generation):
    """nginx's configuration as the balancer.

    Args:
        servers: every instance behind the balancer.
        engine: the engine of the instances.
        method: the balancing method as nginx's directive, or empty for round robin.
        max_fails: failures within `fail_timeout` after which an instance is left alone for as long.
        fail_timeout: duration in nginx's notation.
        keepalive: idle connections that each worker keeps.
        listens: where clients reach the balancer, in words for the plan.
        url: where clients on the host itself reach the balancer, for the proofs.
        spelled: model, canonical and in lower case -> the name in the inventory, for the proofs.
        traffic: public name -> version -> percent, all names canonical and in lower case.
        tls: TLS for clients; None for plain HTTP.
        doors: listeners that only some networks may use, for the proofs.
        router: the router that reads bodies; None where the path alone names the model.
        vip: the common address of the balancers; empty for none.
        shutdown: how long streams may go on before the address moves: a duration.
        fleet: the state of the fleet.
    """

    routes: ClassVar[bool] = True

    servers: tuple[Server, ...]
    engine: BalancedEngine = field(repr=False)
    method: str
    max_fails: int
    fail_timeout: str
    keepalive: int
    listens: str
    url: str
    spelled: Mapping[str, str] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=dict)
    tls: Tls | None = None
    doors: tuple[Door, ...] = ()
    router: Router | None = None
    vip: str = ""
    shutdown: str = ""
    fleet: FleetState = field(default_factory=FleetState, repr=False)

    def in_fleet(self, fleet: FleetState) -> Step:
        """The configuration for the present state of the fleet."""
        return dataclasses.replace(self, fleet=fleet)

    @property
    def sets(self) -> tuple[ReplicaSet, ...]:
        """The replica sets by the inventory."""
        weights = {server.label: server.weight for server in self.servers}
        served = {server.label: server.models for server in self.servers}
        pooled, sited = self._places
        return replica_sets(served, self.traffic, weights, self.method, pooled, sited)

    @property
    def _places(self) -> tuple[dict[str, str], dict[str, str]]:
        """Label -> pool, and label -> other site, by the inventory."""
        return {each.label: each.pool for each in self.servers}, {each.label: each.site for each in self.servers}

    @property
    def names(self) -> frozenset[str]:
        """The files, and those that depend on the host or the fleet."""
        routes = self.router.names if self.router else {model_routes.FILE}
        return super().names | {UPSTREAM} | routes | ({tls.CONF} if self.tls else set())

    def rendered(self, facts: HostFacts, have: State) -> Files:
        """The files, with the upstream of this run. Refuses certificates that have ended."""
        if self.tls and self.tls.refused:
            raise RefusalError(self.tls.refused)
        listed = members(self.servers, self.fleet, facts, have)
        text = marks.text_of(have)
        weights = {member.label: member.weight for member in listed}
        served = served_models(self.servers, self.fleet, list(weights), marks.sets(text))
        declared, sites = self._places
        pooled = pools.of_members(declared, self.fleet, list(weights), marks.sets(text))
        has_sites = self.router is not None and self.router.site
        sited = pools.sites_of_members(sites, list(weights), marks.sets(text)) if has_sites else {}
        if not (self.router and self.router.is_keyed):
            pools.refuse_without_keys(pooled)
        sets = replica_sets(served, self.traffic, weights, self.method, pooled, sited)
        listed = with_requests(listed, marks.members(text), sets, self.fleet)
        upstream = Upstream(
            name=self.engine.name,
            method=self.method,
            max_fails=self.max_fails,
            fail_timeout=self.fail_timeout,
            keepalive=self.keepalive,
            zone=marks.zone_for(listed),
            members=listed,
            sets=sets,
        )
        secured = {tls.CONF: self.tls.conf(facts)} if self.tls else {}
        return {**self.files, **secured, UPSTREAM: upstream.text.encode(), **self._routes(sets)}

    def _routes(self, sets: Sequence[ReplicaSet]) -> Mapping[str, bytes]:
        """The files by which a request finds the instances of its model."""
        if self.router:
            return self.router.files(sets, self.engine)
        return {model_routes.FILE: model_routes.text(sets, self.engine)}

    def marked(self, files: Files, facts: HostFacts, have: State) -> Files:
        """Past files, with the present clients, and an upstream of present members (`past_upstream.restored`)."""
        text = files.get(UPSTREAM, b"")
        past = Upstream.parse(text.decode(errors="replace")) if isinstance(text, bytes) else None
        if past is None:
            raise RefusalError(f"provision did not write the {UPSTREAM} of that time, so it cannot be put back")
        ended = tls.ended(files, facts.clock)
        if ended:
            raise RefusalError(f"the certificate of that time has ended on {ended}: every client refuses it")
        now = marks.text_of(have)
        present = marks.members(now)
        drains = marks.drained(now) if present else self.fleet.drained
        declared = {server.label for server in self.servers}
        upstream = restored(past, present, self.fleet, declared, marks.sets(now)).updated(drain=drains)
        refuse_loss(upstream, present)
        kept = self.router.kept(files) if self.router else {}
        return {**files, **{name: kept[name] for name in kept if name in files}, UPSTREAM: upstream.text.encode()}

    def impact(self, have: State, want: State) -> str:
        """The effect on open streams and on clients; on a first deploy, the addresses for clients."""
        if have is None and want:
            return f"listens on {self.listens}"
        said = [
            super().impact(have, want),
            tls.cost(have, want),
            client_networks.cost(have, want),
            router.cost(have, want),
            f"if this balancer has {self.vip}, the address moves first, after its streams ({self.shutdown} at most)"
            if self.gives_address_away(have, want)
            else "",
        ]
        return "; ".join(filter(None, said))

    def gives_address_away(self, have: State, want: State) -> bool:
        """True for more than members and models: for these a reload is enough, which ends no stream and takes none."""
        if not self.vip or have is None or want is None or not have["exe"]:
            return False
        changed = set(changed_entries(have["files"], want["files"])) - {MARK, UPSTREAM, model_routes.FILE}
        return bool(changed) or rebinds(have, want) or have["exe"] != want.get("exe", have["exe"])

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The end of the certificate, and the diff of the files."""
        return [*tls.change(have, want), *super().diff(have, want)]

    def check(self, live: Any) -> Iterator[Check]:
        """The purpose of the configuration: see `balancer_checks`."""
        yield from super().check(live)
        sets = self.sets
        own = {label for replicas in sets if not replicas.weights for label in replicas.labels}
        expected = {s.label: (s.port, s.weight if s.label in own else 1, s.max_conns) for s in self.servers}
        settled = {s.label: s.address for s in self.servers if s.settled}
        proposed = frozenset(s.label for s in self.servers if s.each)
        yield from balancer_checks.members(live, expected, self.engine, settled, proposed)
        yield from balancer_checks.shares(live, sets)
        yield from balancer_checks.pools(live, sets)
        yield from balancer_checks.sites(live, sets)
        yield from self._through(live)
        for door in self.doors:
            yield from door.check(live)

    def _through(self, live: Any) -> Iterator[Check]:
        """Proofs by requests to the balancer, as a client sends them."""
        config = f"{CONFIG}/{tls.ASK}" if self.tls else ""
        if self.tls:
            yield from self.tls.check(live)
            yield from balancer_checks.in_clear(live, self.tls.at, self.tls.redirect_port)
        if self.tls and self.tls.clients:
            yield from balancer_checks.without_certificate(live, self.url, self.status_port, config)
            return
        inside = f"http://127.0.0.1:{self.status_port}"  # with a router: needs no key, and has all paths
        url = self.url
        if self.router and self.router.is_keyed:
            at = self.tls.at if self.tls else self.url.partition("//")[2]
            yield from balancer_checks.keyless(live, self.url, at, self.engine, config, self.router.networks)
            url, config = inside, ""
        yield from balancer_checks.edge(live, url, self.status_port, self.engine, list(self.spelled), config)
        yield from self._streams(live, *((inside, "") if self.router else (self.url, config)))

    def _streams(self, live: Any, base: str, config: str) -> Iterator[Check]:
        """A streamed answer through each replica set: at the root, or without a router at the path of a model.

        The status port reaches a model in the first of the model's pools alone.
        """
        serving = balancer_checks.serving(live)
        sets = self.sets
        reached: set[str] = set()
        for replicas in sets:
            new = [model for model in replicas.models if model not in reached]
            reached.update(new)
            if replicas.models and not new:
                yield balancer_checks.not_asked(replicas)
            if new:
                name = new[0]
                url = base if len(sets) == 1 or self.router else f"{base}{model_routes.PREFIX}{name}"
                labels = balancer_checks.reachable(new[0], sets, serving)
                behind = {label: at for label, at in serving.items() if label in labels}
                versions = [self.spelled[version] for version, _ in replicas.shares]
                yield from self.engine.stream(live, url, self.spelled[name], behind, config, versions)


def members(servers: tuple[Server, ...], fleet: FleetState, facts: HostFacts, have: State) -> tuple[Member, ...]:
    """The members of the upstream: declared instances in the order of the inventory, then undeclared serving ones.

    Members of a host that the run did not finish come from the present upstream, also under undeclared names or
    ports. A new instance there may be half made and would swallow requests.

    Args:
        servers: every instance.
        fleet: the state of the fleet.
        facts: facts of the balancer.
        have: the present configuration.

    Raises:
        RefusalError: hosts failed, and the upstream would have no serving member left. The balancer may well reach a
            host that we did not reach, and such a host is worth more than an empty upstream.
    """
    present = marks.members(marks.text_of(have))
    drains = marks.drained(marks.text_of(have)) if present else fleet.drained
    serving = marks.serves(present.values())
    known = [server for server in servers if not serving or server.label in present or server.host in fleet.addresses]
    listed = [_member(server, fleet, facts, present.get(server.label), drains.get(server.label)) for server in known]
    if serving:
        listed += _undeclared(servers, present, fleet)
    if serving and servers and not listed:
        raise RefusalError("no deployed instance would be left in the upstream; deploy their hosts first")
    if serving and listed and fleet.failed and not marks.serves(listed):
        failed = ", ".join(sorted(fleet.failed))
        raise RefusalError(
            f"no instance would be left in the upstream, because of {failed}: the upstream stays as it is"
        )
    return tuple(listed)


def served_models(
    servers: Sequence[Server], fleet: FleetState, listed: Sequence[str], present: Sequence[ReplicaSet]
) -> dict[str, tuple[str, ...]]:
    """Return label -> models of the members.

    A host that the run did not finish serves the models of the present replica sets.

    Args:
        servers: every instance.
        fleet: the state of the fleet.
        listed: labels of all members.
        present: the replica sets of the present upstream; empty where unknown.
    """
    declared = {server.label: server.models for server in servers}
    known = models_of(present)
    first = servers[0].models if servers else ()

    def models(label: str) -> tuple[str, ...]:
        is_finished = InstanceRef.of(label).host in fleet.addresses
        if label in known and not (label in declared and is_finished):
            return known[label]
        return declared.get(label, first)

    return {label: models(label) for label in listed}


def with_requests(
    listed: Sequence[Member], present: Mapping[str, Member], sets: Sequence[ReplicaSet], fleet: FleetState
) -> tuple[Member, ...]:
    """Return the members, where a replica set without serving members keeps the serving members of failed hosts.

    The balancer may well reach a host that we did not reach, and such a host is worth more than an empty replica set.

    Args:
        listed: the members of this run.
        present: label -> member of the present upstream.
        sets: all replica sets.
        fleet: the state of the fleet.
    """
    up = {member.label for member in listed if not member.down}
    kept: set[str] = set()
    for replicas in sets:
        if up.isdisjoint(replicas.labels):
            serving = {name for name in replicas.labels if name in present and not present[name].down}
            kept |= {name for name in serving - fleet.not_ready if InstanceRef.of(name).host in fleet.failed}
    return tuple(dataclasses.replace(each, down=False) if each.label in kept else each for each in listed)


def _member(
    server: Server, fleet: FleetState, facts: HostFacts, present: Member | None, drained: Drained | None
) -> Member:
    """A declared instance, with its marks in the present upstream.

    Its address is the listen address that this run read on its host; else the present address; else the inventory's.
    """
    visited = server.host in fleet.addresses
    old = present if present and present.address != NOWHERE else None
    stated = _ip(server.address) or _ip(facts.resolved.get(server.address, ""))
    address = _ip(fleet.addresses.get(server.host, "")) or (old.address if old else stated)
    unknown = present is None and server.host in fleet.unaffected
    kept = old is not None and old.down and not visited
    return Member(
        address=address or NOWHERE,
        port=old.port if old and not visited else server.port,
        down=unknown or kept or is_not_ready(server.label, fleet) or drained is not None or not address,
        drained=drained,
        label=server.label,
        weight=server.weight,
        max_conns=server.limit(fleet.parallel.get(server.label, 0), present),
    )


def _undeclared(servers: tuple[Server, ...], present: Mapping[str, Member], fleet: FleetState) -> Iterator[Member]:
    """The undeclared members of declared hosts that the run did not finish."""
    declared = {server.label for server in servers}
    hosts = {server.host for server in servers} - fleet.addresses.keys()
    for name, member in present.items():
        if name not in declared and InstanceRef.of(name).host in hosts:
            yield dataclasses.replace(member, down=member.down or is_not_ready(name, fleet))


def _ip(text: str) -> str:
    """The text, if it is an IPv4 address; else an empty string."""
    return text if is_ipv4(text) else ""
