"""Proofs of a step's purpose, as verify makes them."""

from dataclasses import dataclass
from typing import Any

from provision.steps.speed import Speed

NOT_ASKED = "not asked: "
"""Begins the name of a check that verify did not make, because the question would change the host. The rest of the name
gives the proof and the reason."""

WARNING = "warning: "
"""Begins the name of a check that passes although the operator should act. The rest of the name gives the reason and
the command."""


@dataclass(frozen=True)
class Check:
    """One proof of a step's purpose: passed when `got == expected`.

    Args:
        name: the proof in words.
        got: the host's answer.
        expected: the right answer.
        compared: whether `got` must also be the same for every step in the fleet with the same `Step.compared_as`.
        speed: the speed of an answer, to be compared with the other instances; None for any other proof.
    """

    name: str
    got: Any
    expected: Any
    compared: bool = False
    speed: Speed | None = None

    @property
    def passed(self) -> bool:
        """Whether the proof holds."""
        return bool(self.got == self.expected)


@dataclass(frozen=True)
class Content:
    """A file of a host whose bytes a step vouches for.

    Args:
        path: the path on the host.
        sha256: the sha256 of the right bytes, in hexadecimal digits.
        size: bytes.
        name: the file in an operator's words.
    """

    path: str
    sha256: str
    size: int
    name: str
