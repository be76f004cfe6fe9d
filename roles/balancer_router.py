"""The router of a balancer: its settings, their checks, and the gateway that follows from both."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from provision.errors import Problem, UsageError
from provision.inventory import Host, Inventory, Size, Text, size_bytes
from provision.inventory import Settings as Base
from provision.inventory.client_file import ClientFile, load
from provision.inventory.paths import beside
from provision.inventory.settings import KeyPath
from provision.roles.balancer_gateway import (
    CLIENTS,
    DATA,
    MODES,
    POOLED,
    RENDERED,
    SCRIPTS,
    Gateway,
    Served,
    clients_file,
    networks_file,
    of_file,
)
from provision.roles.balancer_words import few
from provision.steps.instance.engine import Engine
from provision.steps.nginx.balanced_engine import BalancedEngine
from provision.steps.nginx.replica_sets import ReplicaSet, pools_of
from provision.steps.nginx.router import NETWORKS, SUMMARY
from provision.steps.nginx.upstream import block_name
from provision.steps.ollama import gateway_paths

LONGEST_WAIT = 120
"""Seconds: OpenAI's SDK ignores a longer Retry-After (openai-python, _base_client.py)."""
LARGEST_CAP = 64 * 1024 * 1024
ONLY_WITH_NJS = ("api", "clients", "cap", "max_tokens", "count_tokens")


class RouterSettings(Base):
    """The settings of a balancer that reads bodies."""

    router: Literal["none", "njs"] = "none"
    """How a request at the root finds the instances of its model. `none`: the root belongs to the first model, and each
    model has a path /models/NAME/. `njs`: scripts in nginx read the body, and no request changes a loaded model
    (docs/gateway.md)."""
    api: Literal["native", "openai"] = "native"
    """With `router: njs`: `native` opens Ollama's own API (/api) and OpenAI's (/v1), `openai` /v1 alone."""
    clients: Text = ""
    """With `router: njs`: file of the clients and of the hashes of their keys, such as `clients.json`, beside the
    inventory file. Empty: nobody needs a key."""
    cap: Size = "2m"
    """With `router: njs`: largest request, in place of `max_body`. A worker of nginx parses the body, and its other
    requests wait meanwhile."""
    max_tokens: int = Field(default=0, ge=0, le=10_000_000)
    """With `router: njs`: most tokens of an answer, whatever the request asks for. 0: no limit."""
    count_tokens: bool = True
    """With `router: njs`: whether the balancer counts the tokens of answers for its log. nginx then holds about 450
    bytes for each token until the answer ends."""

    def router_problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield settings of the router without the router, and a cap out of bounds."""
        fields = type(self).model_fields
        for name in ONLY_WITH_NJS if self.router == "none" else ():
            if getattr(self, name) != fields[name].default:
                yield (name,), "needs router: njs"
        if not 1024 <= size_bytes(self.cap) <= LARGEST_CAP:
            yield ("cap",), "must be between 1k and 64m"


@dataclass(frozen=True, kw_only=True)
class BodyRouter:
    """The router as nginx's configuration has it.

    Args:
        api: `native` for both APIs, `openai` for `/v1` alone.
        known: the clients; None where nobody needs a key.
        cap: greatest size of a request in bytes.
        max_tokens: greatest number of tokens of an answer; 0 for no limit.
        count: whether the tokens of answers are counted.
        retry_after: seconds for a client that was refused for lack of room.
        status_port: port on the loopback address for the proofs.
        site: the site of the balancer; empty where the inventory has no sites.
    """

    api: Literal["native", "openai"]
    known: ClientFile | None = field(repr=False)
    cap: int
    max_tokens: int
    count: bool
    retry_after: int
    status_port: int
    site: str = ""

    @property
    def modes(self) -> Mapping[str, int]:
        """Name -> permission bits, of files that are not for everybody."""
        return MODES

    @property
    def names(self) -> frozenset[str]:
        """The names of the files."""
        return frozenset((*SCRIPTS, *RENDERED, DATA, CLIENTS, NETWORKS))

    @property
    def is_keyed(self) -> bool:
        """Whether a client needs a key."""
        return self.known is not None

    @property
    def networks(self) -> Mapping[str, str]:
        """Network -> name of the client that needs no key there."""
        return self.known.networks if self.known is not None else {}

    def kept(self, past: Mapping[str, bytes | str]) -> Mapping[str, bytes]:
        """Return the clients, keys and networks of now: after a rollback a revoked key or network stays revoked.

        Args:
            past: the files that the rollback restores. Where these have pools, the status port needs its client.
        """
        if self.known is None:
            return {}
        summary = past.get(SUMMARY)
        is_pooled = isinstance(summary, bytes) and POOLED in summary
        clients = clients_file(*of_file(self.known), pooled=is_pooled)
        return {CLIENTS: clients, NETWORKS: networks_file(self.networks)}

    def files(self, sets: Sequence[ReplicaSet], engine: BalancedEngine) -> Mapping[str, bytes]:
        """Return name -> bytes of the files.

        Args:
            sets: the replica sets of the balancer, in the order of their blocks. The root belongs to the first.
            engine: the engine of the instances.
        """
        return self._gateway(sets, engine).files

    def _gateway(self, sets: Sequence[ReplicaSet], engine: BalancedEngine) -> Gateway:
        clients, keys = of_file(self.known) if self.known is not None else (None, ())
        chains: dict[str, dict[str, list[str]]] = {}
        for place, replicas in enumerate(sets):
            for model in replicas.models:
                chains.setdefault(model, {}).setdefault(replicas.pool, []).append(block_name(engine.name, place))
        sites = {block_name(engine.name, place): replicas.site or self.site for place, replicas in enumerate(sets)}
        return Gateway(
            models={model: _served(of_pools, _details(model, engine)) for model, of_pools in chains.items()},
            sites=sites if self.site else {},
            root=engine.name,
            status_port=self.status_port,
            api=self.api,
            clients=clients,
            keys=keys,
            networks=self.networks,
            cap=self.cap,
            max_tokens=self.max_tokens,
            retry_after=self.retry_after,
            count=self.count,
        )


def _served(chains: Mapping[str, Sequence[str]], details: Mapping[str, object]) -> Served:
    """Return a model with the first upstream of each pool, and with the upstreams of other sites."""
    firsts = {pool: chain[0] for pool, chain in chains.items()}
    return Served(firsts, details, {pool: chain[1:] for pool, chain in chains.items() if chain[1:]})


def _details(model: str, engine: BalancedEngine) -> dict[str, object]:
    """Return the fields of a model in the native lists, beside its name."""
    native = [engine.lists[path]([model]) for path in engine.lists if path.startswith(engine.own_paths)]
    entries = [json.loads(text)["models"][0] for text in native]
    return {key: value for entry in entries for key, value in entry.items() if key not in ("name", "model")}


def router(
    settings: RouterSettings, inventory: Inventory, retry_after: int, status_port: int, site: str
) -> BodyRouter | None:
    """Return the router of a balancer; None where nothing reads bodies.

    Args:
        settings: of the balancer.
        inventory: all hosts.
        retry_after: seconds for a client that was refused for lack of room.
        status_port: port on the loopback address.
        site: the site of the balancer; empty where the inventory has no sites.

    Raises:
        UsageError: the file of the clients cannot be used.
    """
    if settings.router == "none":
        return None
    return BodyRouter(
        api=settings.api,
        known=_clients(settings, inventory),
        cap=size_bytes(settings.cap),
        max_tokens=settings.max_tokens,
        count=settings.count_tokens,
        retry_after=min(retry_after, LONGEST_WAIT),
        status_port=status_port,
        site=site,
    )


def _clients(settings: RouterSettings, inventory: Inventory) -> ClientFile | None:
    return load(beside(settings.clients, Path(inventory.path))) if settings.clients else None


def problems(
    host: Host, settings: RouterSettings, inventory: Inventory, engine: Engine, sets: Sequence[ReplicaSet]
) -> Iterator[Problem]:
    """Yield what keeps the router of a balancer from its work.

    Args:
        host: the balancer.
        settings: of the balancer.
        inventory: all hosts.
        engine: the engine of the instances.
        sets: the replica sets by the inventory.
    """
    yield from _unguarded_pools(host, settings, sets)
    if settings.router == "none":
        return
    if not gateway_paths.are_of(engine.client_paths):
        yield host.problem("balancer", ("router",), f"njs knows no bodies for instances of {engine.title}")
    if not any(replicas.models for replicas in sets):
        yield host.problem("balancer", ("router",), "njs has no model to route to: give the instances models")
    try:
        known = _clients(settings, inventory)
    except UsageError as error:
        hint = f": {error.hint}" if error.hint else ""
        yield host.problem("balancer", ("clients",), f"names a file that cannot be used: {error.message}{hint}")
        return
    if known is None:
        return
    pools = set(pools_of(sets).values())
    now = int(time.time())
    usable = {*known.networks.values(), *(key.client for key in known.keys if key.is_usable(now))}
    for name, limits in known.clients.items():
        if limits.pool and limits.pool not in pools and name in usable:
            yield host.problem(
                "balancer",
                ("clients",),
                f"gives {name} the pool {limits.pool}, and no instance behind {host.name} belongs to the pool: write"
                f" `pool: {limits.pool}` for the instances of the pool, or type `provision keys revoke {name} --clients"
                " FILE` with this file",
            )
        if limits.tokens_per_day and not settings.count_tokens:
            yield host.problem(
                "balancer", ("count_tokens",), f"must be true, because {name} has tokens_per_day in {settings.clients}"
            )


def _unguarded_pools(host: Host, settings: RouterSettings, sets: Sequence[ReplicaSet]) -> Iterator[Problem]:
    """Yield pools of a balancer that does not know its clients."""
    labels = [label for label, pool in pools_of(sets).items() if pool]
    if labels and not (settings.router == "njs" and settings.clients):
        told = f"is needed with `router: njs`: {few(labels)} belong to a pool, and keys alone tell its clients"
        yield host.problem("balancer", ("clients",), told)


def warnings(settings: RouterSettings, inventory: Inventory, sets: Sequence[ReplicaSet]) -> Iterator[str]:
    """Yield a sentence about clients that nobody can serve.

    Args:
        settings: of a balancer.
        inventory: all hosts.
        sets: the replica sets by the inventory.
    """
    try:
        known = _clients(settings, inventory)
    except UsageError:
        return  # `problems` has the reason
    if known is None:
        return
    now = int(time.time())
    if not known.networks and not any(key.is_usable(now) for key in known.keys):
        yield f"{settings.clients} has no key in use, so the balancer refuses every request"
    for name, limits in known.clients.items():
        served = {model for replicas in sets if replicas.pool == limits.pool for model in replicas.models}
        where = f" of the pool {limits.pool}" if limits.pool else ""
        if strange := [model for model in limits.models or () if model not in served]:
            yield f"{name} may use {few(strange)} by {settings.clients}, which no instance{where} serves"
    yield from _pools_in_vain(settings, known, sets)


def _pools_in_vain(settings: RouterSettings, known: ClientFile, sets: Sequence[ReplicaSet]) -> Iterator[str]:
    """Yield a sentence about each pool without a client, and about clients that no instance is left for."""
    pools = dict.fromkeys(pools_of(sets).values())
    used = {limits.pool for limits in known.clients.values()}
    for pool in pools:
        if pool and pool not in used:
            labels = [label for label, of in pools_of(sets).items() if of == pool]
            yield (
                f"{few(labels)} belong to the pool {pool}, and no client of {settings.clients} has the pool:"
                f" `provision keys add NAME --pool {pool}` adds one"
            )
    if pools and "" not in pools and "" in used:
        names = [name for name, limits in known.clients.items() if not limits.pool]
        yield f"{few(names)} of {settings.clients} have no pool, and every instance belongs to a pool"
