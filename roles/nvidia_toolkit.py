"""The NVIDIA Container Toolkit, which lets Docker give cards to containers. Needs Docker, and a working driver."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from provision import inventory
from provision.inventory import (
    Duration,
    Fingerprint,
    Host,
    Inventory,
    Url,
    Version,
    duration_seconds,
    shared_settings,
)
from provision.inventory.mirrors import Outside
from provision.render import render
from provision.steps.base import Owned, Step
from provision.steps.docker.service import GpuDriver
from provision.steps.facts import HostFacts
from provision.steps.instance import endpoint
from provision.steps.system.apt import Packages
from provision.steps.system.apt_repository import AptKey, AptSource, OnlySource, Repository
from provision.steps.system.file import File, OwnedFiles

KEY = "/etc/apt/keyrings/provision-nvidia_toolkit.asc"
SOURCE = "/etc/apt/sources.list.d/provision-nvidia_toolkit.sources"
PREFERENCES = "/etc/apt/preferences.d/provision-nvidia_toolkit"

PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)


class Settings(inventory.Settings):
    """The NVIDIA Container Toolkit on the gpu hosts."""

    repository: Url = "https://nvidia.github.io/libnvidia-container"
    """Base URL of the toolkit's repository, or of a mirror; `/stable/deb/amd64` and so on is added."""
    key_fingerprint: Fingerprint = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
    """Fingerprint of the repository's key. Any other key is refused. If the host already has a source line of the
    repository, that line keeps its own key, without a comparison."""
    version: Version = "1.20.0"
    """Version of all four packages of the toolkit."""
    allow_downgrade: bool = False
    """Whether `version` may replace a newer toolkit."""
    smi_timeout: Duration = "15s"
    """How long nvidia-smi may take; more for hosts with many cards whose driver is not kept loaded."""

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield a time limit that would refuse every host, or wait for ever for a wedged driver."""
        if not 1 <= duration_seconds(self.smi_timeout) <= 600:
            yield ("smi_timeout",), "must be between 1s and 10m"


OWNED: tuple[Owned, ...] = (
    OwnedFiles(globs=(SOURCE,), kind="apt_source"),
    OwnedFiles(globs=(KEY,), kind="apt_key"),
    OwnedFiles(globs=(PREFERENCES,)),
)


def mirrored(settings: Settings, mirrors: shared_settings.MirrorSettings) -> Mapping[str, Any]:
    """Return the mirror of NVIDIA's repository."""
    url = mirrors.url("nvidia_toolkit")
    return {"repository": url and url.address}


def outside(host: Host, inventory: Inventory) -> Iterator[Outside]:
    """Yield NVIDIA's repository."""
    if host.gpu:
        base = host.of(Settings).repository.rstrip("/")
        key = shared_settings.mirror_key(host, "nvidia_toolkit", "repository", "nvidia_toolkit")
        yield Outside(base, "packages", key, f"{base}/stable/deb/{{architecture}}/InRelease")


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the toolkit on gpu hosts; last the proof that Docker knows the toolkit."""
    if not host.gpu:
        return
    settings = host.of(Settings)
    base = settings.repository.rstrip("/")
    version = settings.version if "-" in settings.version else f"{settings.version}-1"
    uri = f"{base}/stable/deb/{{architecture}}"
    repository = Repository(name="nvidia_toolkit", uri=uri, suite="/", component="", source=SOURCE, key=KEY)
    yield OnlySource(repository=repository)
    yield AptKey(path=KEY, url=f"{base}/gpgkey", fingerprint=settings.key_fingerprint, repository=repository)
    yield AptSource(path=SOURCE, content=partial(_source, base), repository=repository)
    yield File(path=PREFERENCES, content=render("nvidia_toolkit/preferences.j2", packages=PACKAGES, version=version))
    yield Packages(
        name="nvidia_toolkit",
        packages=dict.fromkeys(PACKAGES, version),
        costs="restarts Docker, which then finds the cards",
        downgrade=settings.allow_downgrade,
        lock_timeout=int(duration_seconds(shared_settings.docker(host).lock_timeout)),
    )
    yield GpuDriver(
        image=host.serving.image,
        proxied=endpoint.is_local(host, inventory),
        after=("packages:nvidia_toolkit", "service:docker"),
    )


def _source(base: str, facts: HostFacts) -> bytes:
    values = {"repository": base, "architecture": facts.architecture, "key": KEY}
    return render("nvidia_toolkit/nvidia_toolkit.sources.j2", **values)
