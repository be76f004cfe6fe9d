"""Which hosts are balancers, and to whose instances each balancer sends. By the inventory alone.

Without a group `balancer` every gpu host balances its own instances and no others.
"""

from provision.inventory.model import Host, Inventory


def is_balancing(host: Host, inventory: Inventory) -> bool:
    """Return whether a host is a balancer: a member of the group, or without such a group any gpu host."""
    return host.balancer if inventory.group("balancer") else host.gpu


def sources(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the hosts whose instances a balancer sends to, in the order of the inventory.

    Args:
        host: a balancer by `is_balancing`.
        inventory: the whole inventory.
    """
    return tuple(other for other in inventory.hosts if other.gpu) if inventory.group("balancer") else (host,)


def balancers(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the hosts that send to a host's instances: the balancers, or without any the host itself.

    Args:
        host: a host that runs, or ran, instances.
        inventory: the whole inventory.
    """
    return inventory.group("balancer") or (host,)


def remote_balancers(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the balancers of a host that are separate machines."""
    return tuple(other for other in balancers(host, inventory) if other.name != host.name)


def counterparts(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the hosts that exchange requests with a host: a gpu host's balancers, a balancer's gpu hosts.

    A host needs a route to the address of each. A host that is both exchanges requests with both.
    """
    others = [other for other in inventory.hosts if other.name != host.name and (other.gpu or other.balancer)]
    opposite = [peer for peer in others if peer.gpu != host.gpu]
    both = [peer for peer in others if peer.gpu == host.gpu and peer.balancer and host.gpu]
    return (*opposite, *both)
