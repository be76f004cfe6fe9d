"""Whether a balancer can hold the common address of the balancers: its network, its peers, and strangers."""

from collections.abc import Iterator

from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory, shared_settings
from provision.steps.base import RefusalError, State
from provision.steps.keepalived.address import VirtualAddress

ON_EACH = "ip -4 addr; ip -4 neigh"


def _guard(host: Host, inventory: Inventory) -> VirtualAddress | None:
    vip = shared_settings.vip(host) if host.balancer else None
    others = [peer for peer in inventory.group("balancer") if peer.name != host.name]
    if vip is None or not others:
        return None
    peers = {peer.name: peer.connection.address for peer in others}
    return VirtualAddress(address=vip.address, port=shared_settings.balancer(host).port, url="", peers=peers)


def _look(host: Host, inventory: Inventory) -> Look | None:
    guard = _guard(host, inventory)
    if guard is None:
        return None
    fact = guard.fact()
    return alone(fact.command, fact.parse)


def _judge(state: State, subject: Subject) -> Iterator[Finding]:
    guard = _guard(subject.host, subject.inventory)
    if guard is None or state is None:
        return
    try:
        guard.want(subject.facts, state)
    except RefusalError as error:
        yield bad(str(error), ON_EACH)
        return
    silent = [peer for peer, at in guard.peers.items() if not state["peers"].get(at)]
    if silent:
        words = f"{', '.join(silent)} gives no answer on the link: two balancers that do not hear each other both take"
        yield risk(f"{words} {guard.address}", ON_EACH)
        return
    yield good(f"{guard.address} can be held here, and the other balancers answer on the link")


CHECKS = (Check("common address", _look, _judge),)
