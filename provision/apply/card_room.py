"""Whether the models of a plan fit the memory of their cards, before the first byte of a model comes.

Only a plan that brings a model or makes a container costs this read, in one exec with the read of the disks. An
estimate refuses an instance, and the rest of the host goes on. A model that nobody knows is no refusal: the plan names
the model.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions
from provision.capacity.estimate import estimate
from provision.capacity.proposal import occupied
from provision.capacity.verdict import Kind, Verdict, gib, judge, placed
from provision.command import Answer, Run
from provision.errors import GuardError
from provision.plan.planner import HostPlan
from provision.plan.role_interface import Entry
from provision.steps.base import NOT_ASKED
from provision.steps.card_memory import cards_of
from provision.steps.facts import HostFacts
from provision.steps.loading import Loading

Loads = Mapping[str, Sequence[tuple[str, Loading]]]
"""Instance -> the ids of the steps of its models, each with the model."""


UNREAD = "nobody sent the model's own parameters, and the estimate is for context_length of the instance"


@dataclass(frozen=True)
class Fit:
    """The judgement of a plan.

    Args:
        unfit: instance -> why its models do not fit its cards.
        notes: step id -> why nobody knows whether the model fits.
    """

    unfit: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def loads(plan: HostPlan, entries: Iterable[Entry]) -> Loads:
    """Return the models of every instance to which the plan brings a container or a model.

    Args:
        plan: of one host.
        entries: all declared steps of the host.
    """
    touched = {
        change.step.part_of
        for change in plan.changes
        if change.action != "remove" and (change.step.serves or change.step.loading is not None)
    }
    found: dict[str, list[tuple[str, Loading]]] = {}
    for step in (entry.step for entry in entries if entry.step.part_of in touched):
        if step.loading is not None:
            found.setdefault(step.part_of, []).append((step.id, step.loading))
    return found


def reads(models: Loads) -> list[Run]:
    """Return the read-only commands for the dimensions of models: one for each name.

    All instances have the same bytes under a name, and a host without internet waits for each question to a registry.
    """
    return list(dict.fromkeys(_reads(models).values()))


def _reads(models: Loads) -> dict[str, Run]:
    """Return name of a model -> the command for its dimensions, that of the first instance with the model."""
    first: dict[str, Run] = {}
    for pairs in models.values():
        for _, loading in pairs:
            first.setdefault(loading.model, loading.read)
    return first


def judged(models: Loads, facts: HostFacts, answers: Mapping[Run, Answer]) -> Fit:
    """Judge the models of a plan.

    Args:
        models: from `loads`.
        facts: facts about the host.
        answers: to `reads`.
    """
    unfit: dict[str, str] = {}
    notes: dict[str, str] = {}
    asked = _reads(models)
    for instance, pairs in models.items():
        cards = cards_of(pairs[0][1].gpus, facts)
        known: list[tuple[Dimensions, Loading]] = []
        for step, loading in pairs:
            try:
                if isinstance(cards, str):
                    raise GuardError(cards)
                dimensions = loading.dimensions(answers[asked[loading.model]])
                known.append((dimensions, dataclasses.replace(loading, request=loading.wish(dimensions))))
                if dimensions.own_unread:
                    notes[step] = f"{NOT_ASKED}whether {loading.model} has a num_ctx of its own: {UNREAD}"
            except GuardError as error:
                notes[step] = f"{NOT_ASKED}whether {loading.model} fits the cards of {instance}: {error.message}"
        if not isinstance(cards, str) and (why := _complaint(known, cards)):
            unfit[instance] = f"{instance}: {why}"
    return Fit(unfit, notes)


def _complaint(models: Sequence[tuple[Dimensions, Loading]], cards: Sequence[Card]) -> str:
    """Return why the models do not fit, the largest first; empty if as many fit as are loaded at once."""
    room = list(cards)
    beside: list[str] = []
    ordered = sorted(models, key=lambda pair: (-_total(*pair), pair[1].model))
    for dimensions, loading in ordered[: ordered[0][1].at_once if ordered else 0]:
        verdict = judge(dimensions, loading.request, room)
        if verdict.kind is not Kind.FITS:
            return "; ".join(_words(verdict, dimensions, loading, room, beside))
        room = occupied(verdict.shares, room)
        beside.append(loading.model)
    return ""


def _total(dimensions: Dimensions, loading: Loading) -> int:
    return estimate(dimensions, loading.request).total


def _words(
    verdict: Verdict, dimensions: Dimensions, loading: Loading, cards: Sequence[Card], beside: Sequence[str]
) -> Iterator[str]:
    """Yield the verdict, a smaller model that fits, and the terms of the estimate."""
    yield verdict.sentence
    if beside:
        yield (
            f"{', '.join(beside)} of the same instance counts among the other users, because max_loaded_models is"
            f" {loading.at_once}; max_loaded_models: {len(beside)} loads the models in turn"
        )
    if dimensions.own_context:
        yield "the context is num_ctx of the model's own parameters, which wins over context_length of the instance"
    fitting = (each.name for each in loading.smaller if placed(each, loading.request, cards))
    if smaller := next(fitting, ""):
        yield f"{smaller} fits as asked"
    need = verdict.need
    terms = {
        "weights": need.weights,
        "KV cache": need.kv_cache,
        "compute": need.compute,
        "CUDA context": need.cuda_context,
        "margin": need.margin,
    }
    yield f"the {gib(need.total)} GiB are " + ", ".join(f"{name} {gib(size)}" for name, size in terms.items())
    source = {"host": "the model on the host", "gguf": "the registry", "table": "our table"}[dimensions.source]
    yield f"dimensions by {source}"
