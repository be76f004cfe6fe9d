"""A step whose wanted state is one of long ago: what a rollback puts back. The step itself says how."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.command import Command
from provision.steps.base import Check, Fact, State, Step
from provision.steps.facts import HostFacts


@dataclass(frozen=True, kw_only=True)
class Restored(Step):
    """A step with a state that it had.

    Args:
        step: the step, as it is declared now or as a finder makes it.
        past: the state as it was found then; None for a thing that was not there.
    """

    step: Step
    past: State = field(repr=False)

    @property
    def id(self) -> str:
        """That of the step."""
        return self.step.id

    @property
    def prepares_host(self) -> bool:  # type: ignore[override]
        """As the step."""
        return self.step.prepares_host

    @property
    def endangers_cards(self) -> bool:  # type: ignore[override]
        """As the step."""
        return self.step.endangers_cards

    @property
    def gone(self) -> str:  # type: ignore[override]
        """Why it is removed."""
        return "was not there before"

    @property
    def after(self) -> tuple[str, ...]:
        """As the step."""
        return self.step.after

    @property
    def part_of(self) -> str:
        """As the step."""
        return self.step.part_of

    def fact(self) -> Fact:
        """As the step reads what it puts back."""
        return self.step.restored_fact(self.past)

    def want(self, facts: HostFacts, have: State) -> State:
        """What it was, as far as that can be wanted."""
        return None if self.past is None else self.step.restore(facts, have, self.past)

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """As the step."""
        return self.step.commands(have, want)

    def impact(self, have: State, want: State) -> str:
        """As the step."""
        return self.step.impact(have, want)

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """As the step."""
        return self.step.disrupts(have, want)

    def endangers(self, have: State, want: State) -> bool:
        """As the step."""
        return self.step.endangers(have, want)

    def repaired(self, have: State) -> State:
        """As the step."""
        return self.step.repaired(have)

    def diff(self, have: State, want: State) -> Sequence[str]:
        """As the step."""
        return self.step.diff(have, want)

    def check(self, live: Any) -> Iterator[Check]:
        """As the step."""
        yield from self.step.check(live)


@dataclass(frozen=True, kw_only=True)
class Remarked(Restored):
    """A balancer's configuration as it is, with the marks that what this run knows gives it."""

    past: State = None

    def want(self, facts: HostFacts, have: State) -> State:
        """What is there, as if it were put back; nothing where nothing is."""
        return None if have is None else self.step.restore(facts, have, have)
