"""A model that an instance loads onto its cards: what a plan has to know of the model, before the first byte comes."""

from collections.abc import Callable
from dataclasses import dataclass

from provision.capacity.dimensions import Dimensions
from provision.capacity.estimate import Request
from provision.command import Answer, Run


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
    """

    model: str
    instance: str
    gpus: tuple[int | str, ...]
    request: Request
    at_once: int
    read: Run
    dimensions: Callable[[Answer], Dimensions]
    smaller: tuple[Dimensions, ...] = ()
