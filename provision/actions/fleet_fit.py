"""What fits on the hosts of an inventory, and how large loaded models are: `provision fit --inventory`, `--measured`.

Each host is asked in one exec. Nothing is changed, and no lock is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.actions.results import Answers
from provision.capacity import catalogue
from provision.capacity.estimate import Estimate, estimate
from provision.capacity.verdict import Kind, judge

if TYPE_CHECKING:
    from provision.actions.request import Request
    from provision.capacity.cards import Card
    from provision.capacity.estimate import Request as Wish
    from provision.command import Answer, Run
    from provision.inventory import Host, Inventory
    from provision.ssh.transport import Transport
    from provision.steps.facts import HostFacts
    from provision.steps.loading import Loading
    from provision.steps.ollama.measured_size import Size


@dataclass(frozen=True)
class Place:
    """Cards that can serve a model.

    Args:
        label: `HOST/INSTANCE`, or `HOST, card N` for a card without an instance.
        cards: the cards with their other users; empty where nobody tells their memory.
        model: the largest model of the table that fits; empty for none.
        context: tokens of context of that model.
        reason: the verdict in words, or why nobody can tell.
    """

    label: str
    cards: tuple[Card, ...]
    model: str
    context: int
    reason: str


@dataclass(frozen=True)
class Measured:
    """A loaded model beside its estimate.

    Args:
        label: `HOST/INSTANCE`.
        size: the size by the server.
        need: the estimate for the context of the server; None where nobody tells the dimensions.
        why: why there is no estimate; else empty.
    """

    label: str
    size: Size
    need: Estimate | None
    why: str = ""

    @property
    def estimated(self) -> int:
        """Bytes of the estimate that the server counts too: without the process and the margin."""
        return self.need.weights + self.need.kv_cache + self.need.compute if self.need else 0


def propose(request: Request, wish: Wish) -> Answers[tuple[Place, ...]]:
    """Propose the largest model of the table for the cards of every instance, and for every card without an instance.

    Args:
        request: selects the hosts.
        wish: what each model has to serve; a shorter context from 4096 tokens on is proposed too.
    """
    from provision.actions import asking
    from provision.plan import planner, role_interface
    from provision.steps.docker import inspect

    inventory = role_interface.load(request.inventory, request.overrides)

    def work(host: Host, session: Transport) -> tuple[Place, ...]:
        if not host.gpu:
            return ()
        reads = [role_interface.facts_command(host, inventory), inspect.command()]
        facts = planner.host_facts(dict(zip(reads, session.batch(reads, stop=False), strict=True)))
        return tuple(places(host, facts, wish))

    return asking.ask(request, work)


def places(host: Host, facts: HostFacts, wish: Wish) -> Iterator[Place]:
    """Yield the places of a host: its instances in the order of the inventory, then the cards without an instance.

    Args:
        host: the host.
        facts: facts about the host.
        wish: what each model has to serve.
    """
    from provision.steps.card_memory import cards_of

    for instance in host.instances:
        yield _place(f"{host.name}/{instance.name}", cards_of(instance.gpus, facts), wish)
    used = {card.uuid for instance in host.instances for gpu in instance.gpus if (card := facts.card(gpu))}
    for index, card in sorted(facts.by_index.items()):
        if card.uuid not in used:
            yield _place(f"{host.name}, card {index}", cards_of((index,), facts), wish)


def _place(label: str, cards: Sequence[Card] | str, wish: Wish) -> Place:
    """Return the place with the largest model that fits as asked, else with the largest that fits a shorter context."""
    if isinstance(cards, str):
        return Place(label, (), "", 0, cards)
    models = [each for name in catalogue.MODELS if (each := catalogue.dimensions(name))]
    verdicts = [judge(each, wish, cards) for each in sorted(models, key=lambda each: -each.weights.on_cards)]
    names = [each.name for each in sorted(models, key=lambda each: -each.weights.on_cards)]
    for kinds in ((Kind.FITS,), (Kind.CONTEXT,)):
        for name, verdict in zip(names, verdicts, strict=True):
            if verdict.kind in kinds and verdict.proposal:
                return Place(label, tuple(cards), name, verdict.proposal.context, verdict.sentence)
    return Place(label, tuple(cards), "", 0, verdicts[-1].sentence)


def measure(request: Request) -> Answers[tuple[Measured, ...]]:
    """Compare the size of every loaded model with its estimate.

    Args:
        request: selects the hosts.
    """
    from provision.actions import asking
    from provision.plan import role_interface
    from provision.steps import engines

    inventory = role_interface.load(request.inventory, request.overrides)

    def work(host: Host, session: Transport) -> tuple[Measured, ...]:
        loadings = _loadings(host, inventory)
        if not loadings:
            return ()
        reads = list(dict.fromkeys([engines.sizes_command(), *(loading.read for loading in loadings)]))
        answers = dict(zip(reads, session.batch(reads, stop=False), strict=True))
        return compared(host.name, loadings, engines.sizes(answers[reads[0]]), answers)

    return asking.ask(request, work)


def _loadings(host: Host, inventory: Inventory) -> list[Loading]:
    """Return the declared models of a host."""
    from provision.plan import role_interface

    steps = (entry.step for entry in role_interface.steps(host, inventory)) if host.gpu else iter(())
    return [step.loading for step in steps if step.loading is not None]


def compared(
    host: str, loadings: Sequence[Loading], sizes: Sequence[Size], answers: Mapping[Run, Answer]
) -> tuple[Measured, ...]:
    """Return every loaded model of a host with its estimate.

    Args:
        host: name of the host.
        loadings: the declared models of the host.
        sizes: the loaded models.
        answers: to the reads of the declared models.
    """
    from provision.errors import GuardError
    from provision.steps import engines

    declared = {(loading.instance, engines.canonical(loading.model)): loading for loading in loadings}
    found = []
    for size in sizes:
        loading, label = declared.get((size.instance, size.model)), f"{host}/{size.instance}"
        if loading is None:
            found.append(Measured(label, size, None, "the inventory does not declare the model"))
            continue
        try:
            dimensions = loading.dimensions(answers[loading.read])
        except GuardError as error:
            found.append(Measured(label, size, None, error.message))
            continue
        wish = dataclasses.replace(loading.request, context=size.context or loading.request.context)
        found.append(Measured(label, size, estimate(dimensions, wish)))
    return tuple(found)
