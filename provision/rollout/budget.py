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
    """Instances of one host that a run removes while making new instances, unknown to the balancers so far.

    Args:
        host: the host.
        count: the number of removed or of new instances, whichever is smaller.
    """

    host: Host
    count: int


class DisruptionBudget:
    """Decides whether instances may go out, by the inventory and the instances that are out already.

    Args:
        inventory: the whole inventory.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.replicas = Replicas(inventory)

    def allowed(self, host: Host, model: str) -> int:
        """Return how many instances of a model may be out at once, counted behind the same balancers.

        Args:
            host: a gpu host. Its `max_unavailable` counts; a percentage is rounded down, but never below 1.
            model: the model.
        """
        limit = host.serving.max_unavailable
        return limit if isinstance(limit, int) else max(1, int(share_of(limit) * self.replicas.count(host, model)))

    def fits(self, slot: Slot, out: Mapping[str, Slot]) -> bool:
        """Whether the instances of a slot may be out beside the instances that this run has taken out.

        A slot alone always fits, even above `max_unavailable`: its instances have to go together.

        Args:
            slot: the instances.
            out: label -> slot of all taken slots behind the same balancers. Slots of the same host do not count.
        """
        taken = [model for label, taken_slot in _of_others(slot, out).items() for model in taken_slot.models[label]]
        own = [model for models in slot.models.values() for model in models]
        return all(
            taken.count(model) + own.count(model) <= self.allowed(slot.host, model) for model in set(own) & set(taken)
        )

    def blockers(
        self, slot: Slot, out: Mapping[str, Slot], listed: Mapping[str, Member], unusable: Collection[str]
    ) -> dict[str, Member]:
        """Return the members that are down already and leave no room for a slot of instances with requests.

        A drained instance is an operator's wish. Drained members count only if the model would have no instance left.

        Args:
            slot: the instances to take out.
            out: label -> slot of all taken slots behind the same balancers.
            listed: label -> member, as the balancers have the members now.
            unusable: labels of instances with a lost card. Nothing waits for an unusable instance.
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
        """Return the hosts that rename more instances at once than may be out, each with the refusal.

        A renamed instance leaves under its old label, and the balancers learn the new label in the last wave. Until
        then every renamed instance is out.

        Args:
            renamings: of all hosts of the run.
        """
        refused: dict[str, RefusedError] = {}
        for renaming in renamings:
            for model in self.replicas.models_of(renaming.host):
                same = [other for other in renamings if self.replicas.stand_in(other.host, renaming.host, model)]
                count, allowed = sum(other.count for other in same), self.allowed(renaming.host, model)
                if count > allowed:
                    refused[renaming.host.name] = _too_many(declaring(renaming.host), model, count, allowed)
        return refused


def _of_others(slot: Slot, out: Mapping[str, Slot]) -> dict[str, Slot]:
    return {label: other for label, other in out.items() if other.host.name != slot.host.name}


def _too_many(role: str, model: str, count: int, allowed: int) -> RefusedError:
    served = f"instances of {model}" if model else "instances without a declared model"
    return RefusedError(
        f"this run would rename {count} {served}, and {role}.max_unavailable allows {allowed} of them to be out",
        f"rename fewer of them in one deploy: use --limit, or change their names in several steps; {NOTHING_CHANGED}",
    )


def are_out(labels: Iterable[str]) -> str:
    """`a is`, or `a, b are`.

    Args:
        labels: labels of instances.
    """
    text = ", ".join(labels)
    return f"{text} {'are' if ',' in text else 'is'}"
