"""The balancer: one address in front of every instance of the inventory."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from provision.errors import Problem
from provision.inventory import (
    Address,
    Duration,
    Host,
    Instance,
    Inventory,
    Port,
    SiteName,
    Size,
    duration_seconds,
    shared_settings,
    size_bytes,
)
from provision.inventory.settings import KeyPath
from provision.inventory.topology import is_balancing, sources
from provision.render import render
from provision.roles import balancer_names, balancer_router, balancer_sets, balancer_sites, balancer_tls, balancer_vip
from provision.roles.balancer_access import Access, bracketed
from provision.roles.balancer_include import Include
from provision.roles.balancer_router import BodyRouter, RouterSettings
from provision.roles.balancer_tls import Tls
from provision.roles.balancer_vip import Vip
from provision.roles.balancer_words import listens, milliseconds
from provision.steps import engines
from provision.steps.base import Owned, Step
from provision.steps.instance import endpoint
from provision.steps.instance.engine import Engine
from provision.steps.nginx import includes, tls, vulnerabilities
from provision.steps.nginx.balancer_config import Balancing, Server
from provision.steps.nginx.generation import OwnedGenerations
from provision.steps.nginx.listen import Listen
from provision.steps.nginx.model_routes import FILE as ROUTES_FILE
from provision.steps.nginx_paths import UNIT
from provision.steps.system.owned_units import OwnedUnits
from provision.steps.system.systemd import Service

HASH_KEYS = {
    "session": "$http_x_session_id",
    "authorization": "$http_authorization",
    "client": "$remote_addr",
    "path": "$uri",
}
QUEUE = 4
"""Waiting requests for each request in progress. Measured (docs/balancer.md): with one, 2 in 100 are refused at 80 %
load although a place is soon free; with four hardly any, and nobody waits longer than a few answers take."""
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - the operator may ask for every address

DURATIONS = ("read_timeout", "connect_timeout", "send_timeout", "fail_timeout", "shutdown_timeout")


LATE = True
ROUTES = True
GROUPS = ("balancer",)
FACTS: frozenset[str] = frozenset()
"""The parts of the host facts for the steps, see `facts.PARTS`: none. The configuration has addresses, no cards and no
containers."""


class Settings(Access, RouterSettings):
    """Balancing of requests over the instances. Without a group `balancer` every gpu host balances its own
    instances."""

    listen: tuple[Address, ...] = Field(default=("0.0.0.0",), min_length=1, max_length=16)  # noqa: S104
    """Addresses to listen on. 0.0.0.0 is every IPv4 address; add `::` for IPv6 too."""
    port: Port = 3008
    """Port for clients."""
    method: Literal["least_conn", "round_robin", "random", "random two least_conn", "ip_hash", "hash"] = "least_conn"
    """How an instance is chosen. `least_conn`: the instance with the fewest requests for its weight."""
    hash_key: Literal["session", "authorization", "client", "path"] = "session"
    """With `method: hash`, requests with the same key go to the same instance. Key: the header X-Session-Id, the API
    key, the client's address or the path. The instance still has the prompt of a chat cached; the price is a worse
    balance."""
    queue: int | None = Field(default=None, ge=0, le=100000)
    """Requests that may wait at an instance beside the requests in progress. Null: four times the requests that an
    instance answers at once. Further clients get 503 with Retry-After."""
    keepalive: int = Field(default=16, ge=1, le=1024)
    """Idle connections to instances that each worker process keeps open."""
    read_timeout: Duration = "1800s"
    """Longest silence of an instance, with queueing, loading the model and reading the prompt."""
    connect_timeout: Duration = "3s"
    """Longest wait for a connection to an instance, before nginx tries the next instance."""
    send_timeout: Duration = "60s"
    """Longest pause while a request is sent to an instance, or an answer to a client."""
    max_fails: int = Field(default=2, ge=0, le=1000)
    """Failures within `fail_timeout` after which an instance gets no requests for as long. 0: never."""
    fail_timeout: Duration = "30s"
    """See `max_fails`."""
    max_body: Size = "100m"
    """Largest request, images included."""
    retry_after: int = Field(default=5, ge=1, le=86400)
    """Retry-After of a 503, in seconds."""
    worker_processes: Literal["auto"] | int = "auto"
    """nginx's processes; `auto`: one per processor."""
    worker_connections: int = Field(default=4096, ge=64, le=30000)
    """Connections per process; every streamed request takes two."""
    shutdown_timeout: Duration = "1h"
    """How long the streams of an old worker process may go on after a reload."""
    include: Include = Include()
    """Files of yours in nginx's configuration. `nginx -t` checks each file before nginx reads the file. Root alone may
    read the files on the balancer, and plans show only that a file changed."""
    tls: Tls | None = None
    """TLS for clients, who then need https://. Null: plain HTTP."""
    site: SiteName = ""
    """Site of the balancer, such as `east`: see `ollama.site`."""
    vip: Vip | None = None
    """One address for all balancers. Null: each balancer has its own addresses alone."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield ports that meet, addresses given twice, durations without end, a router without its settings."""
        yield from self.router_problems()
        if self.status_port == self.port:
            yield ("status_port",), "must differ from port"
        yield from super().problems()
        if self.tls and self.tls.redirect_port in (self.port, self.status_port):
            yield ("tls", "redirect_port"), "must differ from port and status_port"
        if len(set(self.listen)) < len(self.listen):
            yield ("listen",), "names an address twice"
        versions = [":" in address for address in self.listen if address in EVERYWHERE]
        if any(address not in EVERYWHERE and (":" in address) in versions for address in self.listen):
            yield ("listen",), "names all addresses and one of them"
        if self.worker_processes != "auto" and not 1 <= self.worker_processes <= 1024:
            yield ("worker_processes",), "must be auto or a number from 1 to 1024"
        for name in DURATIONS:
            if not 0.001 <= duration_seconds(getattr(self, name)) <= 30 * 86400:
                yield (name,), "must be longer than nothing and at most 30 days"
        if not 1 <= size_bytes(self.max_body) <= 2**40:
            yield ("max_body",), "must be between 1 and 1t"

    @property
    def addresses(self) -> tuple[str, ...]:
        """`ADDRESS:PORT` of every address for clients."""
        return self._at(self.port)

    @property
    def redirects(self) -> tuple[str, ...]:
        """`ADDRESS:PORT` of every address that redirects to TLS."""
        return self._at(self.tls.redirect_port) if self.tls and self.tls.redirect_port else ()

    def _at(self, port: int) -> tuple[str, ...]:
        return tuple(f"{bracketed(address)}:{port}" for address in self.listen)

    @property
    def directive(self) -> str:
        """The balancing method in nginx's words."""
        match self.method:
            case "round_robin":
                return ""
            case "hash":
                return f"hash {HASH_KEYS[self.hash_key]} consistent"
        return self.method

    @property
    def local(self) -> str:
        """`ADDRESS:PORT` of the balancer for its own host."""
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.listen[0], self.listen[0])  # noqa: S104
        return f"{bracketed(address)}:{self.port}"


def problems(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield ports of the balancer that an instance on the same host has too."""
    if not is_balancing(host, inventory):
        return
    settings = host.of(Settings)
    ports = {instance.port: instance.name for instance in host.instances}
    own: dict[tuple[str, ...], int | None] = {("port",): settings.port, ("status_port",): settings.status_port}
    own |= {("tls", "redirect_port"): settings.tls.redirect_port} if settings.tls else {}
    for path, port in own.items():
        if port in ports:
            yield host.problem("balancer", path, f"is the port of {ports[port]} on this host")
    yield from balancer_tls.problems(host)
    yield from balancer_vip.problems(host, inventory, settings.vip, settings.listen)
    yield from balancer_sites.problems(host, inventory, settings)
    served = [engine.title for engine in engines.behind(host, inventory)]
    if len(served) > 1:
        yield host.problem(
            "balancer",
            (),
            f"would send a request to instances of {' and '.join(served)} alike, and the engines answer different"
            " paths: write an inventory of its own for each engine, with a balancer",
        )
    elif served:
        engine = engines.behind(host, inventory)[0]
        yield from balancer_router.problems(host, settings, inventory, engine, balancer_sets.of(host, inventory))
    yield from _too_small(host, inventory)


def _too_small(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield limits of requests that cannot be divided among the replica sets of an instance."""
    settings, sets = host.of(Settings), balancer_sets.of(host, inventory)
    counts = Counter(label for replicas in sets for label in replicas.labels)
    for source in sources(host, inventory):
        for instance in source.instances:
            limit = _server(source, instance, settings, inventory).max_conns
            count = counts[f"{instance.host}/{instance.name}"]
            if limit < count:
                yield host.problem(
                    "balancer",
                    ("queue",),
                    f"leaves {instance.host}/{instance.name} a limit of {limit}, and its models are in {count}"
                    " upstreams, where nginx counts apart: each needs at least 1. Raise queue by"
                    f" {count - limit}, or give fewer models to the instance",
                )


def warnings(host: Host, inventory: Inventory) -> Iterator[str]:
    """Yield sentences about instances of different models, and about clients that nobody can serve."""
    if not is_balancing(host, inventory):
        return
    sets, settings = balancer_sets.of(host, inventory), host.of(Settings)
    if settings.tls:
        yield from balancer_tls.warnings(host, settings.tls)
    where = "" if inventory.group("balancer") else f"{host.name}: "
    notes = [balancer_sets.note(sets, settings.router), *balancer_router.warnings(settings, inventory, sets)]
    yield from (f"{where}{text}" for text in notes if text)


def files(host: Host, inventory: Inventory, renew_within: int) -> Any:
    """Return the certificate of a balancer with TLS, with the problems of its files."""
    settings = host.of(Settings)
    if settings.tls is None or not is_balancing(host, inventory):
        return None
    common = (settings.vip.address,) if settings.vip else ()
    return balancer_tls.read(host, inventory.path, settings.tls, (*settings.listen, *common), renew_within)


def keep(host: Host) -> str:
    """Write a new certificate of the authority on this machine. Returns the path, or an empty text."""
    return balancer_tls.keep(host)


def advice(host: Host, inventory: Inventory) -> Iterator[str]:
    """Yield sentences about a new certificate, and about a version of TLS that is left out."""
    settings = host.of(Settings)
    if settings.tls and is_balancing(host, inventory):
        nginx = shared_settings.nginx(host)
        versions = balancer_tls.protocols(_vulnerable(nginx), patched=bool(nginx.patches))
        yield from balancer_tls.advice(host, versions, nginx.version)


def _vulnerable(nginx: shared_settings.NginxSettings) -> list[str]:
    return vulnerabilities.known(nginx.version, nginx.configure_args)


def concerns(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the hosts whose instances are in the upstream."""
    return sources(host, inventory) if is_balancing(host, inventory) else ()


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the configuration, checked and loaded, and its service."""
    if not is_balancing(host, inventory):
        return
    settings = host.of(Settings)
    own = (*settings.addresses, *settings.redirects, *settings.status)
    nginx = shared_settings.nginx(host)
    build = nginx.built(njs=settings.router == "njs")
    router = balancer_router.router(settings, inventory, settings.retry_after, settings.status_port, settings.site)
    hosts = sources(host, inventory)
    members = [(other, instance) for other in hosts for instance in other.instances]
    engine = engines.behind(host, inventory)[0]
    most = max((len(source.instances) for source in hosts), default=1)
    secured = _tls(host, settings)
    yield Listen(name="nginx", addresses=own)
    yield Balancing(
        name="balancer",
        files={
            **_files(settings, nginx.version, engine, tries=1 + most, module=build.module),
            **(secured.files if secured else {}),
        },
        modes=_modes(settings, router),
        binary=build.binary,
        status_port=settings.status_port,
        servers=tuple(_server(other, instance, settings, inventory) for other, instance in members),
        engine=engine,
        method=settings.directive,
        max_fails=settings.max_fails,
        fail_timeout=milliseconds(settings.fail_timeout),
        keepalive=settings.keepalive,
        listens=listens(settings.listen, settings.port, secured.end if secured else "", settings.clients),
        url=secured.url if secured else f"http://{settings.local}",
        spelled=balancer_names.spelled([instance for _, instance in members], engine),
        traffic=balancer_names.traffic([instance for _, instance in members]),
        tls=secured,
        router=router,
        vip=settings.vip.address if settings.vip else "",
        shutdown=settings.shutdown_timeout if settings.vip else "",
        doors=settings.doors(
            f"{'https' if secured else 'http'}://{settings.local}",
            engine,
            keyed=bool(settings.clients),
            certified=bool(secured and secured.clients),
        ),
    )
    yield Service(name=UNIT.removesuffix(".service"), after=(f"unit:{UNIT}",))
    if secured:
        yield from balancer_tls.watched()


def _tls(host: Host, settings: Settings) -> tls.Tls | None:
    """Return TLS as nginx gets it; None for plain HTTP."""
    found = balancer_tls.certificate(host)
    if settings.tls is None or found is None:
        return None
    nginx = shared_settings.nginx(host)
    how = {"patched": bool(nginx.patches), "at": settings.local, "port": settings.port}
    return balancer_tls.step(found, settings.tls, _vulnerable(nginx), **how)


def _modes(settings: Settings, router: BodyRouter | None) -> dict[str, int]:
    """Return name -> permission bits, of files that are not for everybody."""
    secured = {tls.KEY: tls.MODE} if settings.tls else {}
    return {**dict.fromkeys(settings.include.files, includes.MODE), **secured, **(router.modes if router else {})}


def _files(settings: Settings, version: str, engine: Engine, tries: int, module: str) -> Mapping[str, bytes]:
    """Return all files but those that depend on the fleet. A request with a try more than a host has instances survives
    the loss of a host."""
    times = {name: milliseconds(getattr(settings, name)) for name in DURATIONS}
    router = settings.router if settings.router != "none" else ""
    proxying = {**times, "tries": tries}
    main = render(
        "balancer/nginx.conf.j2",
        worker_processes=settings.worker_processes,
        worker_connections=settings.worker_connections,
        shutdown_timeout=times["shutdown_timeout"],
        allow=bool(settings.allow),
        includes=settings.include.names("http"),
        redirects=bool(settings.redirects),
        router=router,
        module=module,
    )
    site = render(
        "balancer/site.conf.j2",
        **proxying,
        alone=False,
        router=router,
        listen=settings.addresses,
        tls=tls.CONF if settings.tls else "",
        max_body=size_bytes(settings.max_body),
        retry_after=settings.retry_after,
        upstream=engine.name,
        allowed=engine.client_paths,
        routes=ROUTES_FILE,
        allow=bool(settings.allow),
        includes=settings.include.names("server"),
        keepalive_min=tuple(int(part) for part in version.split(".")) >= (1, 27, 4),
    )
    status = settings.access_files(settings.listen, router=router)
    files = {"nginx.conf": main, "site.conf": site, **status, **settings.include.files}
    if router:
        files["proxying.conf"] = render("balancer/proxying.conf.j2", **proxying, alone=True)
    if settings.redirects:
        files["redirect.conf"] = balancer_tls.redirect(
            settings.redirects, settings.port, size_bytes(settings.max_body), allow=bool(settings.allow)
        )
    return files


def _server(host: Host, instance: Instance, settings: Settings, inventory: Inventory) -> Server:
    local = endpoint.is_local(host, inventory)
    settled = instance.listen_address or (endpoint.LOOPBACK if local else "")
    each, queue = (1 + QUEUE, 0) if settings.queue is None else (1, settings.queue)
    return Server(
        host=host.name,
        instance=instance.name,
        port=instance.port,
        weight=instance.weight,
        max_conns=instance.parallel * each + queue,
        each=each if instance.parallel_auto else 0,
        address=settled or host.connection.address,
        settled=bool(settled),
        models=balancer_names.served(instance),
        pool=instance.pool,
        site=instance.site if instance.site != settings.site else "",
    )


OWNED: tuple[Owned, ...] = (OwnedGenerations(name="balancer"), OwnedUnits(prefix=balancer_tls.CHECK))
