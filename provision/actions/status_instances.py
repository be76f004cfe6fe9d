"""What is wrong with each instance and card, for `provision status`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.actions.status_rows import FAILING, FEWEST, Finding, Latest, Row, failure_of, ordered, short
from provision.steps.nginx import recent_log, upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from provision.actions.status_reads import Balancer, Instances
    from provision.inventory import Instance
    from provision.steps.card_load import CardLoad
    from provision.steps.instance.served import LoadedModel, Served
    from provision.steps.nginx.recent_log import Recent
    from provision.steps.nginx.upstream import Drained, Member


def instance_rows(latest: Latest, balancers: Mapping[str, Balancer]) -> Iterator[Row]:
    """Yield the rows of a gpu host: one for each instance, and one for each sick card without an instance.

    Args:
        latest: about the host.
        balancers: balancer -> its answers, of the balancers that send to the host.
    """
    reading = latest.reading
    if reading is None or reading.instances is None or latest.error is not None:
        yield _without_answer(latest, balancers)
        return
    used: set[str] = set()
    for instance in latest.host.instances:
        row = _Judge(latest, reading.instances, instance, balancers).row()
        used |= {card.uuid for card in row.cards}
        yield row
    yield from _rest_of(latest, reading.instances, used)


def _rest_of(latest: Latest, instances: Instances, used: set[str]) -> Iterator[Row]:
    """Yield a row for each sick card without an instance, and a row for a host without instances."""
    sick = [card for card in instances.load.cards.values() if card.uuid not in used and list(_card(card))]
    for card in sick:
        findings = ordered(list(_card(card)))
        yield Row(host=latest.host.name, findings=findings, age=latest.age, cards=(card,), run=latest.run)
    if not latest.host.instances and not sick:
        yield Row(host=latest.host.name, age=latest.age, run=latest.run, holder=latest.holder)


def _without_answer(latest: Latest, balancers: Mapping[str, Balancer]) -> Row:
    """Return the row of a host without an answer. The balancers know the drains of its instances."""
    findings = [failure_of(latest)]
    names = [upstream.label(latest.host.name, instance.name) for instance in latest.host.instances]
    marks = [member for name in names for member in _members(name, balancers).values()]
    drains = [member.drained for member in marks if member.drained]
    if drains and all(member.drained for member in marks):
        findings.append(_drain(drains[0]))
    return Row(
        host=latest.host.name,
        findings=ordered(findings),
        age=latest.age,
        drained=drains[0] if drains else None,
        run=latest.run,
        in_flight=_in_flight([_members(name, balancers) for name in names], balancers),
    )


class _Judge:
    """Judges one instance.

    Args:
        latest: about its host.
        instances: the instances of the host.
        instance: as the inventory declares it.
        balancers: balancer -> its answers.
    """

    def __init__(
        self, latest: Latest, instances: Instances, instance: Instance, balancers: Mapping[str, Balancer]
    ) -> None:
        self.latest = latest
        self.instances = instances
        self.instance = instance
        self.balancers = balancers
        self.label = upstream.label(latest.host.name, instance.name)
        self.members = _members(self.label, balancers)
        self.container = instances.containers.get(instance.name)
        self.recent = recent_log.together(self._requests())

    def row(self) -> Row:
        """Return the row of the instance."""
        latest, container = self.latest, self.container
        served = container.served if container else None
        on_gpu, proof = _on_gpu(served) if self.instance.gpus else ("", "")
        drains = [member.drained for member in self.members.values() if member.drained]
        findings = [*self._serving(), *self._cards(), *self._models(served, on_gpu, proof), *self._traffic()]
        return Row(
            host=latest.host.name,
            instance=self.instance.name,
            findings=ordered(findings),
            age=latest.age,
            cards=tuple(self._own()),
            models=served.models if served else None,
            on_gpu=on_gpu,
            proof=proof,
            recent=self.recent,
            per_second=self._per_second(),
            in_flight=_in_flight([self.members], self.balancers),
            drained=drains[0] if drains else None,
            run=latest.run,
            holder=latest.holder,
        )

    def _serving(self) -> Iterator[Finding]:
        """Yield why the instance does not serve."""
        if self.instances.error:
            yield Finding("no answer", f"Docker: {self.instances.error}")
        elif self.container is None:
            yield Finding("down", "the container is not there: `provision deploy` makes the container")
        elif self.container.status != "running":
            yield Finding("down", f"the container is {self.container.status}: `provision deploy` starts the container")
        elif self.container.answers != "yes":
            yield Finding("no answer", self.container.answers or "the instance was not asked")

    def _own(self) -> Iterator[CardLoad]:
        """Yield the cards of the instance that nvidia-smi lists."""
        given = self.container.cards if self.container else ()
        everything = "all" in given
        yield from (card for uuid, card in self.instances.load.cards.items() if everything or uuid in given)

    def _cards(self) -> Iterator[Finding]:
        """Yield what is wrong with the cards of the instance."""
        container, load = self.container, self.instances.load
        for card in self._own():
            yield from _card(card)
        given = [uuid for uuid in (container.cards if container else ()) if uuid.startswith("GPU-")]
        lost = [uuid for uuid in given if uuid not in load.cards]
        if lost or (load.error and given):
            which = ", ".join(map(short, lost or given))
            yield Finding("lost card", f"{load.error or 'nvidia-smi does not list the card'} ({which})")
        elif container and container.sees is not None and not set(given) <= set(container.sees):
            said = container.said if not container.sees else f"the container sees {len(container.sees)} of {len(given)}"
            yield Finding("lost card", f"in the container: {said}; `provision deploy` makes the container anew")

    def _models(self, served: Served | None, on_gpu: str, proof: str) -> Iterator[Finding]:
        """Yield declared models that are not loaded, and loaded models off the cards."""
        if served is None or served.models is None or not self.instance.models:
            return
        if on_gpu == "no":
            yield Finding("on cpu", f"the processes of the instance hold {proof} on the cards: look at the driver")
        elif on_gpu == "part":
            slow = ", ".join(f"{model.name} {_percent(model)}" for model in served.models if _is_part(model))
            yield Finding("on cpu", f"only a part is on the cards: {slow}; shorten the context, or use a larger card")
        wanted = min(served.limit or len(self.instance.models), len(self.instance.models))
        if served.keeps and len(served.models) < wanted:
            there = ", ".join(model.name for model in served.models) or "no model"
            yield Finding("not loaded", f"{there} is in memory, of {', '.join(self.instance.models)}")

    def _traffic(self) -> Iterator[Finding]:
        """Yield the marks on the balancers, and the failures of the last requests."""
        recent = self.recent
        if recent.failed >= FEWEST and recent.failed > FAILING * recent.requests:
            yield Finding("failing", f"{recent.failed} of the last {recent.requests} requests failed")
        drained = [member.drained for member in self.members.values() if member.drained]
        if drained:
            yield _drain(drained[0])
        known = [name for name, balancer in self.balancers.items() if balancer.state and balancer.state.generation]
        missing = [name for name in known if name not in self.members]
        if missing:
            yield Finding(
                "not listed", f"{', '.join(missing)} sends nothing here: `provision deploy` adds the instance"
            )
        out = [name for name, member in self.members.items() if member.down and not member.drained]
        if out:
            yield Finding("cordoned", f"on {', '.join(out)}{self._cause()}")

    def _cause(self) -> str:
        """Return why a run has taken the instance out, as far as the host knows."""
        holder, run = self.latest.holder, self.latest.run
        if holder and holder.run:
            return f" by run {holder.run} of {holder.who}, which is at work"
        if run and run.result not in ("changed", "ok") and (run.why or run.step):
            return f": run {run.run} {run.result} at {run.step or 'its end'}: {run.why or 'the run has no end'}"
        return ": a run left the instance out; `provision deploy` tests the instance, and admits it"

    def _requests(self) -> Iterator[Recent]:
        for name, member in self.members.items():
            log = self.balancers[name].log
            if log and member.at in log.instances:
                yield log.instances[member.at]

    def _per_second(self) -> float | None:
        covered = [log.covered for name in self.members if (log := self.balancers[name].log)]
        if not covered or (self.recent.requests and not self.recent.counted):
            return None
        return self.recent.tokens / max(1, *covered)


def _members(label: str, balancers: Mapping[str, Balancer]) -> dict[str, Member]:
    """Return balancer -> member, of the balancers that list an instance."""
    found = {name: balancer.state.members.get(label) for name, balancer in balancers.items() if balancer.state}
    return {name: member for name, member in found.items() if member is not None}


def _in_flight(members: Sequence[Mapping[str, Member]], balancers: Mapping[str, Balancer]) -> int | None:
    counts = [
        flights.get(member.at, 0)
        for listed in members
        for name, member in listed.items()
        if (flights := balancers[name].in_flight) is not None
    ]
    return sum(counts) if counts else None


def _drain(drained: Drained) -> Finding:
    why = f": {drained.why}" if drained.why else ""
    return Finding("drained", f"since {drained.since} by {drained.by}{why}")


def _card(card: CardLoad) -> Iterator[Finding]:
    """Yield what is wrong with a card."""
    name = f"card {short(card.uuid)}"
    if card.broken:
        yield Finding("lost card", f"{name}: {card.broken}")
    if card.slowed:
        heat = f" at {card.celsius} C" if card.celsius is not None else ""
        yield Finding("hot", f"{name} runs slower{heat}: {card.slowed}")
    if card.errors:
        yield Finding("ecc errors", f"{name} has {card.errors} uncorrected memory errors since the driver was loaded")


def _on_gpu(served: Served | None) -> tuple[str, str]:
    """Return whether the loaded models are on cards, by the server and by nvidia-smi, and the evidence."""
    if served is None or not served.models:
        return "", ""
    holding = served.holding
    if any(_is_part(model) for model in served.models):
        return "no" if all(model.on_cards == 0 for model in served.models) else "part", holding.words or "nothing"
    if holding.proved is False:
        return "no", holding.words
    known = holding.proved and all(model.on_cards is not None for model in served.models)
    return "yes" if known else "unproved", holding.words


def _is_part(model: LoadedModel) -> bool:
    return model.on_cards is not None and model.on_cards < 1


def _percent(model: LoadedModel) -> str:
    return f"{(model.on_cards or 0) * 100:.0f} %"
