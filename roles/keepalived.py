"""keepalived: one address for several balancers, held by one of them. Works with `balancer.vip` alone."""

from collections.abc import Iterator, Mapping
from functools import partial

from pydantic import Field

from provision import inventory
from provision.errors import Problem
from provision.inventory import Duration, Host, Inventory, duration_seconds, shared_settings
from provision.inventory.settings import KeyPath
from provision.inventory.topology import is_balancing
from provision.render import render
from provision.steps.base import Owned, Step
from provision.steps.facts import HostFacts
from provision.steps.keepalived import layout
from provision.steps.keepalived.address import VirtualAddress, resolved, source
from provision.steps.keepalived.config import KeepalivedConfig, OwnedKeepalived
from provision.steps.system.apt import Packages
from provision.steps.system.file import File, OwnedFiles
from provision.steps.system.owned_units import OwnedUnits
from provision.steps.system.systemd import Service, Unit

LATE = True
GROUPS = ("balancer",)
FACTS: frozenset[str] = frozenset()
HIGHEST, LESS = 240, 10
"""VRRP's priority of the first balancer of the inventory, and how much less each further balancer has."""
EXECUTABLE = 0o755


class Settings(inventory.Settings):
    """How quickly another balancer takes the common address (`balancer.vip`)."""

    advertise: Duration = "0.5s"
    """How often the holder says that it is there. A balancer takes the address after three times as long without a
    word."""
    fall: int = Field(default=2, ge=1, le=60)
    """Seconds for which nginx may fail to answer before its balancer gives the address away."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield an interval that VRRP cannot express."""
        if not 0.1 <= duration_seconds(self.advertise) <= 40:
            yield ("advertise",), "must be between 100ms and 40s"


OWNED: tuple[Owned, ...] = (
    OwnedUnits(prefix="provision-keepalived"),
    OwnedKeepalived(),
    OwnedFiles(globs=("/opt/provision/lib/keepalived-*",)),
)


def problems(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield balancers that do not agree about the common address, once for all."""
    balancers = inventory.group("balancer")
    if not balancers or host.name != balancers[0].name:
        return
    for name, read in (("balancer.vip", _vip), ("balancer.port", _ports)):
        values = {str(read(balancer)): balancer.name for balancer in reversed(balancers)}
        if _vip_of_any(inventory) and len(values) > 1:
            names = " and ".join(sorted(values.values()))
            yield host.problem("balancer", (), f"{name} differs between {names}: all balancers share one address")


def _vip(host: Host) -> shared_settings.VipSettings | None:
    return shared_settings.vip(host)


def _ports(host: Host) -> tuple[int, ...]:
    settings = shared_settings.balancer(host)
    return tuple(int(address.rpartition(":")[2]) for address in (*settings.addresses, *settings.redirects))


def _vip_of_any(inventory: Inventory) -> bool:
    return any(_vip(balancer) for balancer in inventory.group("balancer"))


def advice(host: Host, inventory: Inventory) -> Iterator[str]:
    """Yield the limits that a switch of balancers does not carry over."""
    if is_balancing(host, inventory) and (vip := _vip(host)):
        yield (
            f"{vip.address}: each balancer counts for itself, so a switch begins anew with the requests at once and in"
            " a minute, the tokens of the day, and the failures of instances; streams that still run on the balancer"
            " before are not counted by the next"
        )


def peers(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the other balancers of the common address: this host's facts include a route to each."""
    balancers = inventory.group("balancer")
    if host not in balancers or not _vip(host):
        return ()
    return tuple(peer for peer in balancers if peer.name != host.name)


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the guard of the address, keepalived with its configuration, and its service."""
    others = peers(host, inventory)
    vip = _vip(host)
    if not vip or not others:
        return
    settings, balancer = host.of(Settings), shared_settings.balancer(host)
    ports = _ports(host)
    addresses = {peer.name: peer.connection.address for peer in others}
    scheme = "https" if shared_settings.certificate(host) else "http"
    guard = VirtualAddress(
        address=vip.address, port=ports[0], url=f"{scheme}://{vip.address}:{ports[0]}/", peers=addresses
    )
    yield guard
    yield Packages(
        name="keepalived",
        packages={"keepalived": None, "nftables": None},
        lock_timeout=int(duration_seconds(shared_settings.docker(host).lock_timeout)),
    )
    names = {"standby": layout.STANDBY, "check": layout.CHECK, "table": layout.TABLE, "rules": layout.RULES}
    names |= {"conf": layout.CONF, "loaded": layout.LOADED, "load": layout.LOAD, "run": layout.RUN}
    check = render("keepalived/keepalived-check.j2", port=balancer.status_port)
    yield File(path=layout.CHECK, content=check, mode=EXECUTABLE)
    yield File(path=layout.LOAD, content=render("keepalived/keepalived-load.j2", **names), mode=EXECUTABLE)
    values = {
        "host": host.name,
        "router_id": vip.router_id,
        "priority": max(
            1, HIGHEST - LESS * [balancer.name for balancer in inventory.group("balancer")].index(host.name)
        ),
        "advertise": f"{duration_seconds(settings.advertise):g}",
        "fall": settings.fall,
        "address": vip.address,
    }
    yield KeepalivedConfig(
        conf=partial(_conf, addresses, {**names, **values}),
        rules=partial(_rules, addresses, {"table": layout.TABLE, "address": vip.address, "ports": ports}),
    )
    yield Unit(name=layout.UNIT, content=render("keepalived/provision-keepalived.service.j2", **names))
    yield Service(name=layout.UNIT.removesuffix(".service"), after=(f"unit:{layout.UNIT}",))


def _conf(peers: Mapping[str, str], values: Mapping[str, object], facts: HostFacts) -> bytes:
    own, others = source(facts, peers), resolved(facts, peers)
    return render("keepalived/keepalived.conf.j2", **values, source=own, peers=others, interface=facts.interfaces[own])


def _rules(peers: Mapping[str, str], values: Mapping[str, object], facts: HostFacts) -> bytes:
    own, others = source(facts, peers), resolved(facts, peers)
    return render("keepalived/rules.nft.j2", **values, source=own, peers=others)
