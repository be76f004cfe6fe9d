"""The proxy to the world outside: for apt and our own downloads here, for Docker and models in the roles of these.

apt gets a default for every source and a line for each repository of the inventory. The file comes first among apt's,
so a proxy that the operator has written for apt stays in force for the operator's own sources.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated

from pydantic import Field

from provision import inventory
from provision.inventory import Host, Inventory, shared_settings
from provision.inventory.direct import host_of, without_proxy
from provision.inventory.proxy import Bypass, ProxyUrl
from provision.steps.base import Owned, Step
from provision.steps.facts import HostFacts
from provision.steps.system.file import OwnedFiles
from provision.steps.system.proxy import APT, ENVIRONMENT, ProxyFile, about, apt_mode, apt_text, environment

FACTS: frozenset[str] = frozenset()
"""The parts of the host facts for the steps, see `facts.PARTS`: none. apt's sources are in every read."""


class Settings(inventory.Settings):
    """The proxy to the world outside: for apt, package keys, nginx's source, images and models. Hosts of the inventory
    never go through the proxy."""

    http: ProxyUrl | None = None
    """Proxy for http:// addresses, such as `http://proxy.example:3128`, or `!env NAME` for a URL with
    `USER:PASSWORD@`. Shown without user and password. Null: none."""
    https: ProxyUrl | None = None
    """Proxy for https:// addresses; often the same URL. Null: none. Also the default of `ollama.https_proxy`."""
    no_proxy: Annotated[tuple[Bypass, ...], Field(max_length=200)] = ()
    """Places to reach without the proxy: host names, domains such as `.example.com`, addresses and networks."""


OWNED: tuple[Owned, ...] = (OwnedFiles(globs=(ENVIRONMENT, APT), kind="proxy"),)


def warnings(host: Host, inventory: Inventory) -> Iterable[str]:
    """Yield a proxy for one of the two kinds of addresses alone."""
    settings = host.of(Settings)
    if bool(settings.http) != bool(settings.https):
        given, missing = ("http", "https") if settings.http else ("https", "http")
        yield f"proxy.{given} is set and proxy.{missing} is not: {missing}:// addresses are asked directly"


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the files of the proxy, on hosts with any role."""
    settings = host.of(Settings)
    if not (settings.http or settings.https) or not (host.gpu or host.balancer):
        return
    direct = without_proxy(host, inventory)
    words = about(settings.http, settings.https, direct)
    text = environment(settings.http, settings.https, direct, upper=False)
    yield ProxyFile(path=ENVIRONMENT, content=text, about=words)
    bases = [shared_settings.docker(host).repository, shared_settings.toolkit(host).repository] if host.gpu else []
    ours = frozenset(filter(None, map(host_of, bases)))
    mode = apt_mode(settings.http, settings.https)
    yield ProxyFile(path=APT, content=partial(_apt, settings, direct, ours), mode=mode, about=words)


def _apt(settings: Settings, direct: tuple[str, ...], ours: frozenset[str], facts: HostFacts) -> bytes:
    others = frozenset(filter(None, (host_of(line.uri) for line in facts.sources_of_apt)))
    return apt_text(settings.http, settings.https, direct, ours, others)
