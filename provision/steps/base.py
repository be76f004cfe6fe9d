"""The step: one piece of wanted state, said once. Plan, deploy, verify and undo all come from it.

A step never runs a command and never sees a connection. It says how to read (`fact`), what is wanted (`want`), how
to get from any state to any other (`commands`; undo is the same function with the states swapped), and how to
prove what it is for (`check`).
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Answer, Command, Run
from provision.steps import wording
from provision.steps.facts import HostFacts

__all__ = [
    "EVERY",
    "NOT_ASKED",
    "Answer",
    "BlockedError",
    "Check",
    "Fact",
    "Owned",
    "PutBack",
    "RefusalError",
    "State",
    "Step",
    "UnreadableError",
    "asked_once",
    "converged",
    "differing",
    "read_once",
    "text_diff",
]

NOT_ASKED = "not asked: "
"""How the name of a check begins that only says which proof verify left out, and why: the question would change the
host."""

State = Mapping[str, Any] | None
"""What a step wants, or what was found. None is a state: not there. An error is not."""

EVERY = frozenset({"*"})
"""Every instance of a host: no name of one has this letter."""


class UnreadableError(Exception):
    """A parser cannot tell: neither a state nor a proof of absence. Stops the host."""


class BlockedError(Exception):
    """Cannot be known before another step has changed (Docker is stopped, and deploy will start it).

    Args:
        by: id of that step. If it is not about to change, the fact is unreadable instead.
        evidence: what the host said.
    """

    def __init__(self, by: str, evidence: str = "") -> None:
        super().__init__(f"known after {by}")
        self.by = by
        self.evidence = evidence


class RefusalError(Exception):
    """A step's `want` refuses this host: a guard, raised before anything is changed. The message says why."""


@dataclass(frozen=True)
class Fact:
    """One read-only command and the pure parser of its answer.

    Equal commands of several steps are sent once. The parser returns a state, or None only where the answer proves
    absence; it raises BlockedError or UnreadableError otherwise.

    Args:
        command: what to run; must not write anything.
        parse: from the answer to the state.
    """

    command: Run
    parse: Callable[[Answer], State]


@dataclass(frozen=True)
class Check:
    """One proof that a step serves its purpose: passed when `got == expected`.

    Args:
        name: what is proved.
        got: what the host says.
        expected: what it should say.
        compared: whether `got` must also be the same for every step in the fleet with the same `Step.compared_as`.
    """

    name: str
    got: Any
    expected: Any
    compared: bool = False

    @property
    def passed(self) -> bool:
        """Whether the proof holds."""
        return bool(self.got == self.expected)


@dataclass(frozen=True)
class PutBack:
    """What a rollback does on one host, as ids of steps.

    Args:
        restored: things that were there before the run, and are there after the rollback.
        recreated: those of them that the run removed.
        removed: things that the run added, and that the rollback removes.
    """

    restored: frozenset[str] = frozenset()
    recreated: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


class Step(ABC):
    """One piece of wanted state. Subclasses are frozen dataclasses, one kind per file in `steps/`."""

    guards_host: ClassVar[bool] = False
    """Whether its refusal speaks for the whole host: then it is asked whatever roles a run is limited to."""

    prepares_host: ClassVar[bool] = False
    """Whether it installs packages or reloads systemd, either of which can take the card from a running container
    (docs/facts.md#lost-cards): then it comes before the first container, whatever its role."""

    endangers_cards: ClassVar[bool] = False
    """Whether a change of it can reload systemd or restart Docker: then it is asked whether this one does."""

    stands_apart: ClassVar[bool] = False
    """Whether what it makes stands beside what runs, so that no instance is hurt where it fails half-way."""

    words: ClassVar[wording.Vocabulary] = {}
    """What the keys of its state are called to an operator; a key that is missing here is called by its own name."""

    gone: ClassVar[str] = "no longer declared"
    """Why it is removed, where it is."""

    volatile: ClassVar[frozenset[str]] = frozenset()
    """Keys of its state that come and go by themselves, while something starts again and again: a plan that differs in
    them alone is the same plan."""

    serves: ClassVar[bool] = False
    """Whether it is the server of the instance that it is a part of: the instance exists where this exists."""

    routes: ClassVar[bool] = False
    """Whether it says which instances get requests."""

    is_health: ClassVar[bool] = False
    """Whether its past state tells only how well something was: a rollback does not put it back (see `follows`)."""

    foundation_of: ClassVar[frozenset[str]] = frozenset()
    """Names of the roles of which nothing can be put back where a run removed this."""

    @property
    @abstractmethod
    def id(self) -> str:
        """`kind:name`, unique on a host: in plans, logs, journals, selectors and test ids."""

    @property
    def after(self) -> tuple[str, ...]:
        """Ids of steps whose change makes what was read of this one stale: it is read again after them."""
        return ()

    @abstractmethod
    def fact(self) -> Fact:
        """How to read the state. Must not depend on the host: one read serves every step."""

    @abstractmethod
    def want(self, facts: HostFacts, have: State) -> State:
        """The wanted state, complete enough to be put back.

        Args:
            facts: what is known of the host.
            have: what was found.

        Raises:
            BlockedError: known only after another step.
            RefusalError: this host must not be touched.
        """

    @abstractmethod
    def commands(self, have: State, want: State) -> Sequence[Command]:
        """How to get from any state to any other. What can fail comes before what hurts."""

    def impact(self, have: State, want: State) -> str:
        """What the change costs in the operator's terms (`restarts Docker`); empty for nothing to mention."""
        return ""

    def refused(self, facts: HostFacts) -> Mapping[str, str]:
        """The instances that cannot be worked on, each with the reason: their steps are left out, and the run fails.

        Args:
            facts: what is known of the host.
        """
        return {}

    @property
    def part_of(self) -> str:
        """The instance of its host that it is a part of; empty for none."""
        return ""

    @property
    def compared_as(self) -> str:
        """What it is a copy of; empty for nothing. Verify compares all copies in the fleet by a `compared` check."""
        return ""

    def is_serving(self, facts: HostFacts, have: State) -> bool:
        """Whether its instance serves where it is declared, on cards that are well; only a step that `serves` knows.

        Args:
            facts: what is known of the host.
            have: what was found.

        Raises:
            RefusalError: where it is declared is not known on this host.
        """
        return False

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """The instances of its host whose streams this change would cut, by name, or `EVERY`."""
        return frozenset()

    def endangers(self, have: State, want: State) -> bool:
        """Whether this change may take the cards from running containers (docs/facts.md#lost-cards)."""
        return self.prepares_host

    def repaired(self, have: State) -> State:
        """What was found, with what broke by itself put right and nothing else changed; `have` where nothing did."""
        return have

    def note(self, facts: HostFacts) -> str:
        """A line for the operator about something on this host that stays as it is; empty for none."""
        return ""

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The wanted state with which a rollback puts back what was found here before a change.

        Args:
            facts: what is known of the host now.
            have: what is found now.
            past: what was found then, with the bytes of files where they are known.

        Raises:
            RefusalError: it cannot be put back on this host any more.
        """
        return past

    def restored_fact(self, past: State) -> Fact:
        """The fact of a rollback: its state compares with the past state.

        Args:
            past: as of `restore`; None for a thing that was not there.
        """
        return self.fact()

    def needs(self, past: Mapping[str, Any]) -> "Sequence[Step]":
        """What has to be as wanted before a rollback puts a past state back.

        Args:
            past: as of `restore`.
        """
        return ()

    def brings(self) -> "Sequence[Step]":
        """What a rollback that puts this back has to make as wanted too, where the inventory declares neither."""
        return ()

    def follows(self, put_back: PutBack) -> "Step | None":
        """The declared step that a rollback makes as wanted after all else; None where the rollback does not touch it.

        Args:
            put_back: what else the rollback does on this host.
        """
        return None

    def irrevocable(self, before: State, after: State) -> str:
        """Why a rollback leaves a change as it is; empty where it can be undone.

        Args:
            before: what was found before it; None for a thing that was not there.
            after: what was wanted.
        """
        return ""

    def diff(self, have: State, want: State) -> Sequence[str]:
        """Lines that show the change. Never shows a secret."""
        return wording.lines(self.words, have, want)

    def why(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
        """Why the step changes, in the operator's words."""
        return wording.reason(self.words, have, want)

    @abstractmethod
    def check(self, live: Any) -> Iterator[Check]:
        """Proofs by testinfra. Asks what the step is for, not what it wrote.

        Args:
            live: testinfra's host, over the connection that is already open.
        """


class Owned(ABC):
    """A kind of thing that carries our mark on a host. What carries it and is not declared is an orphan."""

    last: ClassVar[bool] = False
    """Whether orphans go after everything else has changed: what was there is used until its successor is there."""

    @property
    def finds(self) -> frozenset[str]:
        """The ids of all that it can find; empty where nobody knows them before. It looks for no declared ones."""
        return frozenset()

    @abstractmethod
    def fact(self) -> Fact:
        """Reads everything of this kind that carries our mark: step id -> state."""

    def kept(self, found: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """Ids of what nobody declares and what stays all the same, for the time being.

        Args:
            found: what the fact found.
            declared: ids of everything that is declared.
        """
        return ()

    @abstractmethod
    def step(self, step_id: str) -> Step:
        """The step that can remove the thing of this id: `commands(have, None)` is what is used of it."""

    def former(self, step_id: str, have: State) -> Step | None:
        """The step of a thing that is declared no longer, for a rollback; None where this kind has no such id.

        Args:
            step_id: as a journal names it.
            have: what was found of the thing before the run; None for a thing that was not there.
        """
        step = self.step(step_id) if ":" in step_id else None
        return step if step is not None and step.id == step_id else None


def asked_once(live: Any, command: str, *args: str) -> Any:
    """Ask something that the checks of several steps look at, once in a verification.

    Only for reads whose answer no check of the same verification changes. What is asked after a check has done
    something, or to see a change, goes by `live.run`.

    Args:
        live: testinfra's host.
        command: as for its `run`.
        args: likewise.
    """
    ask = getattr(getattr(live, "backend", None), "run_once", live.run)
    return ask(command, *args)


def read_once(live: Any, command: Run) -> Answer:
    """The answer to a fact's command, as the verification's own plan read it; else the host is asked now, once.

    Args:
        live: testinfra's host.
        command: of a fact: a script on standard input, with its arguments behind `sh -s --`.
    """
    known: Mapping[Run, Answer] = getattr(getattr(live, "backend", None), "known", {})
    if command in known:
        return known[command]
    words = command.words[3:]
    said = asked_once(live, "sh -c %s sh" + " %s" * len(words), command.stdin.decode(), *words)
    return Answer(said.rc, said.stdout.encode(), said.stderr.encode())


def differing(have: State, want: State) -> list[tuple[str, Any]]:
    """The keys of `want` that are otherwise in `have`, with the wanted values.

    Args:
        have: found; keys that `want` does not name are evidence and not compared.
        want: wanted.
    """
    return [(key, value) for key, value in (want or {}).items() if have is None or have.get(key) != value]


def converged(have: State, want: State) -> bool:
    """Whether what was found is what is wanted."""
    if have is None or want is None:
        return have is None and want is None
    return not differing(have, want)


def text_diff(have: str, want: str, path: str) -> list[str]:
    """A unified diff of two texts, without the two header lines' dates."""
    lines = difflib.unified_diff(have.splitlines(), want.splitlines(), path, path, lineterm="", n=2)
    return list(lines)
