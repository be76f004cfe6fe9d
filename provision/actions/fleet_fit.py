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
    from provision.steps.ollama.kept_size import Kept
    from provision.steps.ollama.measured_size import Size, Sizes


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
    """A declared or loaded model beside its estimate.

    Args:
        label: `HOST/INSTANCE`.
        model: name of the model.
        size: the size by the server now; None where the model is not loaded, or the server is silent.
        kept: the size that the host kept of the last load; None without.
        need: the estimate for the server's settings and the context of the size; None for unknown dimensions.
        why: why there is no size now, or no estimate; else empty.
    """

    label: str
    model: str
    size: Size | None = None
    kept: Kept | None = None
    need: Estimate | None = None
    why: str = ""

    @property
    def best(self) -> Size | None:
        """The size now, else the kept size."""
        return self.size or (self.kept.size if self.kept else None)

    @property
    def estimated(self) -> int:
        """Bytes of the estimate that the server counts too: without the process and the margin."""
        return self.need.weights + self.need.kv_cache + self.need.compute if self.need else 0

    @property
    def difference(self) -> float | None:
        """Percent by which the size is larger than the estimate; None without a size or an estimate."""
        if self.best is None or not self.estimated:
            return None
        return round(100 * (self.best.size - self.estimated) / self.estimated, 1)


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
    """Compare the size of every declared or loaded model with its estimate: the size now, and the kept size.

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
        now, before = engines.sizes_command(), engines.kept_sizes_command()
        reads = list(dict.fromkeys([now, before, *(loading.read for loading in loadings)]))
        answers = dict(zip(reads, session.batch(reads, stop=False), strict=True))
        sizes, kept = engines.sizes(answers[now]), engines.kept_sizes(answers[before])
        return compared(host.name, loadings, sizes, kept, answers)

    return asking.ask(request, work)


def _loadings(host: Host, inventory: Inventory) -> list[Loading]:
    """Return the declared models of a host."""
    from provision.plan import role_interface

    steps = (entry.step for entry in role_interface.steps(host, inventory)) if host.gpu else iter(())
    return [step.loading for step in steps if step.loading is not None]


def compared(
    host: str, loadings: Sequence[Loading], sizes: Sizes, kept: Sequence[Kept], answers: Mapping[Run, Answer]
) -> tuple[Measured, ...]:
    """Return every declared and every loaded model of a host, with its sizes and its estimate. A kept size of a model
    that is neither is left out.

    Args:
        host: name of the host.
        loadings: the declared models of the host.
        sizes: the loaded models.
        kept: the kept sizes.
        answers: to the reads of the declared models.
    """
    from provision.steps import engines

    declared = {(loading.instance, engines.canonical(loading.model)): loading for loading in loadings}
    loaded = {(size.instance, size.model): size for size in sizes.loaded}
    earlier = {}
    for entry in reversed(kept):  # the newest comes first, and counts
        instance, model = entry.size.instance, entry.size.model
        earlier[instance, sizes.pulled.get((instance, model), model)] = entry
    found = []
    for key in sorted(declared.keys() | loaded.keys()):
        row = Measured(f"{host}/{key[0]}", key[1], loaded.get(key), earlier.get(key))
        why = "" if row.size else _silence(key[0], sizes, row.kept)
        need, unknown = _need(declared.get(key), row.best, sizes, answers)
        found.append(dataclasses.replace(row, need=need, why="; ".join(filter(None, (why, unknown)))))
    return tuple(found)


def _silence(instance: str, sizes: Sizes, kept: Kept | None) -> str:
    """Return why a declared model has no size now."""
    if instance not in sizes.silent:
        why = "not loaded now" if instance in sizes.answered else "the instance is not there"
    else:
        why = f"the server did not answer: {sizes.silent[instance]}"
    return why if kept else f"no size: {why}"


def _need(
    loading: Loading | None, size: Size | None, sizes: Sizes, answers: Mapping[Run, Answer]
) -> tuple[Estimate | None, str]:
    """Return the estimate of a model for the settings of its server, with the context of a size, or why nobody knows.

    The inventory may leave both settings to the estimate (`auto`), and then does not have the numbers.
    """
    from provision.errors import GuardError

    if loading is None:
        return None, "the inventory does not declare the model"
    try:
        dimensions = loading.dimensions(answers[loading.read])
    except GuardError as error:
        return None, error.message
    context, parallel = sizes.settings.get(loading.instance, (0, 0))
    asked = loading.request
    asked = dataclasses.replace(asked, context=context or asked.context, parallel=parallel or asked.parallel)
    wish = dataclasses.replace(loading, request=asked).wish(dimensions)
    if size and size.context:
        wish = dataclasses.replace(wish, context=size.context)
    return estimate(dimensions, wish), ""
