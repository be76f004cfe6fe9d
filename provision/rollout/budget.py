"""The disruption budget: how many instances of a model may be out of the upstream at once. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from provision.errors import RefusedError
from provision.inventory import Host, Inventory, share_of
from provision.plan.planner import NOTHING_CHANGED
from provision.plan.role_interface import declaring
from provision.rollout.members import Slot
from provision.rollout.replicas import Replicas
from provision.steps.nginx.upstream import Member


@dataclass(frozen=True)
class Renaming:
    """Instances of one host that a run removes while it makes others there, which the balancers do not know yet.

    Args:
        host: the host.
        count: how many: the smaller number of those removed and those made.
    """

    host: Host
    count: int


class DisruptionBudget:
    """Says whether instances may go out, by the inventory and what is out already.

    Args:
        inventory: all of it.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.replicas = Replicas(inventory)

    def allowed(self, host: Host, model: str) -> int:
        """How many instances of a model may be out at once, of those behind the same balancers as a host's.

        Args:
            host: a gpu host; its `max_unavailable` counts, a share rounded down, but at least 1.
            model: the model.
        """
        limit = host.serving.max_unavailable
        return limit if isinstance(limit, int) else max(1, int(share_of(limit) * self.replicas.count(host, model)))

    def fits(self, slot: Slot, out: Mapping[str, Slot]) -> bool:
        """Whether instances may be out beside those that this run has taken out.

        Alone, as many may be out as must be together.

        Args:
            slot: the instances.
            out: label -> slot of all that takes room behind the same balancers; those of the same host do not count.
        """
        taken = [model for label, other in _of_others(slot, out).items() for model in other.models[label]]
        own = [model for models in slot.models.values() for model in models]
        return all(
            taken.count(model) + own.count(model) <= self.allowed(slot.host, model) for model in set(own) & set(taken)
        )

    def blockers(
        self, slot: Slot, out: Mapping[str, Slot], listed: Mapping[str, Member], unusable: Collection[str]
    ) -> dict[str, Member]:
        """The members of the upstream that are down already and leave no room for instances that still get requests.

        A drained instance is an operator's wish: it counts only where without it none of the model would be left.

        Args:
            slot: the instances that are to go out.
            out: label -> slot of all that takes room behind the same balancers.
            listed: label -> member, as the balancers have it now.
            unusable: labels of instances that lost a card: nobody waits for them.
        """
        others = _of_others(slot, out)
        own_host = {label for label in listed if self.replicas.host_of(label) == slot.host.name}
        gone = own_host - self.replicas.declared(slot.host)
        aside = {*slot.at, *others, *gone, *unusable}
        seen = {label: member for label, member in listed.items() if label not in aside}
        taken = [model for label, other in others.items() for model in other.models[label]]
        taken += [model for models in slot.models.values() for model in models]
        blocking: set[str] = set()
        for model in {model for label in slot.at if label not in slot.down for model in slot.models[label]}:
            replicas = self.replicas.serving(model, listed) & seen.keys()
            drained = {label for label in replicas if seen[label].drained}
            down = {label for label in replicas - drained if seen[label].down}
            allowed = self.allowed(slot.host, model) - taken.count(model)
            if down and len(down) > allowed:
                blocking |= down
            if drained == replicas - down and drained and len(drained | down) > allowed:
                blocking |= drained
        return {label: seen[label] for label in blocking}

    def refuse_renaming(self, renamings: Sequence[Renaming]) -> dict[str, RefusedError]:
        """The hosts on which more instances are renamed at once than may be out, each with the refusal.

        An instance that is renamed goes under its old label, and the balancers learn the new one in the last wave of
        the run: until then every renamed instance is out.

        Args:
            renamings: of all hosts of the run.
        """
        refused: dict[str, RefusedError] = {}
        for renaming in renamings:
            for model in self.replicas.models_of(renaming.host):
                same = [other for other in renamings if self.replicas.stand_in(other.host, renaming.host, model)]
                count, allowed = sum(other.count for other in same), self.allowed(renaming.host, model)
                if count > allowed:
                    refused[renaming.host.name] = _too_many(model, count, allowed)
        return refused


def _of_others(slot: Slot, out: Mapping[str, Slot]) -> dict[str, Slot]:
    return {label: other for label, other in out.items() if other.host.name != slot.host.name}


def _too_many(model: str, count: int, allowed: int) -> RefusedError:
    served = f"instances of {model}" if model else "instances without a declared model"
    return RefusedError(
        f"this run would rename {count} {served}, and {declaring()}.max_unavailable allows {allowed} of them to be out",
        f"rename fewer of them in one deploy: use --limit, or change their names in several steps; {NOTHING_CHANGED}",
    )


def are_out(labels: Iterable[str]) -> str:
    """`a is`, or `a, b are`.

    Args:
        labels: labels of instances.
    """
    text = ", ".join(labels)
    return f"{text} {'are' if ',' in text else 'is'}"
