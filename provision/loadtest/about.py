"""What a reader needs to tell two load tests apart and to repeat one: time, versions, command and fleet."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from provision.loadtest.target import Member, Probe
from provision.terminal_text import line

MASK = "***"


@dataclass(frozen=True)
class About:
    """The circumstances of a load test.

    Args:
        command: the command that repeats the test; values that may be secret are masked.
        begun: when the test began, as a time stamp.
        provision: version of provision.
        locust: version of Locust.
        server: version of the model server, by the first endpoint.
        simulated: whether the model server is the lab's simulation.
        notes: sentences for the operator from before the load.
        members: the instances behind the endpoint; empty without an inventory.
    """

    command: str
    begun: float
    provision: str
    locust: str
    server: str
    simulated: bool
    notes: Sequence[str]
    members: Sequence[Member]

    @property
    def date(self) -> str:
        """When the test began, for a reader."""
        return datetime.fromtimestamp(self.begun, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def about(words: Sequence[str], begun: float, found: Probe, members: Sequence[Member]) -> About:
    """Describe a load test.

    Args:
        words: the words after `provision`.
        begun: when the test began, as a time stamp.
        found: the answers of the endpoint before the load.
        members: the instances behind the endpoint.
    """
    return About(
        command=line(shlex.join(["provision", *masked(words)]), 2000),
        begun=begun,
        provision=metadata.version("provision"),
        locust=metadata.version("locust"),
        server=line(found.version, 60),
        simulated=found.simulated,
        notes=found.notes,
        members=members,
    )


def masked(words: Sequence[str]) -> list[str]:
    """The words of a command with the values of `--extra-vars` masked, for a value may be a password."""
    before = ["", *words]
    return [_masked(word) if option == "--extra-vars" else word for option, word in zip(before, words, strict=False)]


def _masked(word: str) -> str:
    if word.startswith("@"):
        return word
    name, sign, _ = word.partition("=")
    return f"{name}={MASK}" if sign and name.replace(".", "").replace("_", "").isalnum() else MASK
