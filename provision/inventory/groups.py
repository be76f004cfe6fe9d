"""Groups and hosts of the inventory file, and the precedence of their variables."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from provision.errors import Problem
from provision.inventory.near import clip, did_you_mean
from provision.inventory.ranges import MAX_NAMES, expand
from provision.inventory.value import Unusable, Value

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_PARTS = ("hosts", "children", "vars")


@dataclass
class Group:
    """One group, gathered from every place in the file.

    Args:
        name: the name.
        place: the first place of the group.
        levels: the `vars` of every place, in file order; `mapping` checks each.
        children: names of the groups inside, each with its place.
        depth: longest way from `all`.
    """

    name: str
    place: Value
    levels: list[Value] = field(default_factory=list)
    children: dict[str, Value] = field(default_factory=dict)
    depth: int = 0

    @property
    def rank(self) -> tuple[int, int, str]:
        """Ansible's order of groups: the last wins."""
        return self.depth, self._priority(), self.name

    def _priority(self) -> int:
        levels = [level.data for level in self.levels if isinstance(level.data, dict)]
        priorities = [level["ansible_group_priority"].data for level in levels if "ansible_group_priority" in level]
        return priorities[-1] if priorities and isinstance(priorities[-1], int) else 1


@dataclass
class Tree:
    """Every group and host of one inventory file.

    Args:
        groups: by name, always with `all`.
        hosts: host name -> its own variables from every place, in file order; `mapping` checks each.
        places: host name -> the first place of the host.
        memberships: host name -> names of the groups that list the host.
        parents: group name -> names of the groups around the group.
        misnamed: group name -> problems of entries that are no host names.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    hosts: dict[str, list[Value]] = field(default_factory=dict)
    places: dict[str, Value] = field(default_factory=dict)
    memberships: dict[str, set[str]] = field(default_factory=dict)
    parents: dict[str, set[str]] = field(default_factory=dict)
    misnamed: dict[str, list[Problem]] = field(default_factory=dict)

    def groups_of(self, host: str) -> list[Group]:
        """Return every group of a host, `all` among them, lowest precedence first."""
        return self.with_parents(self.memberships[host])

    def with_parents(self, groups: Iterable[str]) -> list[Group]:
        """Return some groups and every group around them, `all` among them, lowest precedence first."""
        around = {"all", *groups}
        waiting = list(around)
        while waiting:
            new = self.parents.get(waiting.pop(), set()) - around
            around |= new
            waiting.extend(new)
        return sorted((self.groups[name] for name in around), key=lambda group: group.rank)


def gather(root: Value, problems: list[Problem]) -> Tree:
    """Return the groups and hosts of an inventory file.

    Args:
        root: the document of the file.
        problems: collects every problem; usable parts are returned in any case.
    """
    gatherer = _Gatherer(problems)
    gatherer.tree.groups["all"] = Group("all", root)
    for name, value in mapping(root, problems).items():
        gatherer.group(name, value)
    gatherer.finish()
    return gatherer.tree


def mapping(value: Value, problems: list[Problem]) -> Mapping[str, Value]:
    """Return a mapping's entries; none for an empty value; a Problem for anything else."""
    if isinstance(value.data, dict):
        return value.data
    if isinstance(value.data, Unusable):
        problems.append(value.problem(value.data.message))
    elif value.data is not None:
        shown = "a list" if isinstance(value.data, tuple) else clip(value.text)
        hint = "; write each name with a colon, `name:`" if isinstance(value.data, tuple) else ""
        problems.append(value.problem(f"must be a mapping, not {shown}{hint}"))
    return {}


class _Gatherer:
    def __init__(self, problems: list[Problem]) -> None:
        self.tree = Tree()
        self._problems = problems

    def group(self, name: str, value: Value) -> None:
        """Add the entries of a group from one place."""
        if not _GROUP.fullmatch(name):
            self._problems.append(value.problem("is no name for a group: use letters, digits, '_' and '-'"))
            return
        group = self.tree.groups.setdefault(name, Group(name, value))
        parts = mapping(value, self._problems)
        for part in parts.keys() - set(_PARTS):
            self._unknown(name, part, parts[part])
        if "vars" in parts:
            group.levels.append(parts["vars"])
        self._hosts(group, parts)
        self._children(group, parts)

    def _unknown(self, group: str, part: str, value: Value) -> None:
        near = did_you_mean(part, _PARTS)
        if group.startswith(("x-", ".")):
            near = "; an anchor may stand wherever its value is first used, such as `vars: &common {...}`"
        hint = near or ("; other groups go under `children`" if group == "all" else "; settings go under `vars`")
        self._problems.append(value.problem(f"unknown; a group has hosts, children and vars{hint}"))

    def _hosts(self, group: Group, parts: Mapping[str, Value]) -> None:
        for written, value in mapping(parts["hosts"], self._problems).items() if "hosts" in parts else ():
            for name in self._names(group, written, value):
                self.tree.memberships.setdefault(name, set()).add(group.name)
                self.tree.places.setdefault(name, value)
                self.tree.hosts.setdefault(name, []).append(value)

    def _names(self, group: Group, written: str, value: Value) -> list[str]:
        try:
            names = expand(written)
        except ValueError as error:
            self._misnamed(group, value.problem(str(error)))
            return []
        if not all(_HOST.fullmatch(name) for name in names):
            self._misnamed(group, value.problem("is no name for a host: use letters, digits, '.', '_' and '-'"))
            return []
        if len(self.tree.hosts) + len(names) > 2 * MAX_NAMES:
            self._problems.append(value.problem(f"makes more than {2 * MAX_NAMES} hosts"))
            return []
        return names

    def _misnamed(self, group: Group, problem: Problem) -> None:
        self.tree.misnamed.setdefault(group.name, []).append(problem)

    def _children(self, group: Group, parts: Mapping[str, Value]) -> None:
        for name, value in mapping(parts["children"], self._problems).items() if "children" in parts else ():
            if name == "all":
                self._problems.append(value.problem("all holds every group and cannot be inside one"))
                continue
            group.children.setdefault(name, value)
            self.group(name, value)

    def finish(self) -> None:
        """Put groups without a parent under `all`, refuse circles, and count depths."""
        groups = self.tree.groups
        inside = {child for group in groups.values() for child in group.children}
        for name, group in groups.items():
            if name != "all" and name not in inside:
                groups["all"].children[name] = group.place
        for group in groups.values():
            group.children = {name: place for name, place in group.children.items() if name in groups}
        self._cut_circles()
        for name in _parents_first(groups):
            for child in groups[name].children:
                self.tree.parents.setdefault(child, set()).add(name)
                groups[child].depth = max(groups[child].depth, groups[name].depth + 1)

    def _cut_circles(self) -> None:
        """Report every child that leads back to its parent, and drop the child."""
        groups, done = self.tree.groups, set[str]()
        for start in groups:
            trail: dict[str, Iterator[str]] = {} if start in done else {start: iter([*groups[start].children])}
            while trail:
                name = next(reversed(trail))
                child = next(trail[name], None)
                if child is None:
                    done.add(name)
                    del trail[name]
                elif child in trail:
                    self._circle([*trail][[*trail].index(child) :], groups[name].children.pop(child))
                elif child not in done:
                    trail[child] = iter([*groups[child].children])

    def _circle(self, names: list[str], place: Value) -> None:
        way = clip(" > ".join([*names, names[0]]))
        self._problems.append(place.problem(f"a group cannot be inside itself: {way}"))


def _parents_first(groups: Mapping[str, Group]) -> list[str]:
    """Return the names so that every group stands before its children (circles are gone by now)."""
    order: list[str] = []
    waiting = dict.fromkeys(groups, 0)
    for group in groups.values():
        for child in group.children:
            waiting[child] += 1
    ready = [name for name, count in waiting.items() if not count]
    while ready:
        name = ready.pop()
        order.append(name)
        for child in groups[name].children:
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return order
