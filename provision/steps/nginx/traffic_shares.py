"""Shares of versions: how the requests for a public name are divided among instances of several models. Pure.

nginx counts weights as whole numbers, and smooth weighted round robin sends each member exactly its weight of every
round (ngx_http_upstream_round_robin.c). `least_conn` divides open requests, and not the requests of an hour: an idle
member of weight 1 gets the next request before a busy member of weight 9 (ngx_http_upstream_least_conn_module.c). So an
upstream with shares is in round robin.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import gcd, lcm

MOST = 10_000
"""The greatest weight."""
HASHED, LEAST_HASHED = 20_000, 50
"""The greatest sum of weights under `hash ... consistent`, unless the greatest weight would be below the second number.
nginx makes 160 points of 16 bytes for each unit, and sorts all points at each check and reload
(ngx_http_upstream_hash_module.c; a sum of 31,000 took `nginx -t` 21 s on a busy machine)."""

Traffic = Mapping[str, Mapping[str, int]]
"""Public name -> version -> percent, all names canonical and in lower case."""


def version_of(models: Sequence[str], names: Sequence[str], versions: Sequence[str]) -> str:
    """Return the version by which an instance answers to public names; empty without a version.

    Args:
        models: the names that the instance serves.
        names: the public names. A version may have the public name itself: then no model of the instance has another.
        versions: the versions of the public names.
    """
    own = [model for model in models if model in versions]
    return next((model for model in own if model not in names), own[0] if own else "")


def greatest(balancing: str, count: int) -> int:
    """Return the greatest weight of a member of an upstream with shares.

    Args:
        balancing: the method of the balancer, as nginx's directive.
        count: the number of members.
    """
    return max(LEAST_HASHED, min(MOST, HASHED // max(count, 1))) if balancing.startswith("hash ") else MOST


def weights(members: Sequence[tuple[str, int]], shares: Mapping[str, int], limit: int = MOST) -> tuple[int, ...]:
    """Return the weight of each member of an upstream, from 1 to a limit.

    The instances of a version divide its share by their own weights. A version without instances leaves its share to
    the others.

    Args:
        members: version and own weight of each instance.
        shares: version -> percent; every version of a member has at least 1.
        limit: the greatest weight.
    """
    if not members:
        return ()
    totals: Counter[str] = Counter()
    for version, own in members:
        totals[version] += own
    exact = [Fraction(shares[version] * own, totals[version]) for version, own in members]
    scale = lcm(*(each.denominator for each in exact))
    whole = [int(each * scale) for each in exact]
    common = gcd(*whole)
    most = max(whole) // common
    if most <= limit:
        return tuple(each // common for each in whole)
    return tuple(max(1, round(Fraction(each * limit, most * common))) for each in whole)


def method(balancing: str) -> str:
    """Return the balancing method of an upstream with shares, as nginx's directive.

    Args:
        balancing: the method of the balancer. The methods that count open requests give way to round robin.
    """
    return "" if "least_conn" in balancing else balancing
