"""The places that a host reaches without its proxy."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from provision.inventory import shared_settings
from provision.inventory.model import Host, Inventory
from provision.inventory.proxy import goes_direct
from provision.inventory.types import is_address, is_host

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def host_of(address: str) -> str:
    """Return the host in a URL, or in the name of an image or a model; empty for a text without a host.

    Args:
        address: such as `https://mirror.test/docker` or `registry.test:5000/ollama/ollama:1`.
    """
    if "/" not in address or any(letter.isspace() for letter in address):
        return ""
    try:
        found = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:
        return ""
    return found if is_host(found) else ""


def without_proxy(host: Host, inventory: Inventory) -> tuple[str, ...]:
    """Return the places that a host reaches without the proxy: loopback, `proxy.no_proxy`, hosts of the inventory, and
    addresses of settings that are inside a network of `proxy.no_proxy`.

    A host of the inventory is in the list only if a setting of this host names it, as a mirror or a registry: Docker
    restarts and instances are replaced when the list changes, and a new gpu host must not cost that on every other
    host. Everything else in the fleet is asked with `--noproxy`.

    Args:
        host: the host.
        inventory: the whole inventory.
    """
    given = shared_settings.proxy(host).no_proxy
    fleet = {name for other in inventory.hosts for name in (other.name, other.connection.address)}
    settings = {role: each.model_dump() for role, each in host.settings.items() if role != "proxy"}
    mirrors = shared_settings.mirrors(host)
    addresses = [address for _, address in mirrors.addresses()] if mirrors else []
    named = {host_of(text) for text in [*_texts([settings, host.instances]), *(f"{each}/" for each in addresses)]}
    # curl before 7.86, such as Ubuntu 22.04's, knows no networks (curl's changelog): the list has the address too
    inside = {name for name in named if is_address(name) and goes_direct(name, given)}
    return tuple(dict.fromkeys([*LOOPBACK, *given, *sorted(named & fleet | inside)]))


def _texts(value: Any) -> Iterator[str]:
    """Yield every text inside mappings, sequences and objects with fields; no secret."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif hasattr(value, "__dict__"):
        yield from _texts(vars(value))
