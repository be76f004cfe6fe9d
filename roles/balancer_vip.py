"""The common address of several balancers, in the settings of the role `balancer`."""

import ipaddress
from collections.abc import Iterator

from pydantic import Field

from provision.errors import Problem
from provision.inventory import Address, Host, Inventory, Settings
from provision.inventory.settings import KeyPath

EVERYWHERE = "0.0.0.0"  # noqa: S104 - compared with, not bound
FEWEST = 2


class Vip(Settings):
    """One address that moves between the balancers, by keepalived (VRRP). Needs two balancers or more."""

    address: Address
    """IPv4 address for clients, in the network of the balancers, and of no host."""
    router_id: int = Field(default=51, ge=1, le=255)
    """VRRP's number of this group of balancers, unlike that of any other group in the same network."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield an address that no balancer can hold."""
        address = ipaddress.ip_address(self.address)
        if address.version != 4:
            yield ("address",), "must be an IPv4 address: instances and balancers of provision speak IPv4"
        elif address.is_unspecified or address.is_loopback or address.is_multicast:
            yield ("address",), "must be an address of the network of the balancers"


def problems(host: Host, inventory: Inventory, vip: Vip | None, listen: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a common address that this balancer cannot have, or has alone.

    Args:
        host: a balancer.
        inventory: the whole inventory.
        vip: the common address; None for none.
        listen: the addresses for clients.
    """
    if vip is None:
        return
    balancers = inventory.group("balancer")
    if len(balancers) < FEWEST:
        yield host.problem("balancer", ("vip",), "needs two hosts or more in the group balancer")
        return
    if EVERYWHERE not in listen:
        message = "does not go with `listen`: with a common address a balancer listens on 0.0.0.0"
        yield host.problem("balancer", ("vip",), message)
    taken = [other.name for other in inventory.hosts if other.connection.address == vip.address]
    if taken:
        yield host.problem("balancer", ("vip", "address"), f"is the address of {taken[0]}")
