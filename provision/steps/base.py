"""The step: a piece of wanted state, written once. Plan, deploy, verify and undo all derive from the step.

A step never runs a command and never sees a connection. A step gives a way to read (`fact`), the wanted state (`want`),
the commands from any state to any other (`commands`; undo is the same function with the states swapped), and proofs of
its purpose (`check`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Answer, Command, Run
from provision.steps import wording
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.loading import Loading
from provision.steps.obstacles import BlockedError, RefusalError, UnreadableError
from provision.steps.proof import NOT_ASKED, WARNING, Check, Content
from provision.steps.room import Filling

__all__ = [
    "EVERY",
    "NOT_ASKED",
    "WARNING",
    "Answer",
    "BlockedError",
    "Check",
    "Content",
    "Fact",
    "Owned",
    "PutBack",
    "RefusalError",
    "State",
    "Step",
    "UnreadableError",
    "converged",
    "differing",
]

State = Mapping[str, Any] | None
"""A wanted or a found state. None is a state too: absent. An error is not a state."""

EVERY = frozenset({"*"})
"""Every instance of a host: no instance's name has this letter."""


@dataclass(frozen=True)
class Fact:
    """One read-only command and the pure parser of its answer.

    Equal commands of several steps are sent once. The parser returns a state, or None only where the answer proves
    absence; else it raises BlockedError or UnreadableError.

    Args:
        command: the command to run; must not write anything.
        parse: turns the answer into the state.
    """

    command: Run
    parse: Callable[[Answer], State]


@dataclass(frozen=True)
class PutBack:
    """The effect of a rollback on one host, as ids of steps.

    Args:
        restored: things present before the run and after the rollback.
        recreated: members of `restored` that the run had removed.
        removed: things added by the run, which the rollback removes.
    """

    restored: frozenset[str] = frozenset()
    recreated: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


class Step(ABC):
    """One piece of wanted state. Subclasses are frozen dataclasses, one kind per file in `steps/`."""

    guards_host: ClassVar[bool] = False
    """Whether the step's refusal speaks for the whole host. If so, every run asks the step, also a run limited to
    roles."""

    prepares_host: ClassVar[bool] = False
    """Whether the step installs packages or reloads systemd, either of which can take the card from a running container
    (docs/facts.md#lost-cards). If so, the step comes before the first container, whatever its role."""

    endangers_cards: ClassVar[bool] = False
    """Whether the step's changes can reload systemd or restart Docker; `endangers` tells whether a given change
    does."""

    stands_apart: ClassVar[bool] = False
    """Whether the step's product stands beside the running programs, so that a half-done change hurts no instance."""

    words: ClassVar[wording.Vocabulary] = {}
    """An operator's words for the keys of the state. A missing key stands for itself."""

    gone: ClassVar[str] = "no longer declared"
    """The reason given when the step's thing is removed."""

    volatile: ClassVar[frozenset[str]] = frozenset()
    """Keys of the state that come and go while a program restarts again and again: plans that differ in these keys
    alone are the same plan."""

    serves: ClassVar[bool] = False
    """Whether the step is the server of the instance that it is a part of: without the server there is no instance."""

    routes: ClassVar[bool] = False
    """Whether the step decides which instances get requests."""

    is_health: ClassVar[bool] = False
    """Whether a past state is only a measure of health, or stands for another step's past: a rollback does not put it
    back (see `follows`)."""

    follows_test: ClassVar[bool] = False
    """Whether the change waits until the instance of the step has passed its test in this run."""

    foundation_of: ClassVar[frozenset[str]] = frozenset()
    """Names of roles for which a rollback can do nothing after a run removed this step."""

    @property
    @abstractmethod
    def id(self) -> str:
        """`kind:name`, unique on a host: in plans, logs, journals, selectors and test ids."""

    @property
    def after(self) -> tuple[str, ...]:
        """Ids of steps whose change makes an earlier read of this step stale: the step is then read again."""
        return ()

    @abstractmethod
    def fact(self) -> Fact:
        """The command that reads the state. Must not depend on the host: one read serves every step."""

    @abstractmethod
    def want(self, facts: HostFacts, have: State) -> State:
        """The wanted state, complete enough for a later rollback.

        Args:
            facts: the host facts.
            have: the state found.

        Raises:
            BlockedError: the state is known only after another step.
            RefusalError: this host must not be touched.
        """

    @abstractmethod
    def commands(self, have: State, want: State) -> Sequence[Command]:
        """The commands from any state to any other. A command that can fail comes before a command that hurts."""

    def impact(self, have: State, want: State) -> str:
        """The cost of the change in the operator's terms (`restarts Docker`); empty where there is no cost to
        mention."""
        return ""

    def refused(self, facts: HostFacts) -> Mapping[str, str]:
        """The instances that cannot be worked on, each with the reason: the run leaves out their steps, and fails.

        Args:
            facts: the host facts.
        """
        return {}

    @property
    def part_of(self) -> str:
        """The instance of the host that the step is a part of; empty for none."""
        return ""

    @property
    def compared_as(self) -> str:
        """A name shared by all copies of the same thing; empty for no copy. A `compared` check of verify compares all
        copies."""
        return ""

    def is_serving(self, facts: HostFacts, have: State) -> bool:
        """Whether the instance serves at its declared address, on healthy cards; only a step that `serves` can tell.

        Args:
            facts: the host facts.
            have: the state found.

        Raises:
            RefusalError: this host does not know the declared address.
        """
        return False

    def requests_at_once(self, facts: HostFacts, have: State) -> int:
        """The requests that the instance answers at once, where the step takes the number from the estimate; else 0.

        Args:
            facts: the host facts.
            have: the state found.

        Raises:
            RefusalError: this host must not be touched.
        """
        return 0

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Names of the instances that this change would cut from their clients, or `EVERY`."""
        return frozenset()

    def gives_address_away(self, have: State, want: State) -> bool:
        """Whether a balancer with the common address of the balancers gives the address away before this change."""
        return False

    def endangers(self, have: State, want: State) -> bool:
        """Whether this change may take the cards from running containers (docs/facts.md#lost-cards)."""
        return self.prepares_host

    def release(self, have: State, want: State) -> "Step | None":
        """The step that removes what this change keeps on the host for a return; None where the change keeps nothing.

        The run removes it as soon as the instance has passed its test.
        """
        return None

    def way_back(self, have: State) -> str:
        """The name of the thing on the host that can take the place of this one again; empty for none."""
        return ""

    def repaired(self, have: State) -> State:
        """The found state with spontaneous damage mended and nothing else changed; `have` without such damage."""
        return have

    def filling(self, have: State) -> Filling | None:
        """What the change brings to a disk of the host; None where the change brings little, or nothing.

        Args:
            have: the state found; None also where the state is not known yet.
        """
        return None

    @property
    def loading(self) -> Loading | None:
        """The model that the step has its instance load onto cards; None for no model."""
        return None

    def in_fleet(self, fleet: FleetState) -> "Step":
        """The step with the state of the fleet, for a step of the last wave; itself where that makes no difference.

        Args:
            fleet: the state of the fleet.
        """
        return self

    def note(self, facts: HostFacts, have: State = None) -> str:
        """A line for the operator about an unchanged part of the host; empty for none.

        Args:
            facts: the host facts.
            have: the state found; None too where it is unknown.
        """
        return ""

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The wanted state with which a rollback puts back the state before a change.

        Args:
            facts: the host facts of now.
            have: the state of now.
            past: the state before the change, with the bytes of files where known.

        Raises:
            RefusalError: this host cannot have the past state back any more.
        """
        return past

    def restored_fact(self, past: State) -> Fact:
        """The fact of a rollback: gives a state that compares with the past state.

        Args:
            past: see `restore`; None for an absent thing.
        """
        return self.fact()

    def needs(self, past: Mapping[str, Any]) -> "Sequence[Step]":
        """Steps that must be as wanted before a rollback puts a past state back.

        Args:
            past: see `restore`.
        """
        return ()

    def brings(self) -> "Sequence[Step]":
        """Further steps that a rollback makes as wanted beside this step, where the inventory does not declare them."""
        return ()

    def follows(self, put_back: PutBack) -> "Step | None":
        """The declared step that a rollback makes as wanted at the end; None where it does not touch the step.

        Args:
            put_back: the rest of the rollback on this host.
        """
        return None

    def irrevocable(self, before: State, after: State) -> str:
        """Why a rollback leaves a change as it is; empty where the change can be undone.

        Args:
            before: the state before the change; None for an absent thing.
            after: the state that the change wanted.
        """
        return ""

    def diff(self, have: State, want: State) -> Sequence[str]:
        """Lines that show the change. Never show a secret."""
        return wording.lines(self.words, have, want)

    def why(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
        """Why the step changes, in the operator's words."""
        return wording.reason(self.words, have, want)

    @abstractmethod
    def check(self, live: Any) -> Iterator[Check]:
        """Proofs by testinfra. A proof asks for the purpose of the step, not for its files.

        Args:
            live: testinfra's host, over the open connection.
        """

    def contents(self, live: Any) -> Iterator[Content]:
        """The files whose bytes `verify --deep` hashes: large files, whose plain proof looks at the size alone.

        Args:
            live: see `check`.

        Raises:
            BlockedError, UnreadableError: the files are not known.
        """
        return iter(())


class Owned(ABC):
    """A kind of thing that carries our mark on a host. A marked, undeclared thing is an orphan."""

    last: ClassVar[bool] = False
    """Whether orphans go after all other changes, because each is in use until its successor is ready."""

    @property
    def finds(self) -> frozenset[str]:
        """Ids of all things that the finder can find; empty where unknown beforehand. A run does not ask a finder
        whose ids are all declared."""
        return frozenset()

    @abstractmethod
    def fact(self) -> Fact:
        """Reads every thing of this kind with our mark: step id -> state."""

    def kept(self, things: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """Ids of undeclared things that stay for the time being.

        Args:
            things: all marked things of the host, step id -> state.
            declared: ids of all declared things.
        """
        return ()

    @abstractmethod
    def step(self, step_id: str) -> Step:
        """The step that can remove the thing of an id; only `commands(have, None)` of the step is used."""

    def former(self, step_id: str, have: State) -> Step | None:
        """The step of a thing no longer declared, for a rollback; None where this kind has no such id.

        Args:
            step_id: the id in a journal.
            have: the state before the run; None for an absent thing.
        """
        step = self.step(step_id) if ":" in step_id else None
        return step if step is not None and step.id == step_id else None


def differing(have: State, want: State) -> list[tuple[str, Any]]:
    """The keys of `want` whose value differs in `have`, with the wanted values.

    Args:
        have: the state found; further keys are evidence and are not compared.
        want: the state wanted.
    """
    return [(key, value) for key, value in (want or {}).items() if have is None or have.get(key) != value]


def converged(have: State, want: State) -> bool:
    """Whether the found state is the wanted state."""
    if have is None or want is None:
        return have is None and want is None
    return not differing(have, want)
