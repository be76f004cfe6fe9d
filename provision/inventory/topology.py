"""Who sends to whom: which hosts are balancers, and over whose instances each of them balances. By the inventory alone.

Without a group `balancer` every gpu host is the balancer of its own instances and of no others.
"""

from provision.inventory.model import Host, Inventory


def is_balancing(host: Host, inventory: Inventory) -> bool:
    """Return whether a host is a balancer: of that group, or with no such group every gpu host is its own."""
    return host.balancer if inventory.group("balancer") else host.gpu


def sources(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the hosts whose instances this balancer sends to, in the order of the inventory.

    Args:
        host: a balancer, as `is_balancing` says.
        inventory: all of it.
    """
    return tuple(other for other in inventory.hosts if other.gpu) if inventory.group("balancer") else (host,)


def balancers(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the hosts that send to this host's instances: the balancers, or without any the host itself.

    Args:
        host: a host whose instances run, or ran, on it.
        inventory: all of it.
    """
    return inventory.group("balancer") or (host,)


def remote_balancers(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the balancers of this host that are other machines."""
    return tuple(other for other in balancers(host, inventory) if other.name != host.name)


def counterparts(host: Host, inventory: Inventory) -> tuple[Host, ...]:
    """Return the other hosts that this one exchanges requests with: a gpu host's balancers, a balancer's gpu hosts.

    A host must know the way to the address of each. A host that is both exchanges requests with both.
    """
    others = [other for other in inventory.hosts if other.name != host.name and (other.gpu or other.balancer)]
    opposite = [peer for peer in others if peer.gpu != host.gpu]
    both = [peer for peer in others if peer.gpu == host.gpu and peer.balancer and host.gpu]
    return (*opposite, *both)
