"""The router of a balancer that reads bodies, as far as nginx's configuration needs the router."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from provision.steps.base import State
from provision.steps.nginx.balanced_engine import BalancedEngine
from provision.steps.nginx.replica_sets import ReplicaSet, pools_of, sites_of
from provision.steps.nginx.upstream import sets, text_of
from provision.steps.system.file_scan import Content

SUMMARY = "gateway_http.conf"
"""The file whose comments name the clients and the API."""
NETWORKS = "gateway_networks.conf"
"""The networks of clients that need no key, each with the client's name; a part of the block `geo` in `SUMMARY`."""
NAMED = 5  # networks in the cost of a change
_NETWORK = re.compile(r"^([0-9a-f.:/]+) [a-z][a-z0-9_-]*;$", re.MULTILINE)
_KEYED, _OPENAI = b"\n# clients: keys\n", b"\n# api: openai\n"


class Router(Protocol):
    """Finds the instances of a request by the model in its body."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the files."""

    @property
    def site(self) -> str:
        """The site of the balancer; empty where the inventory has no sites."""

    @property
    def is_keyed(self) -> bool:
        """Whether a client needs a key."""

    @property
    def networks(self) -> Mapping[str, str]:
        """Network -> name of the client that needs no key there."""

    def kept(self, past: Mapping[str, bytes | str]) -> Mapping[str, bytes]:
        """Return name -> bytes of the files that a rollback leaves as the inventory of now has them.

        Args:
            past: the files that the rollback restores; a text in place of bytes that are not known.
        """

    def files(self, sets: Sequence[ReplicaSet], engine: BalancedEngine) -> Mapping[str, bytes]:
        """Return name -> bytes of the files.

        Args:
            sets: the replica sets of the balancer, in the order of their blocks. The root belongs to the first.
            engine: the engine of the instances.
        """


def cost(have: State, want: State) -> str:
    """Return the effect of a change of the router on clients; empty without an effect.

    Args:
        have: the configuration as found; None where there is none.
        want: the configuration as wanted.
    """
    if have is None or want is None:
        return ""
    before, after = _summary(have), _summary(want)
    said = ["the model of a request's body decides about the instances"] if after and not before else []
    said += ["clients without a key are refused"] if _KEYED in after and _KEYED not in before else []
    said += ["/api is closed to clients"] if _OPENAI in after and _OPENAI not in before else []
    said += ["clients need no key any more"] if _KEYED in before and _KEYED not in after else []
    opened, closed = _networks(want) - _networks(have), _networks(have) - _networks(want)
    said += [f"clients in {_few(opened)} need no key"] if opened else []
    said += [f"clients in {_few(closed)} need a key"] if closed and _KEYED in after else []
    return "; ".join([*said, *_moved(have, want), *_sites(have, want)])


def _moved(have: State, want: State) -> list[str]:
    """The instances that change their pool, in words."""
    before, after = (pools_of(sets(text_of(state))) for state in (have, want))
    found: dict[str, list[str]] = {}
    for label, pool in after.items():
        if pool != before.get(label, ""):
            found.setdefault(pool, []).append(label)
    return [
        f"{', '.join(labels)}: for clients of the pool {pool} alone"
        if pool
        else f"{', '.join(labels)}: for all clients without a pool again"
        for pool, labels in found.items()
    ]


def _sites(have: State, want: State) -> list[str]:
    """The instances that change their site, as the balancer sees them, in words."""
    before, after = (sites_of(sets(text_of(state))) for state in (have, want))
    found: dict[str, list[str]] = {}
    for label, site in after.items():
        if site != before.get(label, ""):
            found.setdefault(site, []).append(label)
    return [
        f"{', '.join(labels)} of the site {site}: only where no instance of this balancer's site can serve"
        if site
        else f"{', '.join(labels)}: of this balancer's site"
        for site, labels in found.items()
    ]


def _summary(state: State) -> bytes:
    return _data(state, SUMMARY)


def _networks(state: State) -> set[str]:
    return set(_NETWORK.findall(_data(state, NETWORKS).decode(errors="replace")))


def _data(state: State, name: str) -> bytes:
    content = (state or {}).get("files", {}).get(name)
    return content.data if isinstance(content, Content) else b""


def _few(networks: Collection[str]) -> str:
    return f"{', '.join(sorted(networks)[:NAMED])}{' and more' if len(networks) > NAMED else ''}"
