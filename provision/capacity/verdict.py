"""Whether a model fits into cards, and what fits instead."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions
from provision.capacity.estimate import (
    CONTEXT_STEP,
    GIB,
    Estimate,
    Request,
    cache_type,
    context_of_slot,
    estimate,
    slots,
    split,
)

LEAST_CONTEXT = 4096
"""No shorter context is proposed: the server's own least default. Source: ollama `server/routes.go`."""
MOST_CARDS = 16
"""No larger number of cards is proposed: hosts with more cards are rare."""


class Kind(Enum):
    """The answer in a word."""

    FITS = "fits"
    CONTEXT = "fits with a shorter context"
    CACHE = "fits with q8_0"
    CARDS = "needs more cards"
    NO = "does not fit"


@dataclass(frozen=True)
class Verdict:
    """The answer with its terms.

    Args:
        kind: the answer.
        wanted: what was asked.
        proposal: what fits: `wanted`, or with another context or type of cache; None if nothing fits these cards.
        cards_needed: number of cards, like the largest given, that serve `wanted`; 0 if no number of up to
            `MOST_CARDS` does.
        need: terms of the wish on one card.
        shares: terms of each card with the proposal; empty without a proposal.
        free: bytes that a model can have, on all cards together.
        sentence: the answer for people, called an estimate.
    """

    kind: Kind
    wanted: Request
    proposal: Request | None
    cards_needed: int
    need: Estimate
    shares: tuple[Estimate, ...]
    free: int
    sentence: str


def judge(dimensions: Dimensions, request: Request, cards: Sequence[Card]) -> Verdict:
    """Say whether a model fits into the cards of an instance, and what fits instead.

    Args:
        dimensions: of the model.
        request: what to serve.
        cards: the cards of one instance; at least one.

    Raises:
        ValueError: there is no card.
    """
    if not cards:
        raise ValueError("a verdict needs at least one card")
    possible = cache_type(dimensions, request) == "f16" or dimensions.quantisable
    kind, proposal = _proposal(dimensions, request, cards) if possible else (Kind.NO, None)
    needed = cards_needed(dimensions, request, cards) if possible else 0
    if kind is Kind.NO and needed and not _fits_emptied(dimensions, request, cards):
        kind = Kind.CARDS
    shares = (proposal and placed(dimensions, proposal, cards)) or ()
    need = estimate(dimensions, request)
    free = sum(card.free for card in cards)
    text = _sentence(dimensions, request, kind, proposal, needed, len(shares), cards)
    return Verdict(kind, request, proposal, needed, need, shares, free, text)


def placed(dimensions: Dimensions, request: Request, cards: Sequence[Card]) -> tuple[Estimate, ...] | None:
    """Return the need of each used card, or None if the model has no room. One card is enough where the model fits.

    Source: ollama's FAQ, "How does Ollama load models on multiple GPUs?".

    Args:
        dimensions: of the model.
        request: what to serve.
        cards: the cards of one instance.
    """
    whole = estimate(dimensions, request)
    if any(whole.total <= card.free for card in cards):
        return (whole,)
    return split(dimensions, request, cards)


def largest_context(dimensions: Dimensions, request: Request, cards: Sequence[Card], most: int | None = None) -> int:
    """Return the longest context in tokens that fits, of multiples of 256; 0 if not even 256 tokens fit.

    Args:
        dimensions: of the model.
        request: the wish; its context does not count.
        cards: the cards of one instance.
        most: the longest context to try; by default the training context, or the wish where that is unknown.
    """
    limit = most or dimensions.training_context or request.context
    low, high = 0, max(limit // CONTEXT_STEP, 1)
    while low < high:
        middle = (low + high + 1) // 2
        tried = dataclasses.replace(request, context=middle * CONTEXT_STEP)
        if placed(dimensions, tried, cards):
            low = middle
        else:
            high = middle - 1
    return low * CONTEXT_STEP


def cards_needed(dimensions: Dimensions, request: Request, cards: Sequence[Card]) -> int:
    """Return the least number of cards, like the largest given card without foreign users, for a wish; 0 if
    `MOST_CARDS` are too few.

    Args:
        dimensions: of the model.
        request: what to serve.
        cards: cards; the largest counts.
    """
    largest = max((card.emptied for card in cards), key=lambda card: card.free)
    for number in range(1, MOST_CARDS + 1):
        if placed(dimensions, request, [largest] * number):
            return number
    return 0


def _proposal(dimensions: Dimensions, request: Request, cards: Sequence[Card]) -> tuple[Kind, Request | None]:
    """Return the wish if the wish fits, else a shorter context, else a quantised cache."""
    if placed(dimensions, request, cards):
        return Kind.FITS, request
    wanted = context_of_slot(dimensions, request)
    context = largest_context(dimensions, request, cards, wanted)
    if context >= LEAST_CONTEXT:
        return Kind.CONTEXT, dataclasses.replace(request, context=context)
    if request.cache_type == "f16" and dimensions.quantisable:
        quantised = dataclasses.replace(request, cache_type="q8_0")
        if placed(dimensions, quantised, cards):
            return Kind.CACHE, quantised
        context = largest_context(dimensions, quantised, cards, wanted)
        if context >= LEAST_CONTEXT:
            return Kind.CACHE, dataclasses.replace(quantised, context=context)
    return Kind.NO, None


def _sentence(
    dimensions: Dimensions,
    request: Request,
    kind: Kind,
    proposal: Request | None,
    needed: int,
    used: int,
    cards: Sequence[Card],
) -> str:
    """Return the answer for people."""
    kept = cache_type(dimensions, request)
    asked = f"context {context_of_slot(dimensions, request)} x {slots(dimensions, request)}, cache {kept}"
    if kept != request.cache_type:
        asked += f" in place of {request.cache_type}"
    need = gib(estimate(dimensions, request).total)
    counted = Counter(cards)
    rooms = ", ".join(
        f"{card.name} has {gib(card.free)}" if number == 1 else f"{number} x {card.name} have {gib(card.free)} each"
        for card, number in counted.items()
    )
    head = f"estimate: {dimensions.name} ({asked}) needs {need} GiB of one card; {rooms}"
    if kept != "f16" and not dimensions.quantisable:
        return f"{head}: does not fit, because the server has no {request.cache_type} for this model; take f16"
    if kind is Kind.FITS:
        return f"{head}: fits" + (f", spread over {used} cards" if used > 1 else "")
    alternatives = _alternatives(dimensions, request, proposal, needed, cards)
    return f"{head}: {'; '.join(alternatives) or 'does not fit'}"


def _fits_emptied(dimensions: Dimensions, request: Request, cards: Sequence[Card]) -> bool:
    """Whether a wish fits the cards without their present users."""
    emptied = [card.emptied for card in cards]
    return emptied != list(cards) and placed(dimensions, request, emptied) is not None


def _alternatives(
    dimensions: Dimensions, request: Request, proposal: Request | None, needed: int, cards: Sequence[Card]
) -> list[str]:
    """Return what fits instead of the wish."""
    found = []
    if proposal is not None:
        shorter = f"context {proposal.context}" if proposal.context != request.context else ""
        other = f"cache {proposal.cache_type}" if proposal.cache_type != request.cache_type else ""
        found.append("fits with " + " and ".join(filter(None, (shorter, other))))
    taken = sum(card.taken for card in cards)
    if taken:
        found.append(f"other users hold {gib(taken)} GiB of these cards")
    if _fits_emptied(dimensions, request, cards):
        found.append("as asked the model fits these cards without other users")
    elif needed:
        largest = max((card.emptied for card in cards), key=lambda card: card.free)
        found.append(f"as asked the model needs {needed} x {largest.name}" + (" without other users" if taken else ""))
    elif taken and proposal is None:
        found.append("does not fit")
    return found


def gib(size: int) -> str:
    """Return bytes as GiB with one decimal."""
    return f"{size / GIB:.1f}"
