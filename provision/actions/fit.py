"""What fits into named cards, without hosts: `provision fit --model` and `provision fit --table`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from provision.capacity import catalogue
from provision.capacity.cards import TOTAL, Card, named
from provision.capacity.dimensions import Dimensions
from provision.capacity.estimate import Request, context_of_slot, slots, with_own_context
from provision.capacity.verdict import LEAST_CONTEXT, Kind, Verdict, cards_needed, judge, largest_context
from provision.errors import UsageError
from provision.inventory.near import clip, nearest

MOST_GIVEN = 64
"""No larger number of cards is accepted in one instance."""
_UNIT = {"mib": 1 << 20, "gib": 1 << 30}


@dataclass(frozen=True)
class Wish:
    """What to judge.

    Args:
        model: a model of the table, such as `deepseek-r1:32b`.
        gpus: cards of one instance, such as `RTX 4090`, `4x RTX 4090` or `48GiB`.
        request: what to serve.
        quantisation: `Q4_K_M`, `Q8_0` or `F16`; empty for that of the model's name.
    """

    model: str
    gpus: Sequence[str]
    request: Request
    quantisation: str = ""


@dataclass(frozen=True)
class Fit:
    """The judgement of a wish.

    Args:
        dimensions: of the model.
        cards: the cards.
        verdict: the judgement.
        remarks: sentences for the operator.
    """

    dimensions: Dimensions
    cards: tuple[Card, ...]
    verdict: Verdict
    remarks: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if the wish fits, else 5."""
        return 0 if self.verdict.kind is Kind.FITS else 5


@dataclass(frozen=True)
class Cell:
    """A model and a kind of card in the table.

    Args:
        model: of the table of models.
        quantisation: of the weights.
        fits: whether one card serves the context of the table.
        context: the longest context in tokens that one card serves, from 4096 on; 0 if none.
        cards: the least number of such cards that serve the context of the table; 0 if `MOST_CARDS` are too few.
    """

    model: str
    quantisation: str
    fits: bool
    context: int
    cards: int


@dataclass(frozen=True)
class Table:
    """Every card of the table of cards with every model of the table of models.

    Args:
        request: what a card has to serve.
        rows: card -> cells, in the order of the models and then of the quantisations.
    """

    request: Request
    rows: tuple[tuple[Card, tuple[Cell, ...]], ...]


def fit(wish: Wish, ask: Callable[[str], Dimensions] | None = None) -> Fit:
    """Judge whether a model fits into named cards. A model outside of the table is asked from its registry.

    Args:
        wish: see `Wish`.
        ask: asks the registry of a model outside of the table, such as `engines.dimensions`; None asks nobody.

    Raises:
        UsageError: the model or a card is unknown, or there are too many cards.
        UnreachableError, GuardError: the table has no such model, and the registry tells none.
    """
    given = [card for text in wish.gpus for card in _cards(text)]
    if not 1 <= len(given) <= MOST_GIVEN:
        raise UsageError(f"an instance has 1 to {MOST_GIVEN} cards, not {len(given)}", 'such as --gpu "2x RTX 4090"')
    is_asked = ask is not None and not wish.quantisation and _is_elsewhere(wish.model)
    dimensions = ask(wish.model) if ask and is_asked else _model(wish.model, wish.quantisation)
    request = with_own_context(dimensions, wish.request)
    verdict = judge(dimensions, request, given)
    return Fit(dimensions, tuple(given), verdict, (*_own_context(dimensions), *_remarks(dimensions, request)))


def table(request: Request) -> Table:
    """Judge every model of the table on one card of each kind.

    Args:
        request: what to serve; a model with a shorter training context serves that context.
    """
    cards = [card for name in TOTAL if (card := named(name))]
    known: dict[int, tuple[Cell, ...]] = {}
    for card in cards:
        if card.free not in known:
            known[card.free] = tuple(
                _cell(model, quantisation, request, card)
                for model in catalogue.MODELS
                for quantisation in catalogue.QUANTISATIONS
            )
    return Table(request, tuple((card, known[card.free]) for card in cards))


def _cell(name: str, quantisation: str, request: Request, card: Card) -> Cell:
    dimensions = _model(name, quantisation)
    context = largest_context(dimensions, request, [card])
    needed = cards_needed(dimensions, request, [card])
    return Cell(name, quantisation, needed == 1, context if context >= LEAST_CONTEXT else 0, needed)


def _is_elsewhere(name: str) -> bool:
    """Whether a name can be a model outside of the table, and no misspelt model of the table: a name with a tag or a
    namespace."""
    family = name.partition(":")[0]
    if family == name and "/" not in name:
        return False
    is_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,200}", name) is not None
    return is_name and family not in {known.partition(":")[0] for known in catalogue.MODELS} and ".." not in name


def _model(name: str, quantisation: str) -> Dimensions:
    """Return the dimensions of a model of the table."""
    found = catalogue.dimensions(name, quantisation)
    if found is not None:
        return found
    near = nearest(name, catalogue.MODELS)
    meant = f"; did you mean {near}?" if near else ""
    hint = f"the table has {', '.join(catalogue.MODELS)}"
    raise UsageError(f"the table has no dimensions of {clip(name)!r}{meant}", hint)


def _cards(text: str) -> list[Card]:
    """Return the cards of one `--gpu`: a name of the table or a size of memory, and a number before an x."""
    match = re.fullmatch(r"\s*(?:(\d{1,4})\s*[x*]\s+|(\d{1,4})x)?(.{1,200}?)\s*", text, re.DOTALL)
    number, name = (int(match[1] or match[2] or 1), match[3]) if match else (1, text)
    if not 1 <= number <= MOST_GIVEN:
        raise UsageError(f"an instance has 1 to {MOST_GIVEN} cards, not {number}", 'such as --gpu "2x RTX 4090"')
    return [_sized(name) or named(name) or _unknown(name)] * number


def _sized(text: str) -> Card | None:
    """Return a card by its free memory, such as `48GiB` or `22528 MiB`."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(gib|mib)", text.strip().lower())
    if not match:
        return None
    size = int(float(match[1]) * _UNIT[match[2]])
    return Card(f"a card with {text.strip()} free", size)


def _unknown(name: str) -> Card:
    """Refuse a card that the table does not have."""
    begun = [known for known in TOTAL if known.lower().startswith(name.strip().lower())]
    near = nearest(name, TOTAL)
    if begun and name.strip():
        meant = f"; did you mean {' or '.join(begun[:4])}?"
    else:
        meant = f"; did you mean {near}?" if near else ""
    hint = 'give the free memory of another card in place of a name, such as --gpu "48GiB"; --table lists the names'
    raise UsageError(f"the table has no card {clip(name)!r}{meant}", hint)


def _own_context(dimensions: Dimensions) -> Iterator[str]:
    """Yield what the model's own parameters say of the context, or that nobody sent them."""
    if dimensions.own_context:
        yield (
            f"the context is num_ctx {dimensions.own_context} of the model's own parameters, which wins over"
            " context_length of an instance"
        )
    if dimensions.own_unread:
        yield (
            "the registry did not send the model's own parameters: a num_ctx there is not counted, and the estimate is"
            " for the context that was asked"
        )


def _remarks(dimensions: Dimensions, request: Request) -> list[str]:
    """Return what the operator should know beside the judgement."""
    found = []
    if dimensions.training_context and request.context > dimensions.training_context:
        found.append(
            f"the server cuts the context {request.context} to the {context_of_slot(dimensions, request)} tokens that"
            " the model was trained for"
        )
    if slots(dimensions, request) != request.parallel:
        found.append(f"the server gives {dimensions.architecture} one slot, whatever was asked")
    if dimensions.kv_heads and not dimensions.flash_attention:
        found.append(
            "the cache of this model is f16, whatever was asked: the server has no flash attention for the model"
        )
    elif dimensions.kv_heads and not dimensions.quantisable:
        found.append("the server loads this model with an f16 cache alone: a head is no whole number of blocks of 32")
    return found
