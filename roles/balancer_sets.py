"""The replica sets of a balancer by the inventory, and a sentence about them."""

from collections import Counter
from collections.abc import Sequence

from provision.inventory import Host, Inventory, shared_settings
from provision.inventory.topology import sources
from provision.roles import balancer_names
from provision.roles.balancer_words import few
from provision.steps.nginx.model_routes import PREFIX
from provision.steps.nginx.replica_sets import ReplicaSet, pools_of, replica_sets, sites_of


def of(host: Host, inventory: Inventory) -> tuple[ReplicaSet, ...]:
    """Return the replica sets of a balancer, by the inventory.

    Args:
        host: the balancer.
        inventory: all hosts.
    """
    instances = [instance for source in sources(host, inventory) for instance in source.instances]
    weights = {f"{own.host}/{own.name}": own.weight for own in instances}
    served = {f"{own.host}/{own.name}": balancer_names.served(own) for own in instances}
    pools = {f"{own.host}/{own.name}": own.pool for own in instances}
    own = shared_settings.balancer(host).site
    sites = {f"{each.host}/{each.name}": each.site for each in instances if each.site != own}
    return replica_sets(served, balancer_names.traffic(instances), weights, pools=pools, sites=sites)


def note(sets: Sequence[ReplicaSet], router: str) -> str:
    """Return what a reader of the inventory may not expect of several replica sets; empty for nothing.

    Args:
        sets: the replica sets of a balancer.
        router: how a request at the root finds the instances of its model.
    """
    pools: dict[str, list[str]] = {}
    for label, pool in pools_of(sets).items():
        pools.setdefault(pool, []).append(label)
    sites: dict[str, list[str]] = {}
    for label, site in sites_of(sets).items():
        sites.setdefault(site, []).append(label)
    if len(sets) < 2 and not any(pools) and not any(sites):
        return ""
    root, others = sets[0].models, [model for replicas in sets[1:] for model in replicas.models]
    counts = Counter(label for replicas in sets for label in replicas.labels)
    idle = [label for replicas in sets if not replicas.models for label in replicas.labels]
    shared = [label for label, count in counts.items() if count > 1]
    by_path = router == "none"
    parts = [f"the root of the balancer serves {few(root)} only"] if by_path else []
    parts += [f"clients reach {few(others)} at {PREFIX}NAME/"] if by_path and others else []
    parts += [_shares(each, sets) for each in sets if each.shares]
    parts += [f"{few(labels)} serve clients of the pool {pool} alone" for pool, labels in pools.items() if pool]
    parts += [
        f"{few(labels)} of the site {site} serve only where no instance of this balancer's site can"
        for site, labels in sites.items()
        if site
    ]
    parts += [f"the requests at once of {few(shared)} are divided among its upstreams"] if shared else []
    parts += [f"nothing is sent to {few(idle)}, which has no models in the inventory"] if idle else []
    page = "grey-release" if any(replicas.shares for replicas in sets) else "serve-two-models"
    page = "keys" if any(pools) else "add-a-site" if any(sites) else page
    return f"{'; '.join(parts)} (docs/runbooks/{page}.md)" if parts else ""


def _shares(replicas: ReplicaSet, sets: Sequence[ReplicaSet]) -> str:
    where = f" in the pool {replicas.pool}" if replicas.pool else ""
    return f"requests for {few(replicas.models)}{where} go to {balancer_names.percents(replicas, sets)}"
