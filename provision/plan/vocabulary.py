"""The words of an operator for the states of all steps of an inventory."""

from provision.inventory import Inventory
from provision.plan import role_interface
from provision.steps.wording import Vocabulary, Words


def vocabularies(inventory: Inventory) -> dict[str, Vocabulary]:
    """Return kind of a step, as its id begins -> what the keys of its states are called to an operator.

    Args:
        inventory: all hosts.
    """
    kinds: dict[str, dict[str, Words]] = {}
    for host in inventory.hosts:
        for entry in role_interface.steps(host, inventory):
            kinds.setdefault(entry.step.id.partition(":")[0], {}).update(entry.step.words)
    return dict(kinds)
