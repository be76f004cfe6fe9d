"""The models in the memory of an instance, as an engine tells them for a screen. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provision.command import Answer
from provision.steps.docker.gpu_processes import Holding


@dataclass(frozen=True)
class LoadedModel:
    """A model in the memory of an instance.

    Args:
        name: the name of the model, as the instance shows the name.
        on_cards: share of the model that is on cards by the server's own account, from 0 to 1; None where unknown.
        context: tokens of context; 0 where unknown.
    """

    name: str
    on_cards: float | None = None
    context: int = 0


@dataclass(frozen=True)
class Served:
    """The models in the memory of an instance.

    Args:
        models: the loaded models; None without an answer.
        keeps: whether a loaded model stays loaded.
        limit: how many models may be loaded at once; 0 where unknown.
        holding: whether the processes of the instance hold the memory of the cards that the server claims.
        error: the answer of the server in place of the models; else empty.
    """

    models: tuple[LoadedModel, ...] | None = None
    keeps: bool = True
    limit: int = 0
    holding: Holding = field(default_factory=Holding)
    error: str = ""


def nothing_known(answer: Answer) -> Mapping[str, Served]:
    """Return no instance, for an engine that does not tell its models.

    Args:
        answer: to a look at Docker.
    """
    return {}
