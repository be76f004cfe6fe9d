"""The variables of an instance's server that take the proposal of the estimate: context, and requests at once.

A container keeps its numbers while they have room and no better numbers have room to spare (`capacity.proposal`). So a
second plan after a deploy changes nothing, and a few MiB of another program restart nothing.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.capacity import proposal
from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions
from provision.capacity.proposal import Choice, Wish
from provision.capacity.verdict import gib
from provision.steps.card_memory import cards_of
from provision.steps.facts import HostFacts

_MOST = 12  # digits of a number in a container


@dataclass(frozen=True, kw_only=True)
class Automatic:
    """The numbers of an instance that take the proposal.

    Args:
        instance: name of the instance.
        gpus: the cards, as the inventory names them.
        models: the declared models.
        wish: the fixed and the open numbers.
        context: the variable for the context.
        parallel: the variable for requests at once.
    """

    instance: str
    gpus: tuple[int | str, ...]
    models: tuple[str, ...]
    wish: Wish
    context: str
    parallel: str

    def kept(self, facts: HostFacts, have: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return the variables of a container, if it may keep them; None if it may not. While nvidia-smi does not tell
        the other users of the cards, no number changes.

        Args:
            facts: facts about the host.
            have: the variables of the container.
        """
        current = self._of(have)
        if current is None:
            return None
        told = self._told(facts)
        if isinstance(told, str) or not facts.foreign_known or proposal.keeps(told[0], self.wish, told[1], current):
            return self._variables(current)
        return None

    def chosen(self, facts: HostFacts) -> Mapping[str, str]:
        """Return the variables for a new container: the proposal; the usual numbers where nobody knows the models or
        the cards; the least numbers where nothing has room, which a plan then refuses.

        Args:
            facts: facts about the host.
        """
        told = self._told(facts)
        if isinstance(told, str):
            return self._variables(self.wish.usual)
        return self._variables(proposal.propose(told[0], self.wish, told[1]) or self.wish.least)

    def requests(self, want: Mapping[str, Any]) -> int:
        """Return the requests at once of a wanted container; 0 where the inventory has the number.

        Args:
            want: the wanted state.
        """
        choice = None if self.wish.parallel else self._of(want.get("environment") or {})
        return choice.parallel if choice else 0

    def why(self, facts: HostFacts, values: Mapping[str, str]) -> str:
        """Return the numbers with the reason, in one line; empty where nobody asked for the models, as in a rollback.

        Args:
            facts: facts about the host.
            values: the variables of the wanted container.
        """
        choice = self._of(values)
        if choice is None or (self.models and self.instance not in facts.models):
            return ""
        numbers = ", ".join(f"{name}={value}" for name, value in self._variables(choice).items())
        told = self._told(facts)
        if not isinstance(told, str) and not facts.foreign_known:
            return f"auto: {numbers}, while nvidia-smi does not tell the other users of the cards"
        if isinstance(told, str):
            taken = "the default" if choice == self.wish.usual else "as the container has"
            return f"auto: {numbers}, {taken}, because {told}"
        return f"auto: {numbers}, {self._reason(choice, *told)}"

    def _reason(self, choice: Choice, models: list[Dimensions], cards: list[Card]) -> str:
        """Return why these numbers, by the estimate."""
        names = ", ".join(model.name for model in models)
        counted = Counter(card.name for card in cards)
        known = ", ".join(f"{number} x {name}" if number > 1 else name for name, number in counted.items())
        room = f"{gib(sum(card.free for card in cards))} GiB of {known}"
        if not proposal.fits(models, self.wish, choice, cards):
            return f"without room for {names} in the {room} (estimate)"
        if choice == proposal.choices(models, self.wish)[0]:
            return f"the most for {names}; {room} are free (estimate)"
        best = proposal.propose(models, self.wish, cards)
        if best in (choice, None):
            return f"the largest step for {names} in the {room} that are free (estimate)"
        return f"kept for {names}: {self._spelled(best)} would have no room to spare in the {room} (estimate)"

    def _spelled(self, choice: Choice | None) -> str:
        return " and ".join(self._variables(choice).values()) if choice else ""

    def _told(self, facts: HostFacts) -> tuple[list[Dimensions], list[Card]] | str:
        """Return the models and the cards of the instance, or why they are not known."""
        cards = cards_of(self.gpus, facts)
        if isinstance(cards, str):
            return cards
        models = facts.models.get(self.instance, ())
        if not models:
            return f"{self.instance} has no models"
        for model in models:
            if model.dimensions is None:
                return f"nobody tells the size of {model.model}: {model.why}"
        return [model.dimensions for model in models if model.dimensions], cards

    def _variables(self, choice: Choice) -> dict[str, str]:
        """Return the open numbers as variables."""
        context = {} if self.wish.context else {self.context: str(choice.context)}
        return context | ({} if self.wish.parallel else {self.parallel: str(choice.parallel)})

    def _of(self, variables: Mapping[str, str]) -> Choice | None:
        """Return the numbers of a container; None where the container has none."""
        usual = self.wish.least
        numbers = {self.context: usual.context, self.parallel: usual.parallel}
        for name in self._variables(usual):
            text = variables.get(name, "")
            if not (text.isascii() and text.isdigit() and len(text) <= _MOST and int(text)):
                return None
            numbers[name] = int(text)
        return Choice(numbers[self.context], numbers[self.parallel])
