"""The replicas of a model: instances that stand in for each other, by the inventory. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from provision.inventory import Host, Instance, Inventory, topology
from provision.steps.nginx.upstream import label


@dataclass(frozen=True)
class Replicas:
    """Who serves which model.

    Args:
        inventory: all of it.
    """

    inventory: Inventory

    def host_of(self, name: str) -> str:
        """The host of a label; empty where the inventory has none such."""
        place = name.rpartition("/")[0]
        return next((one.name for one in self.inventory.hosts if _place(one) == place), "")

    def models(self, host: Host, names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Label -> models; what has none counts as one of the model without a name.

        Args:
            host: the host of all of them.
            names: labels. One that is not declared any more counts for all models that its host is to serve: who
                takes its place is not in the upstream yet.
        """
        own = {label(host.name, one.name): _models(one) for one in host.instances}
        every = tuple(dict.fromkeys(model for models in own.values() for model in models)) or ("",)
        return {name: own.get(name, every) for name in names}

    def models_of(self, host: Host) -> frozenset[str]:
        """The models that a host is to serve; the model without a name for an instance without any."""
        return frozenset(model for instance in host.instances for model in _models(instance))

    def stand_in(self, host: Host, other: Host, model: str) -> bool:
        """Whether two hosts serve a model behind the same balancers."""
        same = topology.balancers(host, self.inventory) == topology.balancers(other, self.inventory)
        return same and model in self.models_of(host) & self.models_of(other)

    def declared(self, host: Host) -> frozenset[str]:
        """The labels of a host's instances."""
        return frozenset(label(host.name, one.name) for one in host.instances)

    def all_declared(self) -> frozenset[str]:
        """The labels of all instances of the inventory."""
        return frozenset(name for host in self.inventory.hosts for name in self.declared(host))

    def serving(self, model: str, listed: Collection[str]) -> set[str]:
        """Those of an upstream that are there for a model.

        Args:
            model: its name.
            listed: labels of everything in the upstream. What is not declared counts until its host's are listed.
        """
        found: set[str] = set()
        for host in self.inventory.hosts:
            own = {name for name in listed if name.rpartition("/")[0] == _place(host)}
            declared = self.declared(host)
            counted = own if declared - own else own & declared
            found |= {name for name, models in self.models(host, counted).items() if model in models}
        return found

    def count(self, host: Host, model: str) -> int:
        """How many instances serve a model behind the same balancers as a host's."""
        behind = topology.balancers(host, self.inventory)
        gpu_hosts = (other for other in self.inventory.hosts if other.gpu)
        alike = (other for other in gpu_hosts if topology.balancers(other, self.inventory) == behind)
        return sum(model in _models(instance) for other in alike for instance in other.instances)


def _models(instance: Instance) -> tuple[str, ...]:
    return instance.models or ("",)


def _place(host: Host) -> str:
    return label(host.name, "").rstrip("/")
