"""In which order the changes of a host are made, and which of them while the same instances serve nobody. Pure.

A running instance that is replaced is out of the upstream from the change that stops it to the last one that it needs
to serve again. So all of its changes follow each other, instance after instance; all others keep their place.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.errors import FactError
from provision.plan.planner import Change, parse
from provision.plan.role_interface import Entry
from provision.steps.base import EVERY, BlockedError, Step

Disrupts = Callable[[Change], frozenset[str]]
"""Which instances of the host a change cuts the streams of."""


@dataclass(frozen=True)
class Group:
    """Changes that are made one after the other; what is taken out for them goes back after the last one.

    Args:
        changes: the changes.
        instances: what is out together if one of them is; empty where a change concerns none, or itself alone.
    """

    changes: tuple[Change, ...]
    instances: frozenset[str] = frozenset()


def is_container(step: Step) -> bool:
    """Whether a step is the container of an instance."""
    return step.serves


def creates(change: Change) -> bool:
    """Whether it makes an instance where none is: it is not there, or does not run and listened elsewhere."""
    if not is_container(change.step) or change.want is None or change.pending:
        return False
    have = change.have
    return have is None or not (have.get("running") or have.get("publish") == change.want.get("publish"))


def groups(changes: Sequence[Change], disrupts: Disrupts) -> tuple[Group, ...]:
    """The changes of one host, grouped.

    Args:
        changes: as planned.
        disrupts: whose streams a change cuts.
    """
    everything = _whole_host(changes, disrupts)
    if everything is not None:
        first, last = everything
        before = groups(changes[:first], disrupts)
        return (*before, Group(tuple(changes[first:last]), EVERY), *groups(changes[last:], disrupts))
    return tuple(_in_turn(changes, _clusters(changes, disrupts)))


def _whole_host(changes: Sequence[Change], disrupts: Disrupts) -> tuple[int, int] | None:
    """From the first change that disrupts all instances to the last; to the end where others would be out again."""
    found = [number for number, change in enumerate(changes) if disrupts(change) == EVERY]
    if not found:
        return None
    others = any(disrupts(change) or _may_disrupt(change) for change in changes[found[-1] + 1 :])
    return found[0], len(changes) if others else found[-1] + 1


def _in_turn(changes: Sequence[Change], clusters: Mapping[str, frozenset[str]]) -> Iterator[Group]:
    """Each cluster where its first change is, but what other instances need to serve comes before the first of them:
    they may be missing in the upstream, and then nothing else could be taken out of it.

    What is removed keeps its place, unless what takes its cards or its port is made here: then it goes with that.
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
                early = [one for one in changes[number:] if _serves(one) and not _cluster(one, clusters)]
                yield from (Group((one,)) for one in early)
            begun.add(cluster)
            yield Group(tuple(one for one in changes if _cluster(one, clusters) == cluster), cluster)


def _serves(change: Change) -> bool:
    """Whether an instance needs it to serve."""
    return bool(change.step.part_of) and change.action != "remove"


def _cluster(change: Change, clusters: Mapping[str, frozenset[str]]) -> frozenset[str]:
    found = clusters.get(change.step.part_of, frozenset())
    return frozenset() if change.action == "remove" and len(found) == 1 else found


def _clusters(changes: Sequence[Change], disrupts: Disrupts) -> dict[str, frozenset[str]]:
    """Every instance that may be taken out -> those that must be out with it, because cards or ports change hands."""
    moving = {one.step.part_of for one in changes if one.step.part_of and (disrupts(one) or _may_disrupt(one))}
    found = {name: frozenset({name}) for name in moving}
    containers = [change for change in changes if is_container(change.step)]
    for taker in containers:
        for giver in containers:
            if taker is not giver and _holds(taker.want) & _holds(giver.have):
                one, other = taker.step.part_of, giver.step.part_of
                joined = found.get(one, frozenset({one})) | found.get(other, frozenset({other}))
                found.update(dict.fromkeys(joined, joined))
    return found


def _may_disrupt(change: Change) -> bool:
    """Whether it is a container of which more is known only when its turn comes."""
    return change.pending and is_container(change.step)


def _holds(state: Mapping[str, object] | None) -> set[str]:
    """Cards, and addresses with ports, of a container's state."""
    held: set[str] = set()
    for key in ("gpus", "publish"):
        value = (state or {}).get(key)
        held.update(map(str, value) if isinstance(value, list) else ())
    return held


def may_run(entry: Entry, answers: Mapping[Run, Answer]) -> bool:
    """Whether an instance may be running; what nobody asked for may.

    Args:
        entry: its container's step.
        answers: what was read last.
    """
    fact = entry.step.fact()
    try:
        have = parse(fact, answers, entry.step.id) if fact.command in answers else {"running": True}
    except (BlockedError, FactError):
        return True
    return have is not None and bool(have.get("running"))


def is_missing(entry: Entry, answers: Mapping[Run, Answer]) -> bool:
    """Whether an instance is not there: it was removed by hand, or an earlier run never made it.

    Args:
        entry: its container's step.
        answers: what was read last.
    """
    try:
        return parse(entry.step.fact(), answers, entry.step.id) is None
    except BlockedError:
        return False
