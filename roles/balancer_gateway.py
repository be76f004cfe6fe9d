"""The gateway of a balancer by nginx's JavaScript module: its scripts, their data and the parts of the configuration.

The scripts are constant files. All values of an inventory are in `gateway.json` and `gateway_clients.json`, or are
names and numbers of validated types in the configuration.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from provision.inventory.client_file import ClientFile
from provision.render import packaged, render
from provision.steps.nginx.model_routes import PREFIX
from provision.steps.nginx.router import NETWORKS
from provision.steps.ollama import gateway_paths
from provision.steps.ollama.gateway_paths import ApiPath

SCRIPTS = (
    "gateway.js",
    "gateway_answers.js",
    "gateway_body.js",
    "gateway_keys.js",
    "gateway_names.js",
    "gateway_paths.js",
    "gateway_usage.js",
)
RENDERED = ("gateway_http.conf", "gateway_server.conf")
"""For nginx's block `http`, and for its blocks `server`."""
DATA = "gateway.json"
CLIENTS = "gateway_clients.json"
MODES = {DATA: 0o600, CLIENTS: 0o600}
"""The clients have hashes of keys, for root alone."""
MANAGER = "_provision"
"""The client of the status port, for the proofs of `verify`. No client of a file can have this name."""
MANAGER_OF_POOLS = "_provision_pools"
"""The client of the status port where some instances belong to pools, and the pool by which it reaches every model."""
POOLED = b"$gateway_root {"
"""The words of `gateway_http.conf` where some instances belong to pools."""
NOBODY = "127.0.0.1:1"
"""For the paths without a model, where a client has no instance."""
SINGLE = ""
"""The pool of clients without instances of their own."""
BURST_SECONDS = 10
"""A client may send the requests of so many seconds at once."""


@dataclass(frozen=True)
class Client:
    """A client of the gateway.

    Args:
        name: name of the client: letters, digits, `-` and `_`.
        models: names of the models, canonical and in lower case; None for all models.
        pool: the client's own pool, or `SINGLE`.
        concurrency: greatest number of requests at once; 0 for no limit.
        rate: greatest number of requests in a minute; 0 for no limit.
        tokens_per_day: tokens of a day (UTC) after which further requests are refused; 0 for no limit.
    """

    name: str
    models: tuple[str, ...] | None = None
    pool: str = SINGLE
    concurrency: int = 0
    rate: int = 0
    tokens_per_day: int = 0


@dataclass(frozen=True)
class Key:
    """A key of a client.

    Args:
        sha256: sha256 of the key, in hexadecimal digits.
        client: name of the client.
        expires: the second since 1970 (UTC) from which on the key is refused; None for never.
        revoked: whether the key is refused.
    """

    sha256: str = field(repr=False)
    client: str
    expires: int | None = None
    revoked: bool = False


@dataclass(frozen=True)
class Served:
    """A served model.

    Args:
        upstreams: name of a pool -> name of the upstream with the model's instances. `SINGLE` is the common pool.
        details: further fields of the model in `/api/tags`, such as `digest` and `size`.
        elsewhere: name of a pool -> names of the upstreams at other sites, which serve in this order where the first
            cannot.
    """

    upstreams: Mapping[str, str]
    details: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def chain(self, pool: str) -> tuple[str, ...]:
        """Return the upstreams of a pool in the order in which they are asked.

        Args:
            pool: name of the pool.
        """
        return (self.upstreams[pool], *self.elsewhere.get(pool, ()))


@dataclass(frozen=True)
class Gateway:
    """A gateway.

    Args:
        models: name of a model, canonical and in lower case -> the model.
        root: the upstream that answers `/` and `/api/version`; empty for the first model's common pool.
        status_port: port on 127.0.0.1 where no client needs a key and both APIs are open; 0 for none.
        api: `native` for both APIs, `openai` for `/v1` alone.
        clients: the clients; None where nobody needs a key.
        keys: the keys.
        networks: network (CIDR) -> name of the client that needs no key there.
        cap: greatest size of a request in bytes. A body is parsed in the worker process, and other requests wait.
        max_tokens: greatest number of tokens of an answer; 0 for no limit.
        retry_after: seconds for a client that was refused for lack of room.
        count: whether the tokens of answers are counted. nginx' module then keeps a copy of an answer until its end.
        sites: name of an upstream -> its site; empty where the inventory has no sites.
    """

    models: Mapping[str, Served]
    root: str = ""
    status_port: int = 0
    api: Literal["native", "openai"] = "native"
    clients: tuple[Client, ...] | None = None
    keys: tuple[Key, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    cap: int = 2 * 1024 * 1024
    max_tokens: int = 0
    retry_after: int = 5
    count: bool = True
    sites: Mapping[str, str] = field(default_factory=dict)

    @property
    def routed(self) -> tuple[ApiPath, ...]:
        """The paths whose body names a model."""
        return (*gateway_paths.OPENAI, *gateway_paths.NATIVE)

    @property
    def first(self) -> str:
        """The upstream that answers for all."""
        return self.root or next(iter(self.upstreams))

    @property
    def is_pooled(self) -> bool:
        """Whether some instances serve the clients of a pool alone."""
        return any(pool != SINGLE for model in self.models.values() for pool in model.upstreams)

    @property
    def manager(self) -> str:
        """The client of the status port."""
        return MANAGER_OF_POOLS if self.is_pooled else MANAGER

    def _first_of(self, pool: str) -> str:
        """The upstream of a pool that answers the paths without a model."""
        own = (model.upstreams[pool] for model in self.models.values() if pool in model.upstreams)
        return next(own, NOBODY)

    @property
    def _roots(self) -> dict[str, str]:
        """Client -> upstream that answers the paths without a model, of the clients with a pool.

        nginx looks for a name in a variable of `proxy_pass` among its upstreams first (ngx_http_upstream.c), so that
        no name is resolved.
        """
        pooled = {client.name: self._first_of(client.pool) for client in self.clients or () if client.pool != SINGLE}
        return {**pooled, MANAGER_OF_POOLS: self.first}

    @property
    def lists(self) -> tuple[str, ...]:
        """The paths of lists of models."""
        return tuple(gateway_paths.LISTS)

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The upstreams of all models, each once."""
        return tuple(dict.fromkeys(chain[0] for chain in self._chains))

    @property
    def _chains(self) -> tuple[tuple[str, ...], ...]:
        """The upstreams of each model in the order in which they are asked, and each end of such an order."""
        whole = [model.chain(pool) for model in self.models.values() for pool in model.upstreams]
        return tuple(dict.fromkeys(chain[start:] for chain in whole for start in range(len(chain))))

    @property
    def _first_chain(self) -> tuple[str, ...]:
        """The upstreams that answer the paths without a model. The clients of a pool get no answer of another site."""
        chains = [] if self.is_pooled else [chain for chain in self._chains if chain[0] == self.first]
        return max(chains, key=len, default=(self.first,))

    @property
    def data(self) -> dict[str, Any]:
        """The data of the scripts, without the clients."""
        about = {"prefix": gateway_paths.ABOUT, "at": gateway_paths.ABOUT.removesuffix("/")}
        return {
            "auth": "none" if self.clients is None else "keys",
            "manager": self.manager,
            "count": self.count,
            "cap": self.cap,
            "max_tokens": self.max_tokens,
            "retry_after": self.retry_after,
            "resident": _set(gateway_paths.RESIDENT),
            "options": _set(gateway_paths.OPTIONS),
            "paths": dict(self._paths()),
            "about": {"method": "GET", "shape": "openai", "open": True, **about},
            "models": {
                name: {"pools": self._pools(model), "details": model.details} for name, model in self.models.items()
            },
        }

    def _pools(self, model: Served) -> dict[str, str]:
        """Return pool -> location of a model."""
        pools = {pool: location(*model.chain(pool)) for pool in model.upstreams}
        return {**pools, MANAGER_OF_POOLS: next(iter(pools.values()))} if self.is_pooled else pools

    def _paths(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in self.routed:
            entry = {"keys": _set(path.keys), "limit": path.limit, "old_name": path.old_name}
            is_open = path.shape != "native" or self.api == "native"
            yield path.path, {"method": "POST", "shape": path.shape, "open": is_open, **entry}
        for name in self.lists:
            form = gateway_paths.LISTS[name]
            yield name, {"method": "GET", "shape": form, "open": True, "list": form}
        for name in gateway_paths.PASSED:
            yield name, {"method": "GET", "shape": "native", "open": True}

    @property
    def files(self) -> dict[str, bytes]:
        """Name -> bytes of the files of the gateway. `gateway_http.conf` belongs into nginx's block `http`, and
        `gateway_server.conf` into the block `server`."""
        values = {
            "shapes": {path.path: path.shape for path in self.routed},
            "routed": [path.path for path in self.routed],
            "lists": self.lists,
            "about": gateway_paths.ABOUT,
            "passed": gateway_paths.PASSED,
            "pools": [self._location(chain) for chain in self._chains],
            "sited": bool(self.sites),
            "site": self.sites.get(self.first, ""),
            "firsts": [(name, self.sites.get(name, "")) for name in self._first_chain],
            "first": self.first,
            "pooled": self.is_pooled,
            "common": self._first_of(SINGLE),
            "roots": self._roots,
            "prefix": PREFIX,
            "keyed": self.clients is not None,
            "api": self.api,
            "status_port": self.status_port,
            "count": self.count,
            "connections": self._classes("concurrency"),
            "rates": self._classes("rate"),
            "bursts": {rate: math.ceil(rate * BURST_SECONDS / 60) for rate in self._classes("rate")},
            "networks": NETWORKS if self.networks else "",
            "cap": self.cap,
            "retry_after": self.retry_after,
        }
        trusted = {NETWORKS: networks_file(self.networks)} if self.networks else {}
        return {
            **{name: render(f"balancer/{name}.j2", **values) for name in RENDERED},
            **trusted,
            DATA: json.dumps(self.data, indent=1).encode(),
            CLIENTS: clients_file(self.clients or (), self.keys, pooled=self.is_pooled),
            **{name: packaged(f"balancer/{name}") for name in SCRIPTS},
        }

    def _location(self, chain: Sequence[str]) -> tuple[str, str, str, str]:
        """Return the location of some upstreams: its name, its upstream, the next location, and its site."""
        return location(*chain), chain[0], location(*chain[1:]) if chain[1:] else "", self.sites.get(chain[0], "")

    def _classes(self, limit: Literal["concurrency", "rate"]) -> dict[int, list[str]]:
        """Return the distinct values of a limit, each with its clients: nginx takes a limit from its text alone."""
        classes: dict[int, list[str]] = {}
        for client in self.clients or ():
            if value := getattr(client, limit):
                classes.setdefault(value, []).append(client.name)
        return dict(sorted(classes.items()))


def clients_file(clients: Sequence[Client], keys: Sequence[Key], *, pooled: bool = False) -> bytes:
    """Return the file of the clients and their keys, as the scripts read the file.

    Args:
        clients: the clients.
        keys: the keys.
        pooled: whether some instances belong to pools; a client with a pool says so too.
    """
    is_pooled = pooled or any(client.pool != SINGLE for client in clients)
    managers = [Client(MANAGER), *([Client(MANAGER_OF_POOLS, pool=MANAGER_OF_POOLS)] if is_pooled else [])]
    limits = {
        client.name: {"models": _set(client.models), "pool": client.pool, "tokens_per_day": client.tokens_per_day}
        for client in (*clients, *managers)
    }
    hashes = {key.sha256: {"client": key.client, "expires": key.expires, "revoked": key.revoked} for key in keys}
    return json.dumps({"clients": limits, "keys": hashes}, indent=1).encode()


def networks_file(networks: Mapping[str, str]) -> bytes:
    """Return the file of the networks in which a client needs no key.

    Args:
        networks: network (CIDR) -> name of the client.
    """
    return render(f"balancer/{NETWORKS}.j2", networks=networks)


def of_file(known: ClientFile) -> tuple[tuple[Client, ...], tuple[Key, ...]]:
    """Return the clients and the keys of the operator's file.

    Args:
        known: the file.
    """
    rights = {name: dataclasses.asdict(limits) for name, limits in known.clients.items()}
    clients = tuple(
        Client(name, **{right: entry[right] for right in entry if right != "networks"})
        for name, entry in rights.items()
    )
    return clients, tuple(Key(key.sha256, key.client, key.expires, key.revoked is not None) for key in known.keys)


def _set(names: Iterable[str] | None) -> dict[str, bool] | None:
    """Return a set for the scripts: the preloaded data has no prototypes, and so its arrays have no methods."""
    return None if names is None else dict.fromkeys(names, True)


def location(*upstreams: str) -> str:
    """Return the name of the location that sends requests to the first of some upstreams.

    Args:
        upstreams: names, in the order in which they are asked.
    """
    return f"gateway_{'_then_'.join(upstreams)}"
