"""The context and the requests at once that an instance takes by itself: the most that its cards have room for.

The proposal goes in steps, so that a few MiB of another program change nothing, and is held against what the instance
has: an instance is not restarted for a step that might have to be taken back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from provision.capacity import architectures
from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions
from provision.capacity.estimate import MIB, Estimate, Request, cache_type, estimate, with_own_context
from provision.capacity.verdict import LEAST_CONTEXT, placed

USUAL_CONTEXT = 8192
"""The default of `ollama.context_length`. A second request at once is worth no shorter context."""
MOST_PARALLEL = 4
"""Earlier servers took 4 requests at once where 4 had room, and else 1; by now the server takes 1. Source: ollama
`server/sched.go`, `defaultParallel` of July 2024."""
NOISE = 1024 * MIB
"""The memory by which other programs on a card may vary without an effect on the proposal."""


@dataclass(frozen=True)
class Choice:
    """A context and a number of requests at once.

    Args:
        context: tokens of one request.
        parallel: requests answered at once.
    """

    context: int
    parallel: int


@dataclass(frozen=True)
class Wish:
    """The fixed and the open numbers of an instance.

    Args:
        context: tokens of one request; 0 for a proposal.
        parallel: requests answered at once; 0 for a proposal.
        cache_type: type of the numbers of the cache.
        at_once: how many models the instance keeps loaded at once.
    """

    context: int
    parallel: int
    cache_type: str = "f16"
    at_once: int = 1

    @property
    def least(self) -> Choice:
        """The smallest numbers that are proposed."""
        return Choice(self.context or LEAST_CONTEXT, self.parallel or 1)

    @property
    def usual(self) -> Choice:
        """The numbers of an instance about whose models nothing is known."""
        return Choice(self.context or USUAL_CONTEXT, self.parallel or 1)


def choices(models: Sequence[Dimensions], wish: Wish) -> list[Choice]:
    """Return all numbers that may be proposed, the best first: requests at once before context, because the context
    takes all room that is left.

    No context is longer than the longest training context of the models.

    Args:
        models: the models of the instance; at least one.
        wish: the fixed numbers.
    """
    contexts = [wish.context] if wish.context else _contexts(models)
    one_slot = all(model.architecture in architectures.ONE_SLOT for model in models)
    parallels = [MOST_PARALLEL >> shift for shift in range(MOST_PARALLEL.bit_length())]
    parallels = [wish.parallel] if wish.parallel else [1] if one_slot else parallels
    worth = 0 if wish.context or wish.parallel else min(USUAL_CONTEXT, contexts[0])
    return [
        Choice(context, parallel) for parallel in parallels for context in contexts if parallel == 1 or context >= worth
    ]


def propose(models: Sequence[Dimensions], wish: Wish, cards: Sequence[Card]) -> Choice | None:
    """Return the best numbers that have room, also if other programs on the cards take a little more; None if nothing
    has room.

    Args:
        models: the models of the instance; at least one.
        wish: the fixed numbers.
        cards: the cards of the instance; at least one.
    """
    order = choices(models, wish)
    if not fits(models, wish, order[-1], cards):
        return None
    rooms = [cards, _with_noise(cards)]
    return _first(models, wish, order, rooms) or _first(models, wish, order, [cards])


def keeps(models: Sequence[Dimensions], wish: Wish, cards: Sequence[Card], current: Choice) -> bool:
    """Return whether an instance keeps its numbers: they have room, and no better numbers have room to spare. Where
    nothing has room, a restart would bring nothing.

    The proposal of `propose` for the same cards is always kept.

    Args:
        models: the models of the instance; at least one.
        wish: the fixed numbers.
        cards: the cards of the instance; at least one.
        current: the numbers of the instance.
    """
    order = choices(models, wish)
    if current not in order:
        return False
    if not fits(models, wish, order[-1], cards):
        return True
    if not fits(models, wish, current, cards):
        return False
    noisy = _with_noise(cards)
    rooms = [cards, noisy, _with_noise(noisy, everywhere=True)]
    return _first(models, wish, order[: order.index(current)], rooms) is None


def fits(models: Sequence[Dimensions], wish: Wish, choice: Choice, cards: Sequence[Card]) -> bool:
    """Return whether the largest models of an instance, as many as are loaded at once, have room on its cards together.

    Args:
        models: the models of the instance.
        wish: type of the cache, and models at once.
        choice: context and requests at once.
        cards: the cards of the instance; at least one.
    """
    chosen = Request(choice.context, choice.parallel, wish.cache_type)
    pairs = [(model, with_own_context(model, chosen)) for model in models]
    largest = sorted(pairs, key=lambda pair: (-estimate(*pair).total, pair[0].name))
    room = list(cards)
    for model, request in largest[: wish.at_once]:
        possible = cache_type(model, request) == "f16" or model.quantisable
        shares = placed(model, request, room) if possible else None
        if not shares:
            return False
        room = occupied(shares, room)
    return True


def occupied(shares: Sequence[Estimate], cards: Sequence[Card]) -> list[Card]:
    """Return the cards with a model on them. The margin stays free once, whatever is loaded.

    Args:
        shares: what the model takes of each used card, from `placed`.
        cards: the cards before.
    """
    used = [share.total - share.margin for share in shares]
    order = list(range(len(cards)))
    if len(used) == 1:
        order.sort(key=lambda number: -cards[number].free)
    taken = dict(zip(order, used, strict=False))
    return [
        dataclasses.replace(card, used_by_others=card.used_by_others + more, beside=card.beside + more)
        for number, card in enumerate(cards)
        for more in (taken.get(number, 0),)
    ]


def _contexts(models: Sequence[Dimensions]) -> list[int]:
    """Return the contexts that may be proposed, the longest first: powers of two, and the models' own."""
    most = max(model.training_context for model in models) or USUAL_CONTEXT
    steps = [most]
    step = LEAST_CONTEXT
    while step < most:
        steps.append(step)
        step *= 2
    return sorted(steps, reverse=True)


def _first(
    models: Sequence[Dimensions], wish: Wish, order: Sequence[Choice], rooms: Sequence[Sequence[Card]]
) -> Choice | None:
    """Return the first choice that fits all of several rooms."""
    return next((choice for choice in order if all(fits(models, wish, choice, room) for room in rooms)), None)


def _with_noise(cards: Sequence[Card], *, everywhere: bool = False) -> list[Card]:
    """Return the cards with a little more used: where other programs are, or everywhere."""
    return [
        dataclasses.replace(card, used_by_others=card.used_by_others + NOISE) if everywhere or card.foreign else card
        for card in cards
    ]
