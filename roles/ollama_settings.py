"""The settings of the role ollama, their checks, and the instances that the settings declare."""

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from provision.capacity.proposal import USUAL_CONTEXT, Wish
from provision.inventory import (
    AbsolutePath,
    Address,
    CardName,
    CardUser,
    Duration,
    ImageRef,
    Instance,
    ModelName,
    Name,
    Network,
    PoolName,
    Port,
    Secret,
    Serving,
    Share,
    SiteName,
    Size,
    Text,
    duration_seconds,
    share_of,
)
from provision.inventory import Settings as Base
from provision.roles import ollama_settings_traffic as public_names
from provision.steps.docker.network import pool_complaint
from provision.steps.instance import storage
from provision.steps.ollama.engine import OLLAMA
from provision.steps.ollama.server_state import canonical

FIRST_PORT = 3001

AUTO = "auto"
Cards = tuple[CardName, ...]
Context = Annotated[int, Field(ge=256, le=10_000_000)] | Literal["auto"]
Parallel = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
Storage = Literal["volume"] | AbsolutePath
Shares = Annotated[dict[ModelName, Annotated[int, Field(ge=1, le=100)]], Field(min_length=1, max_length=16)]


class Tuning(Base):
    """Settings for all instances, or for one of them."""

    memory: Size | None = None
    """Memory limit of the container, such as `64g`."""
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = None
    """How many CPUs the container may use, such as `8.0`."""
    pids_limit: Annotated[int, Field(ge=64, le=4194304)] | None = None
    """How many processes and threads the container may have."""
    context_length: Context | None = None
    """OLLAMA_CONTEXT_LENGTH: tokens of context of each request. Memory on the card grows with it. `auto` takes the most
    that has room: a power of two, or the longest context of the model."""
    num_parallel: Parallel | None = None
    """OLLAMA_NUM_PARALLEL: requests answered at once. Each takes memory for a whole context. `auto` takes 4, 2 or 1, as
    many as have room."""
    keep_alive: Duration | None = None
    """OLLAMA_KEEP_ALIVE: how long a model stays loaded after a request; `-1` is for ever."""
    max_loaded_models: Annotated[int, Field(ge=1, le=1024)] | None = None
    """OLLAMA_MAX_LOADED_MODELS: models loaded at once; by default as many as the instance has."""
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """OLLAMA_MAX_QUEUE: requests that may wait for a model to load (512)."""
    flash_attention: bool | None = None
    """OLLAMA_FLASH_ATTENTION: by default on every card with support."""
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] | None = None
    """OLLAMA_KV_CACHE_TYPE: `q8_0` halves the memory of the context; needs flash attention."""
    load_timeout: Duration | None = None
    """OLLAMA_LOAD_TIMEOUT: how long loading may go without progress (5m); more for slow disks."""
    no_cloud: bool | None = None
    """OLLAMA_NO_CLOUD: no calls to ollama.com."""
    no_prune: bool | None = None
    """OLLAMA_NOPRUNE: keep unfinished blobs at a start; by default where instances share a directory."""
    origins: tuple[Text, ...] | None = None
    """OLLAMA_ORIGINS: web pages whose scripts may send requests; scripts of the rest get 403."""
    sched_spread: bool | None = None
    """OLLAMA_SCHED_SPREAD: put a model on all cards of the instance even where a single card is enough."""
    gpu_overhead: Size | None = None
    """OLLAMA_GPU_OVERHEAD: memory of each card to leave out of the count."""
    debug: Annotated[int, Field(ge=0, le=2)] | None = None
    """OLLAMA_DEBUG: 1 says more in the log, 2 everything."""
    https_proxy: Secret | None = None
    """HTTPS_PROXY for pulling models; never shown, because the URL may hold a password. By default `proxy.https`, and
    an empty text means none."""
    no_proxy: Text | None = None
    """NO_PROXY: hosts to reach without the proxy, separated by commas. By default `proxy.no_proxy`, where the proxy is
    `proxy.https`."""
    pool: PoolName | None = None
    """Pool whose clients alone reach the instance, such as `research`, by their keys (`provision keys add NAME --pool
    research`). Needs `balancer.router: njs` with `balancer.clients`. Empty: the common pool."""
    environment: dict[str, Text] = {}  # noqa: RUF012 - pydantic copies defaults
    """Further variables of Ollama, such as LLAMA_ARG_FIT_TARGET. A variable that Ollama does not read is refused."""

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield variables that the server would ignore, and values that do not go together."""
        for name in self.environment:
            if complaint := OLLAMA.variables.complaint(name):
                yield ("environment", name), complaint
        if self.kv_cache_type in ("q8_0", "q4_0") and self.flash_attention is False:
            yield ("kv_cache_type",), f"{self.kv_cache_type} needs flash attention, and flash_attention is false"
        for index, origin in enumerate(self.origins or ()):
            if "," in origin:
                yield ("origins", index), "must be one origin: write several as a list"
        if self.https_proxy is not None and not _is_one_line(self.https_proxy):
            yield ("https_proxy",), "must be one line of printable text without blanks"


class InstanceSettings(Tuning):
    """One container of a host. An unset value is as for all instances."""

    gpus: Cards
    """The cards, each by index, by UUID (`GPU-...`), or by the UUID of a MIG device (`MIG-...`, one for an instance);
    `provision facts` lists all of them. An index is that of nvidia-smi at the first deploy. Each host remembers the
    UUID of every index, so an index keeps its card when a boot numbers the cards anew, or when a card goes missing."""
    name: Name | None = None
    """Name of the container; by default ollama1, ollama2 and so on."""
    port: Port | None = None
    """Port on the host; by default 3001, 3002 and so on."""
    models: tuple[ModelName, ...] | None = None
    """Models of the instance; by default `ollama.models`."""
    storage: Storage | None = None
    """Place of the instance's models: `volume`, or a directory. Instances with the same directory share the models."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share of the instance in the upstream."""


class Settings(Tuning):
    """Ollama on the hosts of the group `gpu`."""

    image: ImageRef = "ollama/ollama:0.34.4"
    """The image, with a tag or a digest."""
    models: tuple[ModelName, ...] = ()
    """Models of every instance without `models` of its own."""
    traffic: Annotated[dict[ModelName, Shares], Field(max_length=64)] = {}  # noqa: RUF012 - pydantic copies defaults
    """Public name -> version -> percent of the requests, such as `{deepseek-r1:32b: {deepseek-r1:32b-old: 90,
    deepseek-r1:32b-new: 10}}`. A version is a model of instances, which serve the model under the public name too; the
    balancers divide the requests for the public name. Write the key once for all hosts
    (docs/runbooks/grey-release.md)."""
    instances: tuple[InstanceSettings, ...] = ()
    """The containers of a host, each with its cards."""
    listen_address: Address | Literal[""] = ""
    """Address on which instances listen; by default the address by which the host reaches its balancers."""
    admit: tuple[Network, ...] = ()
    """Addresses and networks that may reach the instances, besides the balancers. Refused for instances on 127.0.0.1,
    which no other host can reach."""
    network_pool: Network | Literal[""] = ""
    """Addresses for a Docker network of each instance, so that the instances of a host cannot reach each other: a
    network such as 10.213.0.0/24 that the site uses nowhere. Each instance takes 16 addresses, and every host may have
    the same pool. By default all instances of a host share Docker's bridge, and reach each other. A change makes every
    container anew."""
    site: SiteName = ""
    """Site of the host, such as `east`. A balancer sends to instances of its own site (`balancer.site`). Instances of
    another site serve where no instance of its own can, before the first byte of the answer. Each gpu host and each
    balancer has a site, or none has. Needs `balancer.router: njs` (docs/sites.md)."""
    tolerate: Annotated[tuple[CardUser, ...], Field(max_length=64)] = ()
    """Names of containers, and of programs outside Docker, that may use the cards of instances."""
    storage: Storage = "volume"
    """Storage of models: a Docker `volume` for each instance, or a directory with a directory for each instance."""
    restart: Literal["unless-stopped", "always", "on-failure"] = "unless-stopped"
    """Docker's restart policy."""
    log_max_size: Size = "50m"
    """Size at which a container's log is rotated."""
    log_max_file: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many log files are kept."""
    max_unavailable: Annotated[int, Field(ge=1, le=10000)] | Share = 1
    """How many instances of a model a run may have out of the upstream at once: a number, or a share such as `25%`."""
    drain_timeout: Duration = "15m"
    """How long a run waits for the streams of an instance before the replacement; then the rest is cut."""
    context_length: Context = USUAL_CONTEXT
    """OLLAMA_CONTEXT_LENGTH: tokens of context of each request. Memory on the card grows with it. `auto` takes the most
    that has room: a power of two, or the longest context of the model."""
    num_parallel: Parallel = 1
    """OLLAMA_NUM_PARALLEL: requests answered at once. Each takes memory for a whole context. `auto` takes 4, 2 or 1, as
    many as have room."""
    keep_alive: Duration = "-1"
    """OLLAMA_KEEP_ALIVE: how long a model stays loaded after a request; `-1` is for ever."""
    no_cloud: bool = True
    """OLLAMA_NO_CLOUD: no calls to ollama.com."""

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield values that two instances cannot both have."""
        yield from super().problems()
        yield from _doubled(self)
        yield from public_names.problems(self.traffic)
        for name, item in named(self):
            yield from public_names.of_instance(self.traffic, _models(self, item), name)
        if self.listen_address and ipaddress.ip_address(self.listen_address).version != 4:
            yield ("listen_address",), "must be an IPv4 address: not every Docker has a firewall chain for IPv6"
        for index, item in enumerate(self.instances):
            if not item.gpus:
                yield (
                    ("instances", index, "gpus"),
                    "must name at least one card: an instance without one would run on the CPU",
                )
            if len(item.gpus) != len(set(item.gpus)):
                yield ("instances", index, "gpus"), "names a card twice"
            if len(item.gpus) > 1 and any(map(_is_mig, item.gpus)):
                yield ("instances", index, "gpus"), "may name one MIG device and no other card: CUDA uses one device"
        yield from _unequal_sharers(self)
        if self.network_pool and (complaint := pool_complaint(self.network_pool, len(self.instances))):
            yield ("network_pool",), complaint
        if isinstance(self.max_unavailable, str) and not 0 < share_of(self.max_unavailable) <= 1:
            yield ("max_unavailable",), "must be more than 0% and at most 100%"
        if not 0 <= duration_seconds(self.drain_timeout) <= 86400:
            yield ("drain_timeout",), "must be between 0s and 24h"


def _is_mig(card: int | str) -> bool:
    return isinstance(card, str) and card.startswith("MIG-")


def _is_one_line(secret: Secret) -> bool:
    text = secret.reveal()
    return text.isprintable() and not any(letter.isspace() for letter in text) and len(text) <= 4096


def _doubled(settings: Settings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield a name, port or card of two instances."""
    seen: dict[tuple[str, str | int], int] = {}
    for index, instance in enumerate(instances("", settings)):
        claims: list[tuple[str, str | int]] = [("name", instance.name), ("port", instance.port)]
        for kind, value in [*claims, *(("gpus", card) for card in set(instance.gpus))]:
            first = seen.setdefault((kind, value), index)
            if first != index:
                what = f"card {value}" if kind == "gpus" else f"{kind} {value}"
                yield ("instances", index, kind), f"{what} is already that of instances[{first}]"


def _unequal_sharers(settings: Settings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield sharers with different models: a model of only one sharer would be deleted under the other."""
    first: dict[str, int] = {}
    for index, item in enumerate(settings.instances):
        if item.storage in (None, "volume"):
            continue
        other = first.setdefault(str(item.storage), index)
        if set(_models(settings, item)) != set(_models(settings, settings.instances[other])):
            yield ("instances", index, "models"), f"must be those of instances[{other}], which has the same storage"


def instances(host_name: str, settings: Settings) -> tuple[Instance, ...]:
    """Return the instances of a host, with every default filled in.

    Args:
        host_name: name of the host.
        settings: of this role, for the host.
    """
    return tuple(
        Instance(
            host=host_name,
            name=name,
            gpus=item.gpus,
            port=item.port or FIRST_PORT + index,
            storage=storage.place(item.storage, settings.storage, name),
            models=_models(settings, item),
            carried=public_names.carried(settings.traffic, _models(settings, item)),
            parallel=wish.least.parallel,
            context=wish.least.context,
            cache_type=wish.cache_type,
            at_once=wish.at_once,
            weight=item.weight,
            parallel_auto=not wish.parallel,
            context_auto=not wish.context,
            pool=value_of(settings, item, "pool") or "",
            **vars(serving(settings)),
        )
        for index, (name, item) in enumerate(named(settings))
        for wish in [wish_of(settings, item)]
    )


def wish_of(settings: Settings, item: InstanceSettings) -> Wish:
    """Return the numbers that decide the memory of an instance."""
    context, parallel = (value_of(settings, item, name) for name in ("context_length", "num_parallel"))
    return Wish(
        context=0 if context == AUTO else context,
        parallel=0 if parallel == AUTO else parallel,
        cache_type=value_of(settings, item, "kv_cache_type") or "f16",
        at_once=value_of(settings, item, "max_loaded_models") or max(1, len(_models(settings, item))),
    )


def serving(settings: Settings) -> Serving:
    """Return the settings that hold for every instance of a host, even if no longer declared."""
    return Serving(
        engine=OLLAMA.name,
        image=settings.image,
        listen_address=settings.listen_address,
        admit=settings.admit,
        drain_timeout=duration_seconds(settings.drain_timeout),
        max_unavailable=settings.max_unavailable,
        network_pool=settings.network_pool,
        site=settings.site,
    )


def named(settings: Settings) -> Iterator[tuple[str, InstanceSettings]]:
    """Yield the settings of each instance with the instance's name, in order."""
    return ((item.name or f"ollama{number}", item) for number, item in enumerate(settings.instances, 1))


def _models(settings: Settings, item: InstanceSettings) -> tuple[str, ...]:
    """Return the models of an instance, each once, whichever of Ollama's defaults are written out."""
    declared = settings.models if item.models is None else item.models
    return tuple({canonical(model): model for model in reversed(declared)}.values())[::-1]


def value_of(settings: Settings, item: InstanceSettings, name: str) -> Any:
    """Return the value of an instance, or the value for all instances."""
    own = getattr(item, name)
    return getattr(settings, name) if own is None else own
