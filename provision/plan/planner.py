"""The planner: from steps and the state of a host to changes. Pure."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from provision.command import OUT_OF_TIME, SLOW, Answer, Command, Run
from provision.errors import FactError, HostError, RefusedError
from provision.inventory import Mask
from provision.plan.orphans import orphans
from provision.plan.role_interface import UNSET, Entry, Past
from provision.steps.base import BlockedError, Fact, Owned, RefusalError, State, Step, UnreadableError, converged
from provision.steps.docker import inspect
from provision.steps.facts import TITLE, HostFacts
from provision.steps.facts import parse as facts_of_host
from provision.terminal_text import ending

# Exceptions of a parser at an unforeseen answer: a host may answer anything.
GARBLED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
NOTHING_CHANGED = "nothing was changed on this host"


@dataclass(frozen=True)
class Change:
    """A step whose state on the host differs from the wanted state.

    Args:
        role: the role of the step.
        step: the step.
        action: `add`, `change` or `remove`.
        reason: why the step changes, in one line.
        have: the state on the host; None if absent or not known yet.
        want: the wanted state; None for a removal, or if not known yet.
        diff: lines that show the change; never a secret.
        impact: the cost in the operator's terms; may be empty.
        commands: the commands to run; empty if not known yet.
        pending: known only after another step has changed, and read again then.
        past: as in `Entry`.
        is_consequence: whether the change belongs to another change of the plan, so that nobody counts it.
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
    is_consequence: bool = False

    @property
    def entry(self) -> Entry:
        """The step with its role, and with the state that the run brings about."""
        return Entry(self.role, self.step, self.past)


@dataclass(frozen=True)
class HostPlan:
    """The changes of one host.

    Args:
        changes: in order: orphans first, unless in use, then the declared steps.
        steps: the number of steps compared.
        states: step id -> state on the host, for every readable step.
        notes: step id -> a remark for the operator about something left unchanged.
        refused: instance -> the reason of the refusal. No step of a refused instance is among the changes.
        left_out: the number of steps of refused instances.
    """

    changes: tuple[Change, ...] = ()
    steps: int = 0
    states: Mapping[str, State] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0

    @property
    def ok(self) -> int:
        """The number of steps that are as wanted."""
        return self.steps - self.left_out - sum(change.action != "remove" for change in self.changes)


def facts_of(entries: Iterable[Entry], finders: Iterable[tuple[str, Owned]]) -> tuple[Run, ...]:
    """Return the commands that read all entries and finders, each once; first the slow commands to run beside the
    rest."""
    facts = [entry.fact() for entry in entries] + [finder.fact() for _, finder in finders]
    return tuple(sorted(dict.fromkeys(fact.command for fact in facts), key=lambda command: not command.slow))


def parse(fact: Fact, answers: Mapping[Run, Answer], step: str) -> State:
    """Parse the answer to one fact.

    Raises:
        BlockedError: known only after another step.
        FactError: the answer is unreadable.
    """
    try:
        return fact.parse(answers[fact.command])
    except UnreadableError as error:
        raise _unreadable(fact, answers[fact.command], step, str(error)) from error
    except GARBLED as error:
        problem = f"the answer makes no sense ({type(error).__name__}: {str(error)[:200]})"
        raise _unreadable(fact, answers[fact.command], step, problem) from error


def host_facts(answers: Mapping[Run, Answer], before: HostFacts | None = None) -> HostFacts:
    """Parse the facts about the host.

    Args:
        answers: to one or more of `facts.command`. The read of Docker also tells where our containers are published.
        before: the facts known before. A fact without an answer keeps its value.

    Raises:
        FactError: an answer makes no sense.
    """
    facts = before or HostFacts()
    for command, answer in answers.items():
        if command.title != TITLE:
            continue
        try:
            facts = facts_of_host(answer.text, facts)
        except GARBLED as error:
            raise FactError(
                f"the host facts cannot be read: {error}",
                f"look at the host; {SLOW}" if answer.exit == OUT_OF_TIME else "look at the host",
                exit_status=answer.exit,
                stderr=answer.error,
            ) from error
    if inspect.command() in answers:
        try:
            published, attached = inspect.places(answers[inspect.command()])
            foreign = inspect.foreign(answers[inspect.command()])
            facts = dataclasses.replace(
                facts, published=published, attached=attached, foreign=foreign or {}, foreign_known=foreign is not None
            )
        except BlockedError as blocked:
            facts = dataclasses.replace(facts, published=None, attached=(), asked_after=blocked.by)
    return facts


def _unreadable(fact: Fact, answer: Answer, step: str, why: str) -> FactError:
    late = answer.exit == OUT_OF_TIME
    reason = f"no answer in {fact.command.timeout:g} s times timeout_factor" if late else ending(why, 1000)
    return FactError(
        f"{step} cannot be read: {reason}",
        f"look at the host; {SLOW + '; ' if late else ''}nothing was changed by this step",
        step=step,
        command=str(fact.command),
        exit_status=answer.exit,
        stderr=ending(answer.complaint, 2000),
    )


def plan_host(
    entries: Sequence[Entry],
    declared: frozenset[str],
    finders: Sequence[tuple[str, Owned]],
    facts: HostFacts,
    answers: Mapping[Run, Answer],
    earlier: Mapping[str, Change] = MappingProxyType({}),
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> HostPlan:
    """Plan the changes of a host.

    Args:
        entries: the steps to compare, in order.
        declared: ids of everything that the inventory declares on this host, compared or not.
        finders: find marked things of ours.
        facts: facts about the host.
        answers: the answers to the commands of all facts.
        earlier: step id -> change, for the changes made before these entries.
        unfit: instance -> why its models do not fit its cards: the instance is refused.

    Raises:
        FactError: a fact is unreadable.
        RefusedError: a step refuses this host.
    """
    changing: dict[str, Change] = dict(earlier)
    states: dict[str, State] = {}
    refused = {**unfit, **{name: why for entry in entries for name, why in entry.step.refused(facts).items()}}
    chosen = [entry for entry in entries if entry.step.part_of not in refused]
    for entry in chosen:
        change = _change(entry, facts, answers, changing, states)
        if change is not None:
            changing[entry.step.id] = change
    read = partial(_marked, declared=declared, answers=answers, changing=changing)
    replaced = {change.step.part_of for change in changing.values() if change.step.serves}
    first, last = (
        [
            make_change(entry, have, None)
            for entry, have in orphans(finders, declared, read, last=is_last)
            if entry.step.part_of not in refused and not (entry.step.follows_test and entry.step.part_of in replaced)
        ]
        for is_last in (False, True)
    )
    changes = [change for step, change in changing.items() if step not in earlier]
    notes = {e.step.id: note for e in entries if (note := e.step.note(facts, states.get(e.step.id)))}
    left_out = len(entries) - len(chosen)
    return HostPlan((*first, *changes, *last), len(entries), states, notes, refused, left_out)


def _change(
    entry: Entry,
    facts: HostFacts,
    answers: Mapping[Run, Answer],
    changing: Mapping[str, Change],
    states: dict[str, State],
) -> Change | None:
    step, have = entry.step, None
    try:
        have = states[step.id] = parse(entry.fact(), answers, step.id)
        want = wanted(entry, facts, have)
    except BlockedError as blocked:
        return _pending(entry, _blocker(step.id, blocked, changing), facts, have)
    stale = next((other for other in step.after if other in changing), "")
    if not stale:
        return None if converged(have, want) else make_change(entry, have, want)
    return _pending(entry, stale, facts, have)


def wanted(entry: Entry, facts: HostFacts, have: State) -> State:
    """Return the wanted state of a step on this host; in a rollback the state to restore.

    Args:
        entry: the step with its role.
        facts: facts about the host.
        have: the state on the host.

    Raises:
        BlockedError: known only after another step.
        RefusedError: the step refuses this host.
        FactError: the facts about the host make no sense.
    """
    step = entry.step
    try:
        return entry.want(facts, have)
    except RefusalError as error:
        raise RefusedError(str(error), NOTHING_CHANGED, step=step.id) from error
    except GARBLED as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
        raise FactError(f"{step.id}: the facts about the host make no sense ({problem})", step=step.id) from error


def make_change(entry: Entry, have: State, want: State) -> Change:
    """Make the change from one known state to another.

    Args:
        entry: the step with its role.
        have: the state on the host.
        want: the wanted state; not converged with `have`.
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
    """Make a change that is known later. Its impact is the most it can cost, from the present read or from nothing."""
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
    """Return the marked things of a finder, by step id; empty if known only after another step.

    If the inventory does not declare that step, the step will not be changed, so none of the things runs, and nothing
    has to be removed now.
    """
    kind = type(finder).__name__
    try:
        return parse(finder.fact(), answers, kind) or {}
    except BlockedError as blocked:
        if blocked.by in declared:
            _blocker(kind, blocked, changing)
        return {}


def hidden(change: Change, hide: Mask) -> Change:
    """Return a change with secrets masked in everything shown.

    Args:
        change: the change.
        hide: masks secrets in a text.
    """
    return dataclasses.replace(change, reason=hide(change.reason), diff=hide(change.diff), impact=hide(change.impact))


def merged(*plans: HostPlan) -> HostPlan:
    """Merge the plans of a host, one for each wave.

    Args:
        plans: in the order of the waves.
    """
    changes = tuple(change for plan in plans for change in plan.changes)
    states = {step: state for plan in plans for step, state in plan.states.items()}
    notes = {step: note for plan in plans for step, note in plan.notes.items()}
    refused = {name: why for plan in plans for name, why in plan.refused.items()}
    steps, left_out = sum(plan.steps for plan in plans), sum(plan.left_out for plan in plans)
    return HostPlan(changes, steps, states, notes, refused, left_out)


def unplanned(planned: HostPlan, now: HostPlan) -> list[str]:
    """Return the ids of steps whose change now differs from the planned change.

    A step that became right by itself does not count, nor a step known only after a planned change. `Step.volatile`
    keys of a state do not count.
    """
    before = _outline(planned)
    waiting = {change.step.id for change in planned.changes if change.pending}
    known = {change.step.id for change in now.changes if not change.pending}
    return [change[0] for change in _outline(now) if change[0] in known - waiting and change not in before]


def agreed(shown: HostPlan | None, now: HostPlan) -> HostPlan:
    """Return the plan, if the operator agreed to every change of it.

    The state on the host does not count: time has passed, and requests and boots go on.

    Args:
        shown: the plan shown to the operator; None if nobody was asked.
        now: the plan to carry out.

    Raises:
        HostError: a change is new since the question.
    """
    before = {(change.step.id, change.action == "remove") for change in shown.changes} if shown else set()
    # a previous container belongs to the change of its instance
    changes = [change for change in now.changes if not change.step.follows_test]
    if shown and not before.issuperset((change.step.id, change.action == "remove") for change in changes):
        raise HostError(
            "the plan has changes that nobody agreed to", "run the command again: the plan shows the new changes"
        )
    return now


def _outline(planned: HostPlan) -> list[tuple[str, str, State, State]]:
    return [(c.step.id, c.action, _lasting(c.step, c.have), c.want) for c in planned.changes]


def _lasting(step: Step, have: State) -> State:
    return None if have is None else {key: value for key, value in have.items() if key not in step.volatile}
