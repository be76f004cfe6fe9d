"""The models role: each instance has its models, whole, and keeps them loaded on its cards.

`ollama.models` declares the models; this role brings them to the instances.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from provision.inventory import (
    Duration,
    Host,
    Instance,
    Inventory,
    ModelName,
    Sha256,
    duration_seconds,
    shared_settings,
)
from provision.inventory import Settings as Base
from provision.inventory.mirrors import Outside
from provision.steps import engines
from provision.steps.base import Owned, Step
from provision.steps.ollama.alias import Alias, LeavingAliases, OwnedAliases
from provision.steps.ollama.engine import OLLAMA
from provision.steps.ollama.loaded_models import Resident
from provision.steps.ollama.model import LeavingModels, Model, OwnedModels
from provision.steps.ollama.server_state import DEFAULT_REGISTRY, canonical, parts
from provision.steps.ollama.source_name import source_name

SERVES = BRINGS_MODELS = True
# Public registries that answer as Ollama needs; Ollama's own documentation names them.
PUBLIC = frozenset({DEFAULT_REGISTRY, "ollama.com", "hf.co", "huggingface.co"})


class Settings(Base):
    """Pulling and loading of models."""

    resident: bool = True
    """Whether a deploy loads models after the pull, and keeps the models loaded."""
    tries: Annotated[int, Field(ge=1, le=100)] = 5
    """How often a pull is tried; each try goes on at the end of the try before."""
    stall: Duration = "10m"
    """How long a try of a pull may make no progress; then the try ends. A blob makes progress when more bytes are there
    than ever before: bytes that come a second time, because a part stalled and started over, do not count. Ollama's own
    check of a finished blob is silent too: allow a minute for each 30 GB of a model on slow disks."""
    insecure: bool = False
    """Whether a pull may ask your own registries over plain http; the library is always asked over https. Ollama pulls
    only from a registry that redirects to its blobs at another host name. An ordinary registry answers with the blobs
    themselves, and the pull fails with `no Location header in response`. Which registries work, and what to do at a
    site without internet: docs/models.md."""
    digests: dict[ModelName, Sha256] = {}  # noqa: RUF012 - pydantic copies defaults
    """Model -> the digest to demand, because tags move."""

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield a time limit that would give a pull up at once, or never."""
        if not 1 <= duration_seconds(self.stall) <= 86400:
            yield ("stall",), "must be between 1s and 24h"


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield every step of a gpu host, in order; none for other hosts.

    Args:
        host: one host, with its instances.
        inventory: the whole inventory.
    """
    settings = host.of(Settings)
    beside = _beside(host)
    for served in _served(host):
        sources = {name: source_of(host, name) for name in served.models}
        models = list(_models(host, served, sources, beside))
        yield from models
        aliases = [
            Alias(
                instance=served.name,
                name=name,
                source=source,
                storage=served.storage,
                digest=_digest(settings, name, source),
                after=("service:docker", f"container:{served.name}", f"model:{served.name}/{source}"),
            )
            for name, source in sources.items()
            if canonical(name) != canonical(source)
        ]
        yield from aliases
        yield from _carried(host, served, sources)
        if settings.resident and models:
            ids = [step.id for step in (*models, *aliases)]
            after = ("service:docker", f"container:{served.name}", *ids)
            yield Resident(instance=served.name, models=served.models, after=after)


def _carried(host: Host, served: Instance, sources: Mapping[str, str]) -> Iterator[Alias]:
    """Yield the public names that the models of an instance carry. A model of that very name needs nothing."""
    for each in served.carried:
        if canonical(each.name).lower() != canonical(each.version).lower():
            source = sources[each.version]
            kinds = ("model", "alias") if canonical(source) != canonical(each.version) else ("model",)
            names = dict(zip(kinds, (source, each.version), strict=False))
            yield Alias(
                instance=served.name,
                name=each.name,
                source=each.version,
                storage=served.storage,
                digest=_digest(host.of(Settings), each.version, source),
                compared=each.version,
                after=(
                    "service:docker",
                    f"container:{served.name}",
                    *(f"{kind}:{served.name}/{name}" for kind, name in names.items()),
                ),
            )


def _served(host: Host) -> list[Instance]:
    return [instance for instance in host.instances if engines.of(instance) is OLLAMA]


def source_of(host: Host, model: str) -> str:
    """Return the name under which the instances of a host pull a model: its own, or a mirror's.

    Args:
        host: the host.
        model: the name for clients.
    """
    mirrors = shared_settings.mirrors(host)
    return source_name(model, mirrors.models, mirrors.model_registry) if mirrors else model


def _beside(host: Host) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Return the canonical name of each pulled model -> its instances, each with the storage of its models."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for served in _served(host):
        for name in served.models:
            found.setdefault(canonical(source_of(host, name)), {})[served.name, served.storage] = None
    return {name: tuple(places) for name, places in found.items()}


def _models(
    host: Host, served: Instance, sources: Mapping[str, str], beside: Mapping[str, tuple[tuple[str, str], ...]]
) -> Iterator[Model]:
    """Yield every model of an instance, once, by the name under which the instance pulls the model."""
    settings = host.of(Settings)
    pulled: dict[str, tuple[str, str]] = {}
    for name, source in sources.items():
        pulled.setdefault(canonical(source), (name, source))
    for name, source in pulled.values():
        yield Model(
            instance=served.name,
            name=source,
            storage=served.storage,
            digest=_digest(settings, name, source),
            tries=settings.tries,
            stall=round(duration_seconds(settings.stall)),
            insecure=settings.insecure and has_own_registry(source),
            data_root=shared_settings.docker(host).data_root or "",
            gpus=served.gpus,
            context=served.context,
            parallel=served.parallel,
            cache_type=served.cache_type,
            at_once=served.at_once,
            proposes=served.context_auto or served.parallel_auto,
            beside=beside[canonical(source)],
        )


def _digest(settings: Settings, *names: str) -> str:
    """Return the declared digest of a model, under the name for clients or under the mirror's."""
    digests = {canonical(name): digest for name, digest in settings.digests.items()}
    return next((digests[name] for name in map(canonical, names) if name in digests), "")


def has_own_registry(model: str) -> bool:
    """Whether a model's name has a registry that is none of the public ones."""
    return parts(model)[0] not in PUBLIC


def advice(host: Host, inventory: Inventory) -> Iterator[str]:
    """Yield how the registries of the models have to answer, which shows only at a pull, and needless settings."""
    settings = host.of(Settings)
    models = [source_of(host, name) for instance in _served(host) for name in instance.models]
    own = {parts(name)[0]: name for name in models if has_own_registry(name)}
    images = _image_registries(host)
    for registry, model in own.items():
        kind = "serves Docker images here" if registry in images else "is a registry of your own"
        yield (
            f"ollama.models: {registry}, from which {model} comes, {kind}. Ollama pulls only from a registry that"
            " redirects to blobs (307) at another host name; an ordinary registry sends the blobs itself, and the pull"
            " fails. docs/models.md says how to find out, and how to put a redirect in front"
        )
    if models and settings.insecure and not own:
        yield (
            "models.insecure: true has no effect, because no model has a registry in its name (HOST/SPACE/NAME:TAG);"
            " models of the library always come over https"
        )


def _image_registries(host: Host) -> set[str]:
    """Host and port of every registry from which the inventory takes images."""
    image, slash, _ = host.serving.image.partition("/")
    mirrors = {urlsplit(mirror).netloc for mirror in shared_settings.docker(host).registry_mirrors}
    return mirrors | ({image} if slash and ("." in image or ":" in image) else set())


def outside(host: Host, inventory: Inventory) -> Iterator[Outside]:
    """Yield the registry of each model."""
    mirrors = shared_settings.mirrors(host)
    names = {canonical(name) for name in (mirrors.models if mirrors else ())}
    for instance in _served(host):
        for name in instance.models:
            source = source_of(host, name)
            registry, space, model, tag = parts(source)
            plain = host.of(Settings).insecure and has_own_registry(source)
            base = f"{'http' if plain else 'https'}://{registry}"
            key = f"mirrors.models.{name}" if canonical(name) in names else "mirrors.model_registry"
            key = key if canonical(source) != canonical(name) else "ollama.models"
            yield Outside(base, "models", key, f"{base}/v2/{space}/{model}/manifests/{tag}")


OWNED: tuple[Owned, ...] = (LeavingAliases(), LeavingModels(), OwnedAliases(), OwnedModels())
