"""The networks in which a client needs no key, as the operator's file of clients has the networks."""

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from provision.errors import UsageError

MOST = 1000
"""Networks of a file, as many as `balancer.allow` may have."""
_LONGEST = 43
_FORM = "must be a network in its short form, such as 10.0.0.0/8, 192.0.2.7/32 or fd00::/64"
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def canonical(text: str) -> str:
    """Return a network as the file has the network. An address is a network of its own.

    Args:
        text: an address or a network.

    Raises:
        UsageError: the text is no network, or an address of the network stands in place of the first address.
    """
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(f"{text[:64]!r} is no network", "a network is such as 10.0.0.0/8 or fd00::/64") from None
    raise UsageError(f"{text[:64]!r} is an address inside of a network", f"the network itself is {loose}")


def problems(clients: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of the networks of all clients, each with its place.

    Args:
        clients: name -> entry of the client, as the file has the entry.
    """
    found: list[tuple[str, str]] = []
    for name, entry in clients.items():
        networks = entry.get("networks", ()) if isinstance(entry, dict) else ()
        place = f"clients: {name[:64]!r}: networks"
        if not isinstance(networks, list | tuple):
            yield f"{place} must be a list"
            continue
        for number, network in enumerate(networks):
            if problem := _problem(network):
                yield f"{place}[{number}] {problem}"
            else:
                found.append((name, network))
    if len(found) > MOST:
        yield f"clients: the file has {len(found)} networks, and {MOST} are possible"
    yield from _overlaps(found)


def _problem(value: Any) -> str:
    """Return what is wrong with a network; empty for a good network."""
    if not isinstance(value, str) or len(value) > _LONGEST or "%" in value:
        return _FORM
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        return _FORM
    if str(network) != value:
        return _FORM
    if not network.prefixlen:
        return "is everybody: an inventory without balancer.clients asks nobody for a key"
    # A balancer looks for an IPv4 client of an IPv6 listener among the IPv4 networks (ngx_http_geo_module.c).
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return "must be an IPv4 network: a balancer knows such a client by the IPv4 address"
    return ""


def _overlaps(found: list[tuple[str, str]]) -> Iterator[str]:
    """Yield networks that overlap.

    Of two such networks the larger contains the smaller. So in the order of the addresses, larger networks first, the
    next network is inside of a larger network, or no network is.
    """
    parsed = [(ipaddress.ip_network(network), name) for name, network in found]
    parsed.sort(key=lambda entry: (entry[0].version, int(entry[0].network_address), entry[0].prefixlen))
    for (larger, owner), (network, name) in pairwise(parsed):
        if network.version == larger.version and network.network_address in larger:
            yield f"clients: {name[:64]!r}: network {network} overlaps {larger} of {owner[:64]!r}"
