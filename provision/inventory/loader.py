"""From files to an `Inventory`."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provision.errors import InventoryError, Problem
from provision.inventory import ansible, extra
from provision.inventory.check import validated
from provision.inventory.connection import Connections
from provision.inventory.document import read
from provision.inventory.groups import Group, Tree, gather, mapping
from provision.inventory.model import Host, Inventory
from provision.inventory.near import nearest
from provision.inventory.settings import Settings
from provision.inventory.sshconfig import SshConfig
from provision.inventory.unmapped import left_alone, nothing_to_do
from provision.inventory.value import Value, dotted, layered, plain, usable
from provision.inventory.varfiles import Levels, read_directory
from provision.inventory.variables import PREFIX, PRIORITY, TIMEOUT_FACTOR, strangers

_INI_SECTION = re.compile(rb"^\s*\[[A-Za-z0-9_.-]+(?::(?:vars|children))?\]\s*(?:[#;].*)?$", re.MULTILINE)
# A host under `retired` is still ours: a deploy removes everything that provision made there.
OURS = frozenset({"gpu", "balancer", "retired"})
_NOT_YAML = "is {}; YAML is read here: `ansible-inventory -i {} --list --yaml --output inventory.yaml` writes it"


def load(
    path: str | Path,
    *,
    roles: Mapping[str, type[Settings]],
    overrides: Sequence[str] = (),
    groups: Collection[str] = (),
) -> Inventory:
    """Read an inventory with its `group_vars/` and `host_vars/`, and check every setting.

    Args:
        path: the inventory file.
        roles: role names with their Settings classes.
        overrides: words of `-e`: `key=value`, `role.key=value` or `@FILE`, which win over everything.
        groups: more groups whose hosts belong to the inventory, beside `OURS`.

    Raises:
        InventoryError: the files have problems. The error holds all problems.
    """
    problems: list[Problem] = []
    loader = _Loader(Path(path), roles, problems, OURS.union(groups))
    inventory = loader.inventory(overrides)
    if problems or inventory is None:
        raise InventoryError(problems, loader.warnings)
    return inventory


@dataclass
class _Files:
    """Everything read before hosts are put together."""

    tree: Tree
    group_levels: Levels
    host_levels: Levels
    extra: list[Mapping[str, Value]]


class _Loader:
    def __init__(
        self, path: Path, roles: Mapping[str, type[Settings]], problems: list[Problem], ours: Collection[str]
    ) -> None:
        self._path = path
        self._ours = frozenset(ours)
        self._roles = roles
        self._problems = problems
        self.warnings: list[str] = []
        """Oddities, also shown beside problems."""
        self._of_groups: dict[tuple[str, ...], dict[str, Value]] = {}
        config = SshConfig(Path.home() / ".ssh" / "config", problems)
        self._connections = Connections(config, problems)

    def inventory(self, overrides: Sequence[str]) -> Inventory | None:
        overriding = extra.read_extra(overrides, self._roles, self._problems)
        root = self._root()
        if root is None:
            return None
        tree = gather(root, self._problems)
        memberships = {name: tree.groups_of(name) for name in tree.hosts}
        ours = {name: groups for name, groups in memberships.items() if self._ours & {group.name for group in groups}}
        self._misnamed(tree, {group.name for groups in ours.values() for group in groups})
        self._forgive(tree, ours)
        files = _Files(tree, *self._directories(tree, ours), overriding)
        self._group_variables([tree.groups["all"]], files)  # for its problems, even without a host of ours
        if not ours:
            self._problems.append(nothing_to_do(root, tree))
        hosts = tuple(self._host(name, groups, files) for name, groups in ours.items())
        self._problems.extend(_same_machines(hosts, tree))
        if ours:
            self.warnings += left_alone(tree, ours)
        self.warnings += _same_names(tree, ours)
        return Inventory(path=str(self._path), hosts=hosts, warnings=tuple(dict.fromkeys(self.warnings)))

    def _misnamed(self, tree: Tree, around: Collection[str]) -> None:
        """Report entries that are no host names: a problem in a group in or around ours, else a warning.

        Args:
            tree: the groups and hosts.
            around: names of the groups with a host of ours.
        """
        for name, misnamed in tree.misnamed.items():
            if name in around or self._ours & {group.name for group in tree.with_parents([name])}:
                self._problems += misnamed
            else:
                self.warnings += map(str, misnamed)

    def _forgive(self, tree: Tree, ours: Mapping[str, list[Group]]) -> None:
        """Turn problems in variables of hosts that are not ours, such as a switch, into warnings.

        Args:
            tree: the groups and hosts.
            ours: the hosts of ours, each with its groups.
        """
        around = {"all", *(group.name for groups in ours.values() for group in groups)}
        of_groups = (level for name, group in tree.groups.items() if name not in around for level in group.levels)
        of_hosts = (value for name, values in tree.hosts.items() if name not in ours for value in values)
        places = tuple(dotted(value.path) for value in (*of_groups, *of_hosts))
        inside = tuple(place + sign for place in places for sign in (".", "["))
        own = [problem for problem in self._problems if problem.file == str(self._path)]
        forgiven = [problem for problem in own if problem.path.startswith(inside)]
        self._problems[:] = [problem for problem in self._problems if problem not in forgiven]
        self.warnings += map(str, forgiven)

    def _root(self) -> Value | None:
        """Return the document of the inventory file. `ansible-inventory`, if installed, reads a file that is not
        YAML."""
        if ansible.is_program(self._path):
            return self._from_ansible("a program that prints an inventory")
        reported: list[Problem] = []
        root = read(self._path, reported)
        if root is None and self._is_ini():
            return self._from_ansible("an INI inventory")
        self._problems += reported
        return root

    def _from_ansible(self, kind: str) -> Value | None:
        if ansible.is_installed():
            return ansible.read(self._path, self._problems)
        self._problems.append(Problem(str(self._path), 0, "", _NOT_YAML.format(kind, self._path)))
        return None

    def _is_ini(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return _INI_SECTION.search(file.read(2**16)) is not None
        except (OSError, ValueError):
            return False

    def _directories(self, tree: Tree, ours: Mapping[str, list[Group]]) -> tuple[Levels, Levels]:
        beside = self._path.parent
        groups = {"all", *(group.name for groups in ours.values() for group in groups)}
        return (
            read_directory(beside / "group_vars", tree.groups, groups, self._problems, self.warnings),
            read_directory(beside / "host_vars", tree.hosts, ours, self._problems, self.warnings),
        )

    def _host(self, name: str, groups: list[Group], files: _Files) -> Host:
        place = files.tree.places[name]
        inline = (mapping(value, self._problems) for value in files.tree.hosts[name])
        own = self._usable([*inline, *files.host_levels.get(name, [])])
        overriding = map(self._whole, files.extra)
        variables = layered([self._group_variables(groups, files), *own, *overriding], self._roles)
        self._look_over(variables)
        names = tuple(group.name for group in groups if group.name != "all")
        sources = {role: variables.get(role) or _nothing(place, role) for role in self._roles}
        return Host(
            name=name,
            groups=names,
            connection=self._connections.of(name, variables, place),
            settings=dict(self._settings(sources)),
            variables={key: plain(value) for key, value in variables.items() if self._is_own(key)},
            sources=sources,
        )

    def _group_variables(self, groups: list[Group], files: _Files) -> dict[str, Value]:
        """Return the variables of a host's groups. Ansible puts every group file above every group in the inventory."""
        key = tuple(group.name for group in groups)
        if key not in self._of_groups:
            inline = self._usable(mapping(level, self._problems) for group in groups for level in group.levels)
            beside = self._usable(level for name in key for level in files.group_levels.get(name, []))
            self._of_groups[key] = layered([*inline, *beside], self._roles)
            self._check_priorities(inline)
        return self._of_groups[key]

    def _usable(self, levels: Iterable[Mapping[str, Value]]) -> list[dict[str, Value]]:
        return [self._whole({name: usable(value, self._problems) for name, value in level.items()}) for level in levels]

    def _whole(self, level: Mapping[str, Value]) -> dict[str, Value]:
        """Return the variables with the mapping for each text that stands for one (`Settings.SHORT`)."""
        short = {name: cls.SHORT for name, cls in self._roles.items() if cls.SHORT}
        return {
            name: replace(value, data={short[name]: value}) if name in short and isinstance(value.data, str) else value
            for name, value in level.items()
        }

    def _check_priorities(self, levels: Iterable[Mapping[str, Value]]) -> None:
        for level in levels:
            for name in PRIORITY:
                if name in level and type(level[name].data) is not int:
                    self._problems.append(level[name].problem("must be a whole number"))

    def _settings(self, sources: Mapping[str, Value]) -> Iterator[tuple[str, Settings]]:
        for role, cls in self._roles.items():
            settings = validated(cls, sources[role], self._problems)
            if settings is not None:
                yield role, settings

    def _is_own(self, name: str) -> bool:
        return name not in self._roles and name not in TIMEOUT_FACTOR and not name.startswith(PREFIX)

    def _look_over(self, variables: Mapping[str, Value]) -> None:
        """Warn of variables that look like a misspelt name."""
        for name, hint in strangers(variables).items():
            self._warn(variables[name], f"{name} has no effect here{hint}")
        for name in filter(self._is_own, variables):
            role = nearest(name, self._roles, cutoff=0.75)
            limits = nearest(name, TIMEOUT_FACTOR, cutoff=0.75)
            if limits:
                self._warn(variables[name], f"{name} has no effect here; did you mean {limits}?")
            elif role:
                self._warn(variables[name], f"{name} is no role; did you mean {role}?")
            elif variables[name].file == extra.FILE:
                self._warn(variables[name], f"{name} has no effect here: no role is called {name}")

    def _warn(self, value: Value, message: str) -> None:
        where = f"{value.file}:{value.line}" if value.line else value.file
        self.warnings.append(f"{where}: {message}")


def _nothing(place: Value, role: str) -> Value:
    return Value({}, place.file, place.line, (*place.path, role))


def _same_names(tree: Tree, ours: Mapping[str, object]) -> Iterator[str]:
    for name in ours.keys() & tree.groups.keys():
        yield f"{name} is the name of a host and of a group; --limit {name} means both"


def _same_machines(hosts: Sequence[Host], tree: Tree) -> Iterator[Problem]:
    """Yield a problem for every host that is a second name of the same machine: two threads would change the
    machine."""
    names: dict[object, str] = {}
    for host in hosts:
        connection = host.connection
        other = names.setdefault((connection.address, connection.port, connection.jumps), host.name)
        if other != host.name:
            place = f"{connection.address} port {connection.port}"
            message = f"{host.name} is the same machine as {other}: both are {place}"
            yield tree.places[host.name].problem(message)
