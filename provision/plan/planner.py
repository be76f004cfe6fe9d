"""Steps and what was found -> what would change. Pure."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from provision.command import Answer, Command, Run
from provision.errors import FactError, HostError, RefusedError
from provision.inventory import Mask
from provision.plan.orphans import orphans
from provision.plan.role_interface import UNSET, Entry, Past
from provision.steps.base import BlockedError, Fact, Owned, RefusalError, State, Step, UnreadableError, converged
from provision.steps.docker import inspect
from provision.steps.facts import TITLE, HostFacts
from provision.steps.facts import parse as facts_of_host

# What a parser may stumble over in an answer that nobody foresaw; a host may say anything.
GARBLED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
NOTHING_CHANGED = "nothing was changed on this host"


@dataclass(frozen=True)
class Change:
    """One step that is not as wanted.

    Args:
        role: the role it belongs to.
        step: the step.
        action: `add`, `change` or `remove`.
        reason: why, in one line.
        have: what was found; None where it is not known yet.
        want: what is wanted; None where it is not known yet.
        diff: lines that show the change; never a secret.
        impact: what it costs, in the operator's terms; may be empty.
        commands: what will be run; empty where it is not known yet.
        pending: known only after another step has changed; read again then.
        past: as of its `Entry`.
    """

    role: str
    step: Step
    action: str
    reason: str
    have: State = None
    want: State = None
    diff: tuple[str, ...] = ()
    impact: str = ""
    commands: tuple[Command, ...] = ()
    pending: bool = False
    past: State | Past = field(default=UNSET, repr=False)

    @property
    def entry(self) -> Entry:
        """The step in its place, with the state that the run brings it to."""
        return Entry(self.role, self.step, self.past)


@dataclass(frozen=True)
class HostPlan:
    """What would change on one host.

    Args:
        changes: in the order in which they are made: what nobody declares any more first, but for what is in use.
        steps: how many steps were looked at.
        found: step id -> what was found, for the steps that could be read.
        notes: step id -> what an operator has to know though nothing of it changes.
        refused: instance -> why it cannot be worked on. None of its steps is among the changes.
        left_out: how many steps these instances have.
    """

    changes: tuple[Change, ...] = ()
    steps: int = 0
    found: Mapping[str, State] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0

    @property
    def ok(self) -> int:
        """How many steps are as wanted."""
        return self.steps - self.left_out - sum(change.action != "remove" for change in self.changes)


def facts_of(entries: Iterable[Entry], finders: Iterable[tuple[str, Owned]]) -> tuple[Run, ...]:
    """The commands that read all of these, each once; those first that go on beside the others."""
    facts = [entry.fact() for entry in entries] + [finder.fact() for _, finder in finders]
    return tuple(sorted(dict.fromkeys(fact.command for fact in facts), key=lambda command: not command.slow))


def parse(fact: Fact, answers: Mapping[Run, Answer], step: str) -> State:
    """What one fact says.

    Raises:
        BlockedError: known only after another step.
        FactError: unreadable.
    """
    try:
        return fact.parse(answers[fact.command])
    except UnreadableError as error:
        raise _unreadable(fact, answers[fact.command], step, str(error)) from error
    except GARBLED as error:
        said = f"its answer makes no sense ({type(error).__name__}: {str(error)[:200]})"
        raise _unreadable(fact, answers[fact.command], step, said) from error


def host_facts(answers: Mapping[Run, Answer], before: HostFacts | None = None) -> HostFacts:
    """What is known of the host.

    Args:
        answers: to one or more of `facts.command`; where our containers are published may also come of the look at
            Docker.
        before: what was known before: what was not read stays as it was.

    Raises:
        FactError: an answer makes no sense.
    """
    found = before or HostFacts()
    for command, answer in answers.items():
        if command.title != TITLE:
            continue
        try:
            found = facts_of_host(answer.text, found)
        except GARBLED as error:
            raise FactError(
                f"the host facts cannot be read: {error}", exit_status=answer.exit, stderr=answer.error
            ) from error
    if inspect.COMMAND in answers:
        try:
            found = dataclasses.replace(found, published=inspect.published(answers[inspect.COMMAND]))
        except BlockedError as blocked:
            found = dataclasses.replace(found, published=None, asked_after=blocked.by)
    return found


def _unreadable(fact: Fact, answer: Answer, step: str, why: str) -> FactError:
    return FactError(
        f"{step} cannot be read: {why[-1000:]}",
        "look at the host; nothing was changed by this step",
        step=step,
        command=str(fact.command),
        exit_status=answer.exit,
        stderr=answer.complaint[-2000:],
    )


def plan_host(
    entries: Sequence[Entry],
    declared: frozenset[str],
    finders: Sequence[tuple[str, Owned]],
    facts: HostFacts,
    answers: Mapping[Run, Answer],
    earlier: Mapping[str, Change] = MappingProxyType({}),
) -> HostPlan:
    """What would change on a host.

    Args:
        entries: the steps to look at, in order.
        declared: ids of everything the inventory declares on this host, looked at or not.
        finders: what looks for things with our mark.
        facts: host facts.
        answers: what the host said to every fact's command.
        earlier: step id -> change, of what will have been changed before these.

    Raises:
        FactError: something cannot be read.
        RefusedError: a step refuses this host.
    """
    changing: dict[str, Change] = dict(earlier)
    found: dict[str, State] = {}
    refused = {name: why for entry in entries for name, why in entry.step.refused(facts).items()}
    chosen = [entry for entry in entries if entry.step.part_of not in refused]
    for entry in chosen:
        change = _change(entry, facts, answers, changing, found)
        if change is not None:
            changing[entry.step.id] = change
    read = partial(_marked, declared=declared, answers=answers, changing=changing)
    first, last = (
        [
            make_change(entry, have, None)
            for entry, have in orphans(finders, declared, read, last=is_last)
            if entry.step.part_of not in refused
        ]
        for is_last in (False, True)
    )
    changes = [change for step, change in changing.items() if step not in earlier]
    notes = {entry.step.id: note for entry in entries if (note := entry.step.note(facts))}
    left_out = len(entries) - len(chosen)
    return HostPlan((*first, *changes, *last), len(entries), found, notes, refused, left_out)


def _change(
    entry: Entry,
    facts: HostFacts,
    answers: Mapping[Run, Answer],
    changing: Mapping[str, Change],
    found: dict[str, State],
) -> Change | None:
    step, have = entry.step, None
    try:
        have = found[step.id] = parse(entry.fact(), answers, step.id)
        want = wanted(entry, facts, have)
    except BlockedError as blocked:
        return _pending(entry, _blocker(step.id, blocked, changing), facts, have)
    stale = next((other for other in step.after if other in changing), "")
    if not stale:
        return None if converged(have, want) else make_change(entry, have, want)
    return _pending(entry, stale, facts, have)


def wanted(entry: Entry, facts: HostFacts, have: State) -> State:
    """What a step wants on this host, or what a rollback puts back.

    Args:
        entry: the step in its place.
        facts: what is known of the host.
        have: what was found.

    Raises:
        BlockedError: known only after another step.
        RefusedError: the step refuses this host.
    """
    step = entry.step
    try:
        return entry.want(facts, have)
    except RefusalError as error:
        raise RefusedError(str(error), NOTHING_CHANGED, step=step.id) from error
    except GARBLED as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise FactError(f"{step.id}: what the host says of itself makes no sense ({said})", step=step.id) from error


def make_change(entry: Entry, have: State, want: State) -> Change:
    """The change from one known state to another.

    Args:
        entry: the step in its place.
        have: what was found.
        want: what is wanted; not converged with `have`.
    """
    step = entry.step
    action = "remove" if want is None else "add" if have is None else "change"
    diff = tuple(step.diff(have, want))
    return Change(
        role=entry.role,
        step=step,
        action=action,
        reason=entry.gone if want is None else "not there" if have is None else step.why(have, want),
        have=have,
        want=want,
        diff=diff,
        impact=step.impact(have, want),
        commands=tuple(step.commands(have, want)),
        past=entry.past,
    )


def _pending(entry: Entry, by: str, facts: HostFacts, have: State) -> Change:
    """A change that is known later. What it would cost from what was read, or from nothing, is the most it can cost."""
    impact = ""
    with contextlib.suppress(BlockedError, RefusalError):
        impact = entry.step.impact(have, entry.want(facts, have))
    reason = f"known after {by}"
    most = f"at most: {impact}" if impact else ""
    return Change(entry.role, entry.step, "change", reason, impact=most, pending=True, past=entry.past)


def _blocker(step_id: str, blocked: BlockedError, changing: Mapping[str, Change]) -> str:
    if blocked.by in changing:
        return blocked.by
    hint = f"{blocked.by} is not about to change; look at the host, or run without --tags"
    raise FactError(f"{step_id} is known only after {blocked.by}", hint, step=step_id, stderr=blocked.evidence)


def _marked(
    finder: Owned, declared: frozenset[str], answers: Mapping[Run, Answer], changing: Mapping[str, Change]
) -> Mapping[str, State]:
    """What carries our mark, by step id; nothing where that is known only after another step.

    What another step would have to start first, and nobody declares, will not be started: nothing of it runs, so
    nothing of it has to be removed now.
    """
    kind = type(finder).__name__
    try:
        return parse(finder.fact(), answers, kind) or {}
    except BlockedError as blocked:
        if blocked.by in declared:
            _blocker(kind, blocked, changing)
        return {}


def hidden(change: Change, hide: Mask) -> Change:
    """A change with nothing secret in what is shown of it.

    Args:
        change: the change.
        hide: takes secrets out of a text.
    """
    return dataclasses.replace(change, reason=hide(change.reason), diff=hide(change.diff), impact=hide(change.impact))


def merged(*plans: HostPlan) -> HostPlan:
    """The plans of a host, one for each wave, as one plan.

    Args:
        plans: in the order of the waves.
    """
    changes = tuple(change for plan in plans for change in plan.changes)
    found = {step: state for plan in plans for step, state in plan.found.items()}
    notes = {step: note for plan in plans for step, note in plan.notes.items()}
    refused = {name: why for plan in plans for name, why in plan.refused.items()}
    steps, left_out = sum(plan.steps for plan in plans), sum(plan.left_out for plan in plans)
    return HostPlan(changes, steps, found, notes, refused, left_out)


def unplanned(planned: HostPlan, now: HostPlan) -> list[str]:
    """Ids of the steps that are to be changed now in another way than was planned, from what to what.

    What became right by itself is not among them, nor what is only known after a planned change. Keys of a state that
    are `Step.volatile` do not count.
    """
    before = _outline(planned)
    waiting = {change.step.id for change in planned.changes if change.pending}
    known = {change.step.id for change in now.changes if not change.pending}
    return [change[0] for change in _outline(now) if change[0] in known - waiting and change not in before]


def agreed(shown: HostPlan | None, now: HostPlan) -> HostPlan:
    """The plan, if an operator has agreed to all of it: nothing else is changed or removed.

    What a thing is like by now does not count: time has passed, and requests and boots go on.

    Args:
        shown: the plan that he has seen; None where nobody was asked.
        now: what is to be done.

    Raises:
        HostError: he has not.
    """
    before = {(change.step.id, change.action == "remove") for change in shown.changes} if shown else set()
    if shown and not before.issuperset((change.step.id, change.action == "remove") for change in now.changes):
        raise HostError("more is to be changed than was agreed to", "run it again: it shows what")
    return now


def _outline(planned: HostPlan) -> list[tuple[str, str, State, State]]:
    return [(c.step.id, c.action, _lasting(c.step, c.have), c.want) for c in planned.changes]


def _lasting(step: Step, have: State) -> State:
    return None if have is None else {key: value for key, value in have.items() if key not in step.volatile}
