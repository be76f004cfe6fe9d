"""A model that an instance loads onto its cards: what a plan has to know of the model, before the first byte comes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from provision.capacity.dimensions import Dimensions, Source
from provision.capacity.estimate import Request, with_own_context
from provision.command import Answer, Run
from provision.errors import GuardError


@dataclass(frozen=True)
class Loading:
    """A model on the cards of an instance.

    Args:
        model: name of the model.
        instance: name of the instance.
        gpus: the cards of the instance, as the inventory names them.
        request: what the model has to serve.
        at_once: how many models the instance keeps loaded at once.
        read: read-only command for the dimensions of the model.
        dimensions: makes the dimensions from the answer; raises GuardError where nobody told them.
        smaller: dimensions of smaller models of the same name, the largest first.
        proposes: whether the instance takes a proposal for a number in `request`, which has the least number then.
    """

    model: str
    instance: str
    gpus: tuple[int | str, ...]
    request: Request
    at_once: int
    read: Run
    dimensions: Callable[[Answer], Dimensions]
    smaller: tuple[Dimensions, ...] = ()
    proposes: bool = False

    def wish(self, dimensions: Dimensions) -> Request:
        """Return the wish of the instance, with a context by the model's own parameters if any.

        Args:
            dimensions: of the model.
        """
        return with_own_context(dimensions, self.request)


@dataclass(frozen=True)
class Known:
    """What a host or a registry told about a model.

    Args:
        model: name of the model.
        dimensions: None where nobody told the dimensions.
        why: why nobody told them; empty for known dimensions.
    """

    model: str
    dimensions: Dimensions | None
    why: str = ""

    @property
    def source(self) -> Source | None:
        """Who told the dimensions; None where nobody did."""
        return self.dimensions.source if self.dimensions else None


def known(loadings: Iterable[Loading], answers: Mapping[Run, Answer]) -> dict[str, tuple[Known, ...]]:
    """Return instance -> its models, of the instances for whose models all questions are answered.

    Args:
        loadings: of instances that take a proposal.
        answers: to reads, those of the loadings among them.
    """
    found: dict[str, list[Known]] = {}
    for loading in loadings:
        if loading.read in answers:
            found.setdefault(loading.instance, []).append(_known(loading, answers[loading.read]))
    return {instance: tuple(models) for instance, models in found.items()}


def _known(loading: Loading, answer: Answer) -> Known:
    try:
        return Known(loading.model, loading.dimensions(answer))
    except GuardError as error:
        return Known(loading.model, None, error.message)
