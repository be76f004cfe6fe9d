"""Out of what a run did on a host: the steps that put it back, in their order, and what cannot be put back. Pure.

What was there comes back in the order of the sequence, and what was not there goes in the opposite order after it: a
model before its container, a container before its volume.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from provision.errors import FactError
from provision.inventory import Host, Instance, Inventory
from provision.inventory.topology import is_balancing, sources
from provision.plan import role_order
from provision.plan.planner import GARBLED
from provision.plan.role_order import Entry
from provision.runs.history import Made, Story
from provision.steps.base import State, Step
from provision.steps.docker.image import Image
from provision.steps.docker.service import DockerService
from provision.steps.instance import storage
from provision.steps.instance.container import Container
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.build import Builds
from provision.steps.nginx.generation import Generation
from provision.steps.ollama.loaded_models import Resident
from provision.steps.ollama.model import Model
from provision.steps.ollama.server_state import canonical
from provision.steps.restored import Remarked, Restored
from provision.steps.system.systemd import Service, Unit

NGINX = ("nginx", "balancer")  # the roles that are nothing without a build of nginx
FOLLOWING = (Resident, Service, DockerService)  # as they are wanted: what they were, their health was


@dataclass(frozen=True)
class Left:
    """A change that a rollback leaves as it is.

    Args:
        step: id of its step.
        why: the reason.
    """

    step: str
    why: str


@dataclass(frozen=True)
class Undo:
    """What a rollback does on one host.

    Args:
        host: the host, with the instances and models that it then has.
        entries: the steps, in order.
        left: what it leaves as it is.
    """

    host: Host
    entries: tuple[Entry, ...] = ()
    left: tuple[Left, ...] = ()


@dataclass
class _Target:
    """A step of the run, with what was found before its first change and wanted by its last."""

    entry: Entry
    made: Made
    after: State


@dataclass
class _Models:
    """The models of a host's instances after a rollback, each by its place and its name as the server shows it.

    Args:
        places: instance -> where its models are, as `Instance.storage` says.
        absent: what the run added or deleted: it is not there then.
        kept: what of that the run added and what stays nevertheless -> its name as it was declared.
    """

    places: Mapping[str, str]
    absent: set[tuple[str, str]] = field(default_factory=set)
    kept: dict[tuple[str, str], str] = field(default_factory=dict)

    def place(self, instance: str) -> str:
        """A folder of the host, which instances may share, or the instance, whose own volume it is."""
        found = self.places.get(instance, storage.VOLUME)
        return instance if found == storage.VOLUME else found

    def key(self, instance: str, model: str) -> tuple[str, str]:
        """What stands for a model here."""
        return self.place(instance), canonical(model)

    def of(self, instance: Instance) -> tuple[str, ...]:
        """The models that an instance has then, as far as is known: what is declared, and what stays."""
        place = self.place(instance.name)
        stay = {name: said for (where, name), said in self.kept.items() if where == place}
        declared = {canonical(name): name for name in instance.models if (place, canonical(name)) not in self.absent}
        return tuple({**stay, **declared}.values())

    def why_kept(self, one: _Target) -> str:
        """Why a model that was added stays; empty for all else."""
        step = one.entry.step
        if not isinstance(step, Model) or not _is_new(one) or self.key(step.instance, step.name) not in self.kept:
            return ""
        return f"kept: no other model is known to be left on {step.instance}"


def undo(host: Host, inventory: Inventory, story: Story, roles: frozenset[str]) -> Undo:
    """What puts back what a run did on a host.

    Args:
        host: the host, as it is declared now.
        inventory: the whole inventory.
        story: what the run did there.
        roles: the roles whose changes are put back.

    Raises:
        FactError: what the host says that it did makes no sense.
    """
    try:
        return _undo(host, inventory, story, roles)
    except GARBLED as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise FactError(f"the journal of {story.entry.run} makes no sense ({said})", "look at the host") from error


def _undo(host: Host, inventory: Inventory, story: Story, roles: frozenset[str]) -> Undo:
    declared = {entry.step.id: entry for entry in role_order.steps(host, inventory)}
    targets, left = _targets(story.made, declared, roles)
    kept: list[_Target] = []
    without_nginx = any(isinstance(one.entry.step, Builds) for one in targets)
    models = _models(host, targets)
    for one in targets:
        why = _why_not(one, without_nginx=without_nginx) or models.why_kept(one)
        if why:
            left.append(Left(one.made.step, why))
        else:
            kept.append(one)
    then = _as_it_was(host, kept, models)
    entries = _entries(kept, then, inventory)
    ids = {entry.step.id for entry in entries}
    return Undo(then, tuple(entries), tuple(one for one in left if one.step not in ids))


def with_balancers(undos: Mapping[str, Undo], inventory: Inventory, roles: frozenset[str]) -> dict[str, Undo]:
    """The same with the balancers that send to the hosts among them: an instance that a run left `down` comes back.

    Args:
        undos: host -> what is done there.
        inventory: the whole inventory.
        roles: the roles whose changes are put back.
    """
    found = dict(undos)
    touched = {name for name, one in undos.items() if one.entries}
    for host in inventory.hosts if set(role_order.LAST) <= roles else ():
        if not is_balancing(host, inventory) or not touched & {one.name for one in sources(host, inventory)}:
            continue
        known = found.get(host.name, Undo(host))
        entry = next(one for one in role_order.steps(host, inventory) if isinstance(one.step, Balancing))
        if entry.step.id not in {one.step.id for one in known.entries}:
            marks = Entry(entry.role, Remarked(step=entry.step))
            found[host.name] = dataclasses.replace(known, entries=(*known.entries, marks))
    return found


def _targets(
    made: Iterable[Made], declared: Mapping[str, Entry], roles: frozenset[str]
) -> tuple[list[_Target], list[Left]]:
    """The steps of the run, each once, and those of which nobody knows any more what they are."""
    found: dict[str, _Target] = {}
    left: dict[str, Left] = {}
    for one in made:
        if one.role not in roles:
            continue
        if one.step in found:
            found[one.step].after = one.want
            continue
        entry = declared.get(one.step) or _found_by_mark(one)
        if entry is None:
            left[one.step] = Left(one.step, "this version of provision knows no such step")
        else:
            found[one.step] = _Target(entry, one, one.want)
    return list(found.values()), list(left.values())


def _found_by_mark(made: Made) -> Entry | None:
    """A step that is no longer declared, as the finder of its kind makes it."""
    for role, finder in role_order.owned():
        step = finder.step(made.step) if role == made.role and ":" in made.step else None
        if step is None or step.id != made.step:
            continue
        if isinstance(step, Generation) and made.have is not None:
            step = dataclasses.replace(step, binary=str(made.have.get("exe", "")))
        return Entry(role, step)
    return None


def _why_not(one: _Target, *, without_nginx: bool) -> str:
    """Why a change stays as it is; empty where it is put back."""
    if not one.made.known:
        return "what it was is not kept on this host any more"
    if without_nginx and one.made.role in NGINX and not isinstance(one.entry.step, Builds):
        return "nginx was removed and must be built again"
    return one.entry.step.irrevocable(one.made.have, one.after)


def _models(host: Host, targets: Sequence[_Target]) -> _Models:
    """What becomes of the models that the run added or deleted.

    A model that was deleted comes back from a registry only, which a rollback does without; and an instance without any
    answers every request with 404 while the balancers send to it. So what was added stays where nothing else would be
    left. Who shares a folder has what the others pull into it, and loses what they delete.
    """
    places = {one.name: one.storage for one in host.instances}
    steps = [(one.entry.step, one) for one in targets]
    gone = {step.name for step, one in steps if isinstance(step, Container) and _is_new(one)}
    pulled = {step.name for step, one in steps if isinstance(step, Container) and one.after is None}  # see `_follows`
    found = _Models(places)
    for step, one in steps:
        if isinstance(step, Model) and (_is_new(one) or (one.after is None and step.instance not in pulled)):
            found.absent.add(found.key(step.instance, step.name))
    left = {found.place(one.name) for one in host.instances if found.of(one)}
    stay = {one.name for one in host.instances} - gone
    for step, one in steps:
        if isinstance(step, Model) and _is_new(one) and found.place(step.instance) not in left:
            alike = {step.instance, *(name for name in stay if found.place(name) == found.place(step.instance))}
            if alike - gone:
                found.kept[found.key(step.instance, step.name)] = step.name
    return found


def _is_new(one: _Target) -> bool:
    """Whether the run added it."""
    return one.made.known and one.made.have is None


def _as_it_was(host: Host, targets: Sequence[_Target], models: _Models) -> Host:
    """The host with the instances, and their models, that it has once what was added is gone: those are tested."""
    gone = {one.made.step for one in targets if one.made.have is None}
    left = [one for one in host.instances if f"container:{one.name}" not in gone]
    return dataclasses.replace(host, instances=tuple(dataclasses.replace(one, models=models.of(one)) for one in left))


def _entries(targets: Sequence[_Target], then: Host, inventory: Inventory) -> list[Entry]:
    """What is put back, what has to follow it, and what goes."""
    declared = role_order.steps(then, inventory)
    places = {entry.step.id: number for number, entry in enumerate(declared)}
    order = role_order.order()

    def place(one: _Target) -> tuple[int, int]:
        """What is not declared comes first in its role; below, the last that was removed before the others."""
        return order.index(one.entry.role), places.get(one.made.step, -1)

    there, new = ([one for one in reversed(targets) if (one.made.have is None) == is_new] for is_new in (False, True))
    back = [_restored(one) for one in sorted(there, key=place) if not isinstance(one.entry.step, FOLLOWING)]
    gone = [_restored(one) for one in sorted(new, key=lambda one: -order.index(one.entry.role))]
    needed = _images(there)
    lost = {one.made.step for one in there if one.after is None}
    removed = {one.made.step for one in new}
    following = _following(back, {one.made.step for one in there}, removed, lost, declared)
    first = [entry for entry in back if entry.step.prepares_host]
    rest = [entry for entry in [*needed, *back] if entry not in first]
    return _in_sequence([*first, *rest, *following], order) + gone


def _in_sequence(entries: Sequence[Entry], order: Sequence[str]) -> list[Entry]:
    """By role, but for what prepares the host before its first container; each step once."""
    once = {entry.step.id: entry for entry in reversed(entries)}
    unique = [entry for entry in entries if once[entry.step.id] is entry]
    early = [entry for entry in unique if entry.step.prepares_host]
    late = [entry for entry in unique if not entry.step.prepares_host]
    return [*early, *sorted(late, key=lambda entry: order.index(entry.role))]


def _restored(one: _Target) -> Entry:
    return Entry(one.entry.role, Restored(step=one.entry.step, past=one.made.have))


def _images(targets: Sequence[_Target]) -> list[Entry]:
    """The images of the containers that come back: they are there, but for those of long ago, which are pulled."""
    found: dict[str, Entry] = {}
    for one in targets:
        if isinstance(one.entry.step, Container) and one.made.have is not None:
            step = Image(reference=str(one.made.have.get("image", "")))
            found.setdefault(step.id, Entry(one.entry.role, step))
    return list(found.values())


def _following(
    back: Sequence[Entry], restored: set[str], removed: set[str], lost: set[str], declared: Sequence[Entry]
) -> list[Entry]:
    """What has to be as it should be after that: services that run, models that are loaded.

    Args:
        back: what is put back.
        restored: ids of what was there.
        removed: ids of what was not.
        lost: ids of what the run took away.
        declared: the steps of the host as it then is.
    """
    known = {entry.step.id for entry in declared}
    wanted = [entry for entry in declared if _follows(entry.step, restored, removed, lost)]
    units = [(entry.role, entry.step.step) for entry in back if isinstance(entry.step, Restored)]
    others = [
        Entry(role, Service(name=step.name.removesuffix(".service")))
        for role, step in units
        if type(step) is Unit and step.id not in known and step.name.endswith(".service")
    ]
    return [*wanted, *others]


def _follows(step: Step, restored: set[str], removed: set[str], lost: set[str]) -> bool:
    if isinstance(step, Model):  # it went with its instance, and there is nothing to load or to test without it
        return f"container:{step.instance}" in lost
    if isinstance(step, Resident):
        return bool({step.id, f"container:{step.instance}"} & restored) and bool(step.models)
    if isinstance(step, Service):
        return f"unit:{step.unit}" not in removed
    return isinstance(step, DockerService)
