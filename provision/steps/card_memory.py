"""The memory of the cards of an instance, less the driver and other programs. The instance's own memory counts as free.

Source: `nvidia-smi` tells the memory that each process holds (`HostFacts.foreign`).
"""

from collections.abc import Sequence

from provision.capacity import cards as catalogue
from provision.capacity.cards import MIB, Card
from provision.steps.facts import HostFacts


def cards_of(gpus: Sequence[int | str], facts: HostFacts) -> list[Card] | str:
    """Return the cards of an instance with their other users, or why the memory of a card is not known.

    Args:
        gpus: the cards, as the inventory names them.
        facts: facts about the host.
    """
    found = []
    for gpu in gpus:
        card = facts.card(gpu)
        if card is None or not card.memory_mib:
            return f"nobody tells the memory of card {gpu}"
        if card.mig:
            return f"card {gpu} is divided by MIG"
        named = catalogue.named(card.name)
        reserved = named.used_by_others if named else catalogue.RESERVED * MIB
        others = facts.foreign.get(card.uuid, 0) * MIB
        found.append(Card(card.name, card.memory_mib * MIB, reserved + others, others))
    return found
