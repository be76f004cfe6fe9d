"""Sites: which instances a balancer prefers. The checks of `balancer.site`, and of the sites of instances."""

from collections.abc import Iterator

from provision.errors import Problem
from provision.inventory import Host, Inventory, shared_settings
from provision.roles.balancer_words import few


def problems(host: Host, inventory: Inventory, settings: shared_settings.BalancerSettings) -> Iterator[Problem]:
    """Yield sites that only some hosts have, and sites that a balancer cannot serve.

    Args:
        host: a balancer.
        inventory: the whole inventory.
        settings: of the balancer.
    """
    balancers = inventory.group("balancer")
    gpu = {peer.name: peer.instances[0].site for peer in inventory.hosts if peer.gpu and peer.instances}
    sites = {balancer.name: shared_settings.balancer(balancer).site for balancer in balancers}
    all_sites = [*gpu.items(), *sites.items()]  # a host may be in both groups
    without = sorted({name for name, site in all_sites if not site})
    if not any(site for _, site in all_sites):
        return
    if not balancers:
        yield host.problem(
            "balancer", ("site",), "needs a group balancer: here each gpu host balances its own instances"
        )
        return
    if without:
        rule = "each gpu host and each balancer has a site, or none has"
        yield host.problem("balancer", ("site",), f"does not go with hosts without a site ({few(without)}): {rule}")
    if settings.router != "njs":
        yield host.problem("balancer", ("site",), "needs `router: njs` (docs/sites.md)")
    others = sorted(name for name, site in sites.items() if site != settings.site)
    if settings.vip and others:
        told = f"is not for balancers of different sites ({few(others)}): an address belongs to one network"
        yield host.problem("balancer", ("vip",), told)
