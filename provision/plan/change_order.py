"""The order of a host's changes, in groups: the same instances are out of service for all changes of a group. Pure.

A replaced instance is out of the upstream from the change that stops the instance to the last change that the instance
needs to serve again. So all changes of an instance follow each other. Changes of no instance keep their place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.errors import FactError
from provision.plan.planner import Change, parse
from provision.plan.role_interface import Entry
from provision.steps.base import EVERY, BlockedError, Step

Disrupts = Callable[[Change], frozenset[str]]
"""The instances of the host whose streams a change cuts."""


@dataclass(frozen=True)
class Group:
    """Changes made one after the other. Instances taken out for the group are admitted after the last change.

    Args:
        changes: the changes.
        instances: the instances that go out together if any of them does; empty for a change without an instance, or
            for a change that goes alone.
    """

    changes: tuple[Change, ...]
    instances: frozenset[str] = frozenset()


def is_container(step: Step) -> bool:
    """Whether a step is the container of an instance."""
    return step.serves


def creates(change: Change) -> bool:
    """Whether a change makes an instance where none serves: no container, or a stopped container with another port."""
    if not is_container(change.step) or change.want is None or change.pending:
        return False
    have = change.have
    if have is None or have.get("aside"):
        return True
    return not (have.get("running") or have.get("publish") == change.want.get("publish"))


def groups(changes: Sequence[Change], disrupts: Disrupts) -> tuple[Group, ...]:
    """Group the changes of one host. A change that follows a test goes alone, and so do all later changes.

    Args:
        changes: as planned.
        disrupts: the instances whose streams a change cuts.
    """
    end = next((number for number, change in enumerate(changes) if change.step.follows_test), len(changes))
    return (*_groups(changes[:end], disrupts), *(Group((change,)) for change in changes[end:]))


def with_releases(order: Sequence[Group]) -> tuple[Group, ...]:
    """Add the removal of everything that replacements keep for a return, each after the last group of its instance.

    Args:
        order: the groups of one host.
    """
    result: list[Group] = []
    kept: dict[str, Change] = {}
    for number, group in enumerate(order):
        result.append(group)
        kept |= {change.step.part_of: release for change in group.changes if (release := _release(change)) is not None}
        later = {change.step.part_of for following in order[number + 1 :] for change in following.changes}
        result += [Group((kept.pop(name),)) for name in sorted(kept.keys() - later)]
    return tuple(result)


def _release(change: Change) -> Change | None:
    """Return the removal of the thing that a change keeps; the next plan finds the thing that a pending change kept."""
    step = None if change.pending else change.step.release(change.have, change.want)
    if step is None:
        return None
    return Change(change.role, step, "remove", f"{step.part_of} has passed its test", is_consequence=True)


def _groups(changes: Sequence[Change], disrupts: Disrupts) -> tuple[Group, ...]:
    everything = _whole_host(changes, disrupts)
    if everything is not None:
        first, last = everything
        before = _groups(changes[:first], disrupts)
        return (*before, Group(tuple(changes[first:last]), EVERY), *_groups(changes[last:], disrupts))
    return tuple(_in_turn(changes, _clusters(changes, disrupts)))


def _whole_host(changes: Sequence[Change], disrupts: Disrupts) -> tuple[int, int] | None:
    """From the first change that disrupts all instances to the last; to the very end if a later change would take out
    instances again."""
    whole = [number for number, change in enumerate(changes) if disrupts(change) == EVERY]
    if not whole:
        return None
    others = any(disrupts(change) or _may_disrupt(change) for change in changes[whole[-1] + 1 :])
    return whole[0], len(changes) if others else whole[-1] + 1


def _in_turn(changes: Sequence[Change], clusters: Mapping[str, frozenset[str]]) -> Iterator[Group]:
    """Yield each cluster at the place of its first change; before the first cluster yield what other instances need.

    Such instances may be missing in the upstream, and then no instance could be taken out. A removal keeps its place,
    unless the new owner of its cards or port is made here: then the removal joins the cluster of the new owner.
    """
    begun: set[frozenset[str]] = set()
    early: list[Change] = []
    for number, change in enumerate(changes):
        cluster = _cluster(change, clusters)
        if not cluster:
            if change not in early:
                yield Group((change,))
        elif cluster not in begun and change.action != "remove":
            if not begun:
                early = [later for later in changes[number:] if _serves(later) and not _cluster(later, clusters)]
                yield from (Group((needed,)) for needed in early)
            begun.add(cluster)
            yield Group(tuple(member for member in changes if _cluster(member, clusters) == cluster), cluster)


def _serves(change: Change) -> bool:
    """Whether an instance needs the change in order to serve."""
    return bool(change.step.part_of) and change.action != "remove"


def _cluster(change: Change, clusters: Mapping[str, frozenset[str]]) -> frozenset[str]:
    cluster = clusters.get(change.step.part_of, frozenset())
    return frozenset() if change.action == "remove" and len(cluster) == 1 else cluster


def _clusters(changes: Sequence[Change], disrupts: Disrupts) -> dict[str, frozenset[str]]:
    """Return instance -> the instances that go out together, because cards or ports move among them."""
    moving = {
        change.step.part_of for change in changes if change.step.part_of and (disrupts(change) or _may_disrupt(change))
    }
    clusters = {name: frozenset({name}) for name in moving}
    containers = [change for change in changes if is_container(change.step)]
    for taker in containers:
        for giver in containers:
            if taker is not giver and _holds(taker.want) & _holds(giver.have):
                first, second = taker.step.part_of, giver.step.part_of
                joined = clusters.get(first, frozenset({first})) | clusters.get(second, frozenset({second}))
                clusters.update(dict.fromkeys(joined, joined))
    return clusters


def _may_disrupt(change: Change) -> bool:
    """Whether the change is a container whose state is known only later."""
    return change.pending and is_container(change.step)


def _holds(state: Mapping[str, object] | None) -> set[str]:
    """Return the cards, and the addresses with ports, of a container's state."""
    held: set[str] = set()
    for key in ("gpus", "publish"):
        value = (state or {}).get(key)
        held.update(map(str, value) if isinstance(value, list) else ())
    return held


def may_run(entry: Entry, answers: Mapping[Run, Answer]) -> bool:
    """Whether an instance may be running; without an answer, the instance may.

    Args:
        entry: the step of the container.
        answers: the latest reads.
    """
    fact = entry.step.fact()
    try:
        have = parse(fact, answers, entry.step.id) if fact.command in answers else {"running": True}
    except (BlockedError, FactError):
        return True
    return have is not None and bool(have.get("running"))


def is_missing(entry: Entry, answers: Mapping[Run, Answer]) -> bool:
    """Whether an instance is gone: removed by hand, never made by an earlier run, or stopped and kept aside.

    Args:
        entry: the step of the container.
        answers: the latest reads.
    """
    try:
        have = parse(entry.step.fact(), answers, entry.step.id)
    except BlockedError:
        return False
    return have is None or bool(have.get("aside"))
