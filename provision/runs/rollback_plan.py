"""From a run on a host to the steps of its rollback, in order, and the changes that no rollback can undo. Pure.

Removed things come back in the order of the sequence. Added things go afterwards in the opposite order: a container
before its volume. Models stay as they are, except for the models of an instance that comes back.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from provision.errors import FactError
from provision.inventory import Host, Inventory
from provision.inventory.topology import is_balancing, sources
from provision.plan import role_interface
from provision.plan.planner import GARBLED
from provision.plan.role_interface import PRESENT, Entry
from provision.runs.history import ChangeRecord, Story
from provision.steps.base import PutBack, State


@dataclass(frozen=True)
class Left:
    """A change that a rollback leaves as it is.

    Args:
        step: id of the step.
        why: the reason.
    """

    step: str
    why: str


@dataclass(frozen=True)
class Undo:
    """The rollback on one host.

    Args:
        host: the host, with its instances and models after the rollback.
        entries: the steps, in order.
        left: the changes left as they are.
    """

    host: Host
    entries: tuple[Entry, ...] = ()
    left: tuple[Left, ...] = ()


@dataclass
class _Target:
    """A step that the run changed.

    Args:
        entry: the step, as declared now or as its finder makes it.
        first: the first change of the step, with the state before.
        after: the wanted state of the last change.
    """

    entry: Entry
    first: ChangeRecord
    after: State

    @property
    def is_new(self) -> bool:
        """Whether the run added the thing."""
        return self.first.known and self.first.have is None


def undo(host: Host, inventory: Inventory, story: Story, roles: frozenset[str]) -> Undo:
    """Plan the rollback of a run on a host.

    Args:
        host: the host, as declared now.
        inventory: the whole inventory.
        story: the run on the host.
        roles: the roles to roll back.

    Raises:
        FactError: the journal on the host makes no sense.
    """
    try:
        return _undo(host, inventory, story, roles)
    except GARBLED as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise FactError(f"the journal of {story.entry.run} makes no sense ({why})", "look at the host") from error


def _undo(host: Host, inventory: Inventory, story: Story, roles: frozenset[str]) -> Undo:
    declared = {entry.step.id: entry for entry in role_interface.steps(host, inventory)}
    targets, left = _targets(story.changes, declared, roles)
    reasons = _reasons(targets)
    kept = [target for target in targets if target.first.step not in reasons]
    left += [Left(step, why) for step, why in reasons.items()]
    then = _as_it_was(host, kept)
    entries = _entries(kept, role_interface.steps(then, inventory))
    ids = {entry.step.id for entry in entries}
    return Undo(then, tuple(entries), tuple(change for change in left if change.step not in ids))


def with_balancers(undos: Mapping[str, Undo], inventory: Inventory, roles: frozenset[str]) -> dict[str, Undo]:
    """Add the balancers that send to the hosts of a rollback: a member that the run left `down` is to be admitted.

    Args:
        undos: host -> its rollback.
        inventory: the whole inventory.
        roles: the roles to roll back.
    """
    result = dict(undos)
    touched = {name for name, planned in undos.items() if planned.entries}
    for host in inventory.hosts if role_interface.routing() <= roles else ():
        if not is_balancing(host, inventory) or not touched & {source.name for source in sources(host, inventory)}:
            continue
        known = result.get(host.name, Undo(host))
        routing = next(entry for entry in role_interface.steps(host, inventory) if entry.step.routes)
        if routing.step.id not in {entry.step.id for entry in known.entries}:
            marks = dataclasses.replace(routing, past=PRESENT)
            result[host.name] = dataclasses.replace(known, entries=(*known.entries, marks))
    return result


def _targets(
    changes: Iterable[ChangeRecord], declared: Mapping[str, Entry], roles: frozenset[str]
) -> tuple[list[_Target], list[Left]]:
    """Return the steps of the run, each once, and the steps that this version does not know."""
    targets: dict[str, _Target] = {}
    left: dict[str, Left] = {}
    for change in changes:
        if change.role not in roles:
            continue
        if change.step in targets:
            targets[change.step].after = change.want
            continue
        entry = declared.get(change.step) or _entry_by_mark(change)
        if entry is None:
            left[change.step] = Left(change.step, "this version of provision knows no such step")
        else:
            targets[change.step] = _Target(entry, change, change.want)
    return list(targets.values()), list(left.values())


def _entry_by_mark(change: ChangeRecord) -> Entry | None:
    """Return a step that is no longer declared, as the finder of its kind makes it."""
    finders = (finder for role, finder in role_interface.owned() if role == change.role)
    steps = (finder.former(change.step, change.have) for finder in finders)
    return next((Entry(change.role, step) for step in steps if step is not None), None)


def _reasons(targets: Sequence[_Target]) -> dict[str, str]:
    """Return step id -> why a rollback leaves the change as it is. Steps to restore have no entry."""
    reasons: dict[str, str] = {}
    lost = {role: _irrevocable(target) for target in targets for role in target.entry.step.foundation_of}
    for target in targets:
        unknown = "" if target.first.known else "the state before the run is not kept on this host any more"
        why = unknown or lost.get(target.first.role) or _irrevocable(target)
        if why:
            reasons[target.first.step] = why
    return reasons


def _irrevocable(target: _Target) -> str:
    return target.entry.step.irrevocable(target.first.have, target.after)


def _as_it_was(host: Host, targets: Sequence[_Target]) -> Host:
    """Return the host without the instances that the run added. The rest is tested."""
    gone = {target.entry.step.part_of for target in targets if target.entry.step.serves and target.is_new}
    left = tuple(instance for instance in host.instances if instance.name not in gone)
    return dataclasses.replace(host, instances=left)


def _entries(targets: Sequence[_Target], declared: Sequence[Entry]) -> list[Entry]:
    """Return the steps to restore, the steps that follow, and the steps to remove.

    Args:
        targets: the changes to undo.
        declared: the steps of the host after the rollback.
    """
    places = {entry.step.id: number for number, entry in enumerate(declared)}
    order = role_interface.order()

    def place(target: _Target) -> tuple[int, int]:
        """Undeclared steps come first in their role; of these, the last removed comes first."""
        return order.index(target.entry.role), places.get(target.first.step, -1)

    there, new = ([target for target in reversed(targets) if target.is_new == is_new] for is_new in (False, True))
    back = [_restored(target) for target in sorted(there, key=place) if not target.entry.step.is_health]
    gone = [_restored(target) for target in sorted(new, key=lambda target: -order.index(target.entry.role))]
    put_back = PutBack(
        restored=frozenset(target.first.step for target in there),
        recreated=frozenset(target.first.step for target in there if target.after is None),
        removed=frozenset(target.first.step for target in new),
    )
    first = [entry for entry in back if entry.step.prepares_host]
    rest = [entry for entry in [*_needed(there), *back] if entry not in first]
    return _in_sequence([*first, *rest, *_following(back, put_back, declared)], order) + gone


def _in_sequence(entries: Sequence[Entry], order: Sequence[str]) -> list[Entry]:
    """Order steps by role, except for steps that prepare the host: these come before the first container. No
    duplicates."""
    once = {entry.step.id: entry for entry in reversed(entries)}
    unique = [entry for entry in entries if once[entry.step.id] is entry]
    early = [entry for entry in unique if entry.step.prepares_host]
    late = [entry for entry in unique if not entry.step.prepares_host]
    return [*early, *sorted(late, key=lambda entry: order.index(entry.role))]


def _restored(target: _Target) -> Entry:
    return Entry(target.entry.role, target.entry.step, target.first.have)


def _needed(targets: Sequence[_Target]) -> list[Entry]:
    """Return the steps that restored things depend on."""
    return [
        Entry(target.entry.role, step)
        for target in targets
        if target.first.have is not None
        for step in target.entry.step.needs(target.first.have)
    ]


def _following(back: Sequence[Entry], put_back: PutBack, declared: Sequence[Entry]) -> list[Entry]:
    """Return the steps that follow a rollback: running services, loaded models.

    Args:
        back: the restored steps.
        put_back: all restored and removed steps, as ids.
        declared: the steps of the host after the rollback.
    """
    known = {entry.step.id for entry in declared}
    wanted = [(entry.role, entry.step.follows(put_back)) for entry in declared]
    brought = [(entry.role, step) for entry in back if entry.step.id not in known for step in entry.step.brings()]
    return [Entry(role, step) for role, step in [*wanted, *brought] if step is not None]
