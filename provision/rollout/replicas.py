"""The replicas of a model: instances that replace each other, by the inventory. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from provision.inventory import Host, Instance, Inventory, topology
from provision.steps import engines
from provision.steps.nginx.upstream import label


@dataclass(frozen=True)
class Replicas:
    """The instances of each model. A model has the first of its names in the inventory.

    Args:
        inventory: the whole inventory.
    """

    inventory: Inventory

    def host_of(self, name: str) -> str:
        """Return the host of a label; empty if the inventory has no such host."""
        place = name.rpartition("/")[0]
        return next((host.name for host in self.inventory.hosts if _place(host) == place), "")

    def models(self, host: Host, names: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return label -> models. An instance without models counts for a model without a name.

        Args:
            host: the host of all labels.
            names: labels. A label that is no longer declared counts for all models of its host, because the successor
                is not in the upstream yet.
        """
        own = {label(host.name, instance.name): self._models(instance) for instance in host.instances}
        every = tuple(dict.fromkeys(model for models in own.values() for model in models)) or ("",)
        return {name: own.get(name, every) for name in names}

    def models_of(self, host: Host) -> frozenset[str]:
        """Return the models of a host; an instance without models counts for a model without a name."""
        return frozenset(model for instance in host.instances for model in self._models(instance))

    def stand_in(self, host: Host, other: Host, model: str) -> bool:
        """Whether two hosts serve a model behind the same balancers."""
        same = topology.balancers(host, self.inventory) == topology.balancers(other, self.inventory)
        return same and model in self.models_of(host) & self.models_of(other)

    def declared(self, host: Host) -> frozenset[str]:
        """Return the labels of a host's instances."""
        return frozenset(label(host.name, instance.name) for instance in host.instances)

    def all_declared(self) -> frozenset[str]:
        """Return the labels of all instances of the inventory."""
        return frozenset(name for host in self.inventory.hosts for name in self.declared(host))

    def serving(self, model: str, listed: Collection[str]) -> set[str]:
        """Return the labels of an upstream that serve a model.

        Args:
            model: the name of the model.
            listed: labels of all members. Undeclared members count until their host's declared instances are listed.
        """
        labels: set[str] = set()
        for host in self.inventory.hosts:
            own = {name for name in listed if name.rpartition("/")[0] == _place(host)}
            declared = self.declared(host)
            counted = own if declared - own else own & declared
            labels |= {name for name, models in self.models(host, counted).items() if model in models}
        return labels

    def count(self, host: Host, model: str) -> int:
        """Count the instances of a model behind the same balancers as a host."""
        behind = topology.balancers(host, self.inventory)
        gpu_hosts = (other for other in self.inventory.hosts if other.gpu)
        alike = (other for other in gpu_hosts if topology.balancers(other, self.inventory) == behind)
        return sum(model in self._models(instance) for other in alike for instance in other.instances)

    def _models(self, instance: Instance) -> tuple[str, ...]:
        """Return the models of an instance; a model without a name for an instance without models.

        A model of a pool counts as a model of its own: no instance outside of a pool replaces an instance in the pool.
        So does a model of a site: a roll leaves each site its instances.
        """
        names = (self._names.get(_canonical(instance, model), model) for model in instance.names)
        within = f" of the pool {instance.pool}" if instance.pool else ""
        within += f" at the site {instance.site}" if instance.site else ""
        return tuple(f"{name}{within}" for name in dict.fromkeys(names)) or ("",)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """The first name of each model: instances may write `gemma3` and `gemma3:latest`."""
        instances = [instance for host in self.inventory.hosts for instance in host.instances]
        named = [(_canonical(instance, model), model) for instance in instances for model in instance.names]
        return dict(reversed(named))


def _canonical(instance: Instance, model: str) -> str:
    """Return the one form of a model's name: the engine takes a name without its tag, and in any case."""
    return engines.of(instance).canonical(model).lower()


def _place(host: Host) -> str:
    return label(host.name, "").rstrip("/")
