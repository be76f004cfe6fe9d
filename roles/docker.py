"""Docker: from its own repository or the distribution's, configured so that containers keep their cards.

Only gpu hosts get Docker. The guards and the folders of every host are here too: this role has steps on every host.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from provision import inventory
from provision.errors import Problem
from provision.inventory import (
    AbsolutePath,
    Duration,
    Fingerprint,
    Host,
    Inventory,
    Secret,
    Size,
    Text,
    Url,
    Version,
    duration_seconds,
    shared_settings,
)
from provision.inventory.direct import without_proxy
from provision.inventory.mirrors import Outside, RegistryName
from provision.render import render
from provision.steps import engines
from provision.steps.base import Owned, Step
from provision.steps.docker import image_room
from provision.steps.docker.daemon_json import DockerConfig
from provision.steps.docker.daemon_state import PROXY
from provision.steps.docker.proxy import KIND, DockerProxy
from provision.steps.docker.registry_login import RegistryLogin, registry_of
from provision.steps.docker.service import DockerService
from provision.steps.docker.unmanage import OwnedDockerConfig
from provision.steps.facts import INTERFACE, HostFacts
from provision.steps.instance import endpoint
from provision.steps.system.apt import Packages
from provision.steps.system.apt_repository import AptKey, AptSource, OnlySource, Repository
from provision.steps.system.file import File, OwnedFiles
from provision.steps.system.folders import Folders
from provision.steps.system.owned_units import OwnedDropIns
from provision.steps.system.preflight import SupportedHost, UsableCards
from provision.steps.system.systemd import DropIn

KEY = "/etc/apt/keyrings/provision-docker.asc"
SOURCE = "/etc/apt/sources.list.d/provision-docker.sources"
PREFERENCES = "/etc/apt/preferences.d/provision-docker"
NOTES = "/opt/provision/lib/docker-notes"

OFFICIAL = ("docker-ce", "docker-ce-cli", "containerd.io")
REPLACED = (
    "docker.io",
    "docker-cli",
    "docker-doc",
    "docker-compose",
    "docker-compose-v2",
    "podman-docker",
    "containerd",
    "runc",
)
OWN_KEYS = {
    "data-root": "docker.data_root",
    "exec-opts": "docker.cgroup_driver",
    "live-restore": "docker.live_restore",
    "registry-mirrors": "docker.registry_mirrors",
}
# What a new package does to containers. Live-restore is loaded by then: daemon.json comes before the packages.
LIVE, DYING = "go on, by live-restore", "stop, when their streams have ended"
CDI_TOOLKIT = (1, 18)  # from this version on the toolkit updates the CDI description of the cards (docs/facts.md#cdi)

LONGEST_PASSWORD = 4096  # tokens of registries are that long at most

CONTAINERD_ENGINE = 29  # from this version on a fresh host has the containerd image store


class Login(inventory.Settings):
    """The login of a registry of images."""

    username: Annotated[Text, Field(min_length=1, max_length=255)]
    """User, or the name of a token."""
    password: Secret
    """Password or token, by `!env NAME` or `!file PATH`."""

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield a user that Docker would cut, and a password that no registry takes."""
        if ":" in self.username:
            yield ("username",), "must be without `:`, which ends the user in Docker's file"
        password = self.password.reveal()
        if not password or not password.isprintable() or len(password) > LONGEST_PASSWORD:
            yield ("password",), f"must be one line of printable text, of at most {LONGEST_PASSWORD} characters"


class Settings(inventory.Settings):
    """Docker on the gpu hosts."""

    source: Literal["docker", "distribution"] = "docker"
    """Source of the packages: Docker's own repository, or the distribution's docker.io."""
    repository: Url = "https://download.docker.com"
    """Base URL of Docker's repository, or of a mirror; `/linux/debian` and so on is added."""
    key_fingerprint: Fingerprint = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
    """Fingerprint of the repository's key. Any other key is refused. If the host already has a source line of the
    repository, that line keeps its own key, without a comparison."""
    version: Version | None = None
    """Docker's version: 29.1.3 for any package of 29.1.3, or a package version in full. Null: any version."""
    allow_downgrade: bool = False
    """Whether `version` may replace a newer Docker."""
    log_max_size: Size = "50m"
    """Size at which a container's log is rotated."""
    log_max_file: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many log files of a container are kept."""
    live_restore: bool = True
    """Whether containers go on while Docker itself restarts."""
    registry_mirrors: tuple[Url, ...] = ()
    """Mirrors of Docker Hub, tried in order before Docker Hub."""
    registries: Annotated[dict[RegistryName, Login], Field(max_length=50)] = {}  # noqa: RUF012 - pydantic copies defaults
    """Registry -> login for pulls of its images: `docker.io`, or `HOST:PORT` as in `ollama.image`. The logins are in a
    file for root alone. Other registries keep the host's own `docker login`. Docker takes no login for a mirror."""
    cgroup_driver: Literal["auto", "cgroupfs", "systemd"] = "auto"
    """Docker's cgroup driver. With systemd, any `systemctl daemon-reload` takes the cards away from running containers
    that got their cards by NVIDIA's hook; auto avoids the loss, and keeps systemd where containers prove CDI."""
    data_root: AbsolutePath | None = None
    """Docker's folder for data; null is /var/lib/docker. From Docker 29 images are elsewhere."""
    daemon: dict[str, Any] = Field(default_factory=dict)
    """More keys of /etc/docker/daemon.json, as Docker documents the keys. Present keys of the file stay."""
    lock_timeout: Duration = "10m"
    """How long to wait for a program that has apt locked."""

    @property
    def containerd_images(self) -> bool:
        """Whether a Docker of this source and version keeps images in containerd's store, on a host without an older
        store: from Docker 29 on, or where daemon.json says so (docs/facts.md#docker-reload)."""
        features = self.daemon.get("features")
        said = features.get("containerd-snapshotter") if isinstance(features, dict) else None
        if said is not None or self.source == "distribution":
            return said is True
        major = (self.version or "").rpartition(":")[2].partition(".")[0]
        return "storage-driver" not in self.daemon and (not major.isdigit() or int(major) >= CONTAINERD_ENGINE)

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield keys that contradict settings, or cannot be JSON."""
        for key in self.daemon:
            if key in OWN_KEYS:
                yield ("daemon", key), f"use {OWN_KEYS[key]} for this"
        bridge = self.daemon.get("bridge", "docker0")
        if not isinstance(bridge, str) or not INTERFACE.fullmatch(bridge) or bridge == "none":
            yield ("daemon", "bridge"), "must be the name of a bridge: instances are on Docker's own bridge"
        if self.daemon.get("default-runtime") == "nvidia":
            yield ("daemon", "default-runtime"), "would give every container all cards; --gpus needs no default runtime"
        try:
            json.dumps(self.daemon)
        except TypeError as error:
            yield ("daemon",), f"must be what JSON can say: {error}"
        if not 0 <= duration_seconds(self.lock_timeout) <= 3000:
            yield ("lock_timeout",), "must be between 0s and 50m"


OWNED: tuple[Owned, ...] = (
    OwnedDockerConfig(),
    OwnedFiles(globs=(SOURCE,), kind="apt_source"),
    OwnedFiles(globs=(KEY,), kind="apt_key"),
    OwnedFiles(globs=(PREFERENCES, NOTES)),
    OwnedFiles(globs=(PROXY,), kind=KIND),
    OwnedFiles(globs=(image_room.LOGINS,), kind=RegistryLogin.KIND),
    OwnedDropIns(name="docker.service"),
)


def mirrored(settings: Settings, mirrors: shared_settings.MirrorSettings) -> Mapping[str, Any]:
    """Return the mirrors of Docker's repository and of Docker Hub."""
    url = mirrors.url("docker")
    return {"repository": url and url.address, "registry_mirrors": mirrors.hub}


def outside(host: Host, inventory: Inventory) -> Iterator[Outside]:
    """Yield Docker's repository, the mirrors of Docker Hub, and the registry of the image."""
    if not host.gpu:
        return
    settings = host.of(Settings)
    if settings.source == "docker":
        base = settings.repository.rstrip("/")
        key = shared_settings.mirror_key(host, "docker", "repository", "docker")
        yield Outside(base, "packages", key, f"{base}/linux/{{distribution}}/dists/{{codename}}/InRelease")
    for number, mirror in enumerate(settings.registry_mirrors):
        key = shared_settings.mirror_key(host, "docker", "registry_mirrors", "images")
        yield Outside(mirror, "images", f"{key}[{number}]", f"{mirror.rstrip('/')}/v2/")
    if host.serving.image:
        registry = image_room.parts(host.serving.image)[0]
        yield Outside(registry, "images", f"{host.serving.engine}.image", f"{registry}/v2/")


def advice(host: Host, inventory: Inventory) -> Iterator[str]:
    """Yield the logins that no image needs."""
    used = registry_of(host.serving.image) if host.gpu and host.serving.image else ""
    for name in host.of(Settings).registries if used else ():
        if name != used:
            yield f"docker.registries: no image comes from {name}, so the login has no effect: images are at {used}"


def problems(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield a second proxy for Docker."""
    proxy = shared_settings.proxy(host)
    if host.gpu and (proxy.http or proxy.https) and "proxies" in host.of(Settings).daemon:
        yield host.problem("docker", ("daemon", "proxies"), "is Docker's own proxy, beside the section proxy: keep one")


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the guards of every host, the folders of a host with any role, and Docker on gpu hosts."""
    yield SupportedHost(docker=host.gpu)
    if host.gpu:
        gpus = {instance.name: instance.gpus for instance in host.instances}
        yield UsableCards(gpus=gpus, image=host.serving.image, unusable=engines.of(host.serving).unusable)
    if host.gpu or host.balancer:  # a host under `retired` keeps no folder of ours
        yield Folders()
    if not host.gpu:
        return
    settings = host.of(Settings)
    yield from _repository(settings)
    yield File(path=NOTES, content=render("docker/docker-notes.j2", proxy=PROXY), mode=0o755)
    proxy = shared_settings.proxy(host)
    used = bool(proxy.http or proxy.https)
    yield DropIn(name="docker.service", content=render("docker/provision.conf.j2", proxy=PROXY if used else ""))
    direct = without_proxy(host, inventory) if used else ()
    environment = DockerProxy(http=proxy.http, https=proxy.https, direct=direct)
    yield environment
    if settings.registries:
        yield RegistryLogin.of({name: (login.username, login.password) for name, login in settings.registries.items()})
    yield DockerConfig(keys=_keys(settings), cgroup_driver=settings.cgroup_driver, cdi=_toolkit(host) >= CDI_TOOLKIT)
    yield _packages(settings, cuts=not settings.live_restore or endpoint.is_local(host, inventory))
    yield DockerService(
        live_restore=settings.live_restore,
        proxied=endpoint.is_local(host, inventory),
        cgroup_driver="" if settings.cgroup_driver == "auto" else settings.cgroup_driver,
        after=("packages:docker", "docker_config:daemon.json", environment.id),
    )


def _repository(settings: Settings) -> Iterator[Step]:
    tools: dict[str, str | None] = dict.fromkeys(("ca-certificates", "curl", "gnupg"))
    yield Packages(name="apt-tools", packages=tools, lock_timeout=_lock(settings))
    if settings.source == "distribution":
        yield from _pin(("docker.io",), settings.version and _distributions(settings.version))
        return
    base = settings.repository.rstrip("/")
    uri = f"{base}/linux/{{distribution}}"
    repository = Repository(name="docker", uri=uri, suite="{codename}", component="stable", source=SOURCE, key=KEY)
    yield OnlySource(repository=repository)
    yield AptKey(path=KEY, url=f"{uri}/gpg", fingerprint=settings.key_fingerprint, repository=repository)
    yield AptSource(path=SOURCE, content=partial(_source, base), repository=repository)
    yield from _pin(OFFICIAL[:2], settings.version and _pattern(settings.version))


def _pin(packages: tuple[str, ...], version: str | None) -> Iterator[Step]:
    """Yield apt's pin of packages, so that no other program upgrades the packages; nothing without a version."""
    if version:
        values = {"packages": packages, "version": version}
        yield File(path=PREFERENCES, content=render("docker/preferences.j2", **values))


def _source(base: str, facts: HostFacts) -> bytes:
    return render(
        "docker/docker.sources.j2",
        repository=base,
        distribution=facts.distribution,
        codename=facts.codename,
        architecture=facts.architecture,
        key=KEY,
    )


def _packages(settings: Settings, *, cuts: bool) -> Packages:
    """Return Docker's packages. The distribution's client is a separate package from Debian 13 on."""
    packages: dict[str, str | None]
    releases: dict[str, tuple[str, ...]] = {}
    if settings.source == "distribution":
        pattern = _distributions(settings.version) if settings.version else None
        packages, releases["docker-cli"] = {"docker.io": pattern, "docker-cli": None}, ("trixie",)
    else:
        version = _pattern(settings.version) if settings.version else None
        packages = {**dict.fromkeys(OFFICIAL[:2], version), OFFICIAL[2]: None}
    return Packages(
        name="docker",
        packages=packages,
        releases=releases,
        replaces=OFFICIAL if settings.source == "distribution" else REPLACED,
        restarts=f"Docker (containers that run {LIVE if settings.live_restore else DYING})",
        cuts=cuts,
        downgrade=settings.allow_downgrade,
        lock_timeout=_lock(settings),
    )


def _pattern(version: str) -> str:
    """Return the pattern of package versions: 29.1.3 is called 5:29.1.3-1~debian.13~trixie."""
    return version if ":" in version else f"5:{version}-*"


def _distributions(version: str) -> str:
    """Return the pattern of package versions: 26.1.5 is called 26.1.5+dfsg1-9+b1 or 26.1.5-0ubuntu1."""
    return version if "-" in version else f"{version}*"


def _lock(settings: Settings) -> int:
    return int(duration_seconds(settings.lock_timeout))


def _keys(settings: Settings) -> Mapping[str, Any]:
    """Return our part of daemon.json. The runtime nvidia is an entry for requests by name, not the default."""
    extra: dict[str, Any] = json.loads(json.dumps(settings.daemon))
    keys: dict[str, Any] = {
        "live-restore": settings.live_restore,
        "runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}},
    }
    if "log-driver" not in extra:
        keys["log-driver"] = "json-file"
        keys["log-opts"] = {"max-size": settings.log_max_size, "max-file": str(settings.log_max_file)}
    if settings.registry_mirrors:
        keys["registry-mirrors"] = list(settings.registry_mirrors)
    if settings.data_root:
        keys["data-root"] = settings.data_root
    return {**keys, **{key: _joined(keys.get(key), value) for key, value in extra.items()}}


def _joined(ours: Any, extra: Any) -> Any:
    return {**ours, **extra} if isinstance(ours, dict) and isinstance(extra, dict) else extra


def _toolkit(host: Host) -> tuple[int, ...]:
    version = shared_settings.toolkit(host).version
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
