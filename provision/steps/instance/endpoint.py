"""The address of a host's instances, and the networks with access. Containers, firewall, boot unit and every balancer's
upstream must agree, so this module alone decides.

Published ports bypass ufw and firewalld (docs/facts.md#docker-ports), and Ollama has no password
(docs/facts.md#ollama-security).
"""

import ipaddress
from collections.abc import Iterable

from provision.inventory import Host, Inventory
from provision.inventory.topology import remote_balancers
from provision.steps.base import RefusalError
from provision.steps.facts import HostFacts

LOOPBACK = "127.0.0.1"


def is_local(host: Host, inventory: Inventory) -> bool:
    """Whether the host's instances listen on the loopback address, because only the host itself sends requests.

    The inventory alone decides, so the answer is known before the host is read.
    """
    address = host.serving.listen_address
    return not remote_balancers(host, inventory) if not address else ipaddress.ip_address(address).is_loopback


def listen_address(host: Host, inventory: Inventory, facts: HostFacts) -> str:
    """Return the address on which a host's instances are published.

    127.0.0.1 if the host is its only balancer; else `ollama.listen_address`; else the host's own address on the route
    to its balancers.

    Args:
        host: a gpu host.
        inventory: the whole inventory, for its balancers.
        facts: of the host.

    Raises:
        RefusalError: the address is not the host's own, or ambiguous, or of no use to the balancers.
    """
    address = host.serving.listen_address or (
        LOOPBACK if is_local(host, inventory) else _source(host, inventory, facts)
    )
    if ipaddress.ip_address(address).version != 4:
        raise RefusalError(
            f"instances would listen on {address}, but only IPv4 is supported, because not every Docker puts IPv6"
            f" through the DOCKER-USER chain; set {_setting(host)} to an IPv4 address of this host"
        )
    if ipaddress.ip_address(address).is_loopback:
        return _loopback(address, host, inventory)
    if address not in facts.addresses:
        own = ", ".join(facts.addresses) or "none known"
        raise RefusalError(f"{_setting(host)} {address} is no address of this host (it has {own})")
    return address


def admitted(host: Host, inventory: Inventory, facts: HostFacts) -> tuple[str, ...]:
    """Return the IPv4 networks with access to a host's instances: its balancers and `ollama.admit`, each once.

    Raises:
        RefusalError: the host does not know a balancer's address, or the address is no IPv4 address.
    """
    senders = [_resolved(other, facts) for other in remote_balancers(host, inventory)]
    return tuple(dict.fromkeys(str(ipaddress.ip_network(sender)) for sender in (*senders, *host.serving.admit)))


def _loopback(address: str, host: Host, inventory: Inventory) -> str:
    away = remote_balancers(host, inventory)
    if away:
        raise RefusalError(f"{_setting(host)} {address} is this host's own loopback, which {_names(away)} cannot reach")
    return address


def _source(host: Host, inventory: Inventory, facts: HostFacts) -> str:
    away = remote_balancers(host, inventory)
    lost = [other for other in away if not facts.sources.get(other.connection.address)]
    if lost:
        raise RefusalError(f"this host finds no route to {_names(lost)}; set {_setting(host)}")
    sources = sorted({facts.sources[other.connection.address] for other in away})
    if len(sources) > 1:
        raise RefusalError(
            f"this host reaches its balancers from several addresses ({', '.join(sources)});"
            f" set {_setting(host)} to the one all of them can reach"
        )
    return sources[0]


def _setting(host: Host) -> str:
    """Return the name of the setting with the declared address of a host's instances."""
    return f"{host.serving.engine}.listen_address"


def _resolved(other: Host, facts: HostFacts) -> str:
    name = other.connection.address
    address = facts.resolved.get(name, "")
    if not address:
        raise RefusalError(f"this host cannot resolve {name}, the address of the balancer {other.name}")
    if ipaddress.ip_address(address).version != 4:
        raise RefusalError(f"the balancer {other.name} is {address} to this host, but only IPv4 is supported")
    return address


def _names(hosts: Iterable[Host]) -> str:
    return ", ".join(f"{host.name} ({host.connection.address})" for host in hosts)
