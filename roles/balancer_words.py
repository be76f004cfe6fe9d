"""Values of the balancer's settings in the words of nginx and of an operator."""

import math
from collections.abc import Sequence

from provision.inventory import duration_seconds

NAMED = 5  # names in a warning


def milliseconds(duration: str) -> str:
    """Return a duration in nginx's notation.

    Args:
        duration: a duration of the inventory.
    """
    seconds = duration_seconds(duration)
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{math.ceil(seconds * 1000)}ms"


def few(names: Sequence[str]) -> str:
    """Return some names, in words.

    Args:
        names: all names.
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def listens(addresses: Sequence[str], port: int, end: str, keys: str) -> str:
    """Return the addresses for clients, in words, and the end of the certificate.

    Args:
        addresses: IP addresses.
        port: the port for clients.
        end: the day on which the certificate ends; empty for plain HTTP.
        keys: file of the clients' keys; empty where nobody needs a key.
    """
    names = {"0.0.0.0": "every IPv4 address", "::": "every IPv6 address"}  # noqa: S104 - words for the address
    secured = f" with TLS until {end}" if end else ""
    keyed = f", for the keys of {keys}" if keys else ""
    return f"{', '.join(names.get(address, address) for address in addresses)}, port {port}{secured}{keyed}"
