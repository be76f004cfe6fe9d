"""Mirrors of the world outside: an address for each source of packages, images and models, in one section.

The settings of the other roles win (`docker.repository` and so on): `plan.mirrored` fills the unset ones. A login of a
repository is in two files for root alone, because apt and curl take the same format for different machines.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from provision import inventory
from provision.inventory import Host, Inventory, ModelName, Url
from provision.inventory.direct import host_of
from provision.inventory.mirrors import PRESETS, MirrorUrl, RegistryName
from provision.inventory.settings import KeyPath
from provision.steps.base import Owned, Step
from provision.steps.system.file import OwnedFiles
from provision.steps.system.mirror_login import APT_LOGIN, LOGIN, MirrorLogin

FACTS: frozenset[str] = frozenset()
"""The parts of the host facts for the steps, see `facts.PARTS`: none."""


class Settings(inventory.Settings):
    """Mirrors of the addresses outside the site. `mirrors: china` is short for `mirrors: {preset: china}`. Settings of
    the other sections, such as `docker.repository`, win."""

    SHORT: ClassVar[str] = "preset"

    preset: Literal["none", "china"] = "none"
    """Addresses for the keys that are not set here (docs/facts.md#mirrors)."""
    docker: MirrorUrl | Literal[""] | None = None
    """Mirror of https://download.docker.com, or `!env NAME` for a URL with `USER:PASSWORD@`. Empty: Docker's own,
    whatever the preset. Null: the preset's."""
    nvidia_toolkit: MirrorUrl | Literal[""] | None = None
    """Mirror of https://nvidia.github.io/libnvidia-container, as for `docker`."""
    nginx: Url | Literal[""] = ""
    """Mirror of https://nginx.org/download: `/nginx-VERSION.tar.gz` is added. The pinned sha256 proves the tarball. A
    user without rights downloads the tarball, so this mirror has no login."""
    images: Annotated[tuple[Url, ...], Field(max_length=20)] | None = None
    """Mirrors of Docker Hub, tried in order before Docker Hub. Docker takes no login for a mirror. Null: the
    preset's."""

    model_registry: RegistryName | Literal[""] = ""
    """Registry for all models without a registry in their name: `HOST:PORT`, which has `library/NAME:TAG` and so on.
    Clients go on using the short name. What the registry must answer: docs/models.md."""
    models: Annotated[dict[ModelName, ModelName], Field(max_length=1000)] = {}  # noqa: RUF012 - pydantic copies defaults
    """Model -> name under which the model is pulled, such as a name at modelscope.cn. Clients go on using the name of
    the model. The bytes are those of the mirror: see `models.digests`."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield two logins for one machine, which curl would not tell apart, and names that lead nowhere."""
        logins = {}
        for name in ("docker", "nvidia_toolkit"):
            url = self.url(name)
            if url and url.login and logins.setdefault(host_of(url.address), url.login) != url.login:
                yield (name,), "has another login than the other mirror at the same host: use one login for both"
        for name, source in self.models.items():
            if name == source:
                yield ("models", name), "is its own mirror: leave the entry out"
            elif source in self.models:
                yield ("models", name), f"comes from {source}, which has an entry of its own: name the last one"

    def url(self, name: str) -> MirrorUrl | None:
        """Return the mirror of a repository, or None for the maker's own address.

        Args:
            name: `docker` or `nvidia_toolkit`.
        """
        given = getattr(self, name)
        if given is None:
            preset = PRESETS[self.preset].addresses.get(name)
            return MirrorUrl(preset) if preset else None
        return given or None

    @property
    def hub(self) -> tuple[str, ...]:
        """The mirrors of Docker Hub."""
        return PRESETS[self.preset].images if self.images is None else self.images

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield the path of the setting, and the address without a login, of every mirror."""
        for name in ("docker", "nvidia_toolkit"):
            if url := self.url(name):
                yield f"mirrors.{name}", url.address
        if self.nginx:
            yield "mirrors.nginx", self.nginx
        for number, mirror in enumerate(self.hub):
            yield f"mirrors.images[{number}]", mirror
        if self.model_registry:
            yield "mirrors.model_registry", f"http://{self.model_registry}"

    def has(self, key: str) -> bool:
        """Return whether the section, with its preset, has an address under a key.

        Args:
            key: such as `docker` or `images`.
        """
        if key == "images":
            return bool(self.hub)
        return self.url(key) is not None if key in ("docker", "nvidia_toolkit") else bool(getattr(self, key))


OWNED: tuple[Owned, ...] = (OwnedFiles(globs=(APT_LOGIN, LOGIN), kind=MirrorLogin.KIND),)


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the logins of repositories, on gpu hosts."""
    settings = host.of(Settings)
    urls: Sequence[MirrorUrl] = [url for name in ("docker", "nvidia_toolkit") if (url := settings.url(name))]
    logins = tuple((url.address, *url.login) for url in urls if url.login)
    if not host.gpu or not logins:
        return
    yield MirrorLogin.of_apt(logins)
    yield MirrorLogin.of_curl(logins)
