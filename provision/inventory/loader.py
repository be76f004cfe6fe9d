"""From files to an `Inventory`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.errors import InventoryError, Problem
from provision.inventory.check import validated
from provision.inventory.connection import Connections
from provision.inventory.document import read
from provision.inventory.extra import read_extra
from provision.inventory.groups import Group, Tree, gather
from provision.inventory.model import Host, Inventory
from provision.inventory.near import nearest
from provision.inventory.settings import Settings
from provision.inventory.sshconfig import SshConfig
from provision.inventory.value import Value, layered, plain
from provision.inventory.varfiles import Levels, read_directory
from provision.inventory.variables import PREFIX, strangers

_INI_SECTION = re.compile(rb"^\s*\[[A-Za-z0-9_.-]+(?::(?:vars|children))?\]\s*(?:[#;].*)?$", re.MULTILINE)
_INI = (
    "is an INI inventory; YAML is read here: `ansible-inventory -i {} --list --yaml --output inventory.yaml` writes it"
)


def load(path: str | Path, *, roles: Mapping[str, type[Settings]], overrides: Sequence[str] = ()) -> Inventory:
    """Read an inventory with its `group_vars/` and `host_vars/`, and check every setting.

    Args:
        path: the inventory file.
        roles: role names with their Settings classes.
        overrides: what `-e` was given: `key=value`, `role.key=value` or `@FILE`; these win over everything.

    Raises:
        InventoryError: the files have problems; it holds all of them.
    """
    problems: list[Problem] = []
    loader = _Loader(Path(path), roles, problems)
    inventory = loader.inventory(overrides)
    if problems or inventory is None:
        raise InventoryError(problems)
    return inventory


@dataclass
class _Files:
    """What was read before hosts are put together."""

    tree: Tree
    group_levels: Levels
    host_levels: Levels
    extra: list[Mapping[str, Value]]


class _Loader:
    def __init__(self, path: Path, roles: Mapping[str, type[Settings]], problems: list[Problem]) -> None:
        self._path = path
        self._roles = roles
        self._problems = problems
        self._warnings: list[str] = []
        self._of_groups: dict[tuple[str, ...], dict[str, Value]] = {}
        config = SshConfig(Path.home() / ".ssh" / "config", problems)
        self._connections = Connections(config, problems)

    def inventory(self, overrides: Sequence[str]) -> Inventory | None:
        extra = read_extra(overrides, self._roles, self._problems)
        root = self._root()
        if root is None:
            return None
        tree = gather(root, self._problems)
        files = _Files(tree, *self._directories(tree), extra)
        if not tree.hosts:
            self._problems.append(root.problem("names no host"))
        hosts = tuple(self._host(name, files) for name in tree.hosts)
        self._problems.extend(_same_machines(hosts, tree))
        warnings = (*self._warnings, *_same_names(tree))
        return Inventory(path=str(self._path), hosts=hosts, warnings=tuple(dict.fromkeys(warnings)))

    def _root(self) -> Value | None:
        found: list[Problem] = []
        root = read(self._path, found)
        if root is None and self._is_ini():
            found = [Problem(str(self._path), 0, "", _INI.format(self._path))]
        self._problems += found
        return root

    def _is_ini(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return _INI_SECTION.search(file.read(2**16)) is not None
        except (OSError, ValueError):
            return False

    def _directories(self, tree: Tree) -> tuple[Levels, Levels]:
        beside = self._path.parent
        return (
            read_directory(beside / "group_vars", tree.groups, self._problems, self._warnings),
            read_directory(beside / "host_vars", tree.hosts, self._problems, self._warnings),
        )

    def _host(self, name: str, files: _Files) -> Host:
        groups = files.tree.groups_of(name)
        place = files.tree.places[name]
        levels = [*files.tree.hosts[name], *files.host_levels.get(name, []), *files.extra]
        variables = layered([self._group_variables(groups, files), *levels], self._roles)
        self._look_over(variables)
        names = tuple(group.name for group in groups if group.name != "all")
        self._check_groups(name, names, place)
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
        """Return what the groups of a host say: Ansible puts every group file above every group in the inventory."""
        key = tuple(group.name for group in groups)
        if key not in self._of_groups:
            inline = [level for group in groups for level in group.levels]
            beside = [level for name in key for level in files.group_levels.get(name, [])]
            self._of_groups[key] = layered([*inline, *beside], self._roles)
        return self._of_groups[key]

    def _settings(self, sources: Mapping[str, Value]) -> Iterator[tuple[str, Settings]]:
        for role, cls in self._roles.items():
            settings = validated(cls, sources[role], self._problems)
            if settings is not None:
                yield role, settings

    def _is_own(self, name: str) -> bool:
        return name not in self._roles and not name.startswith(PREFIX)

    def _look_over(self, variables: Mapping[str, Value]) -> None:
        """Warn of variables that look like something else."""
        for name, hint in strangers(variables).items():
            self._warn(variables[name], f"{name} has no effect here{hint}")
        for name in filter(self._is_own, variables):
            role = nearest(name, self._roles, cutoff=0.75)
            if role:
                self._warn(variables[name], f"{name} is no role; did you mean {role}?")

    def _warn(self, value: Value, message: str) -> None:
        where = f"{value.file}:{value.line}" if value.line else value.file
        self._warnings.append(f"{where}: {message}")

    def _check_groups(self, name: str, groups: tuple[str, ...], place: Value) -> None:
        if not groups:
            self._problems.append(place.problem(f"{name} is in no group: put it under gpu, balancer or both"))
        elif not {"gpu", "balancer"} & set(groups):
            self._warn(place, f"{name} is in neither gpu nor balancer: nothing will be done on it")


def _nothing(place: Value, role: str) -> Value:
    return Value({}, place.file, place.line, (*place.path, role))


def _same_names(tree: Tree) -> Iterator[str]:
    for name in tree.hosts.keys() & tree.groups.keys():
        yield f"{name} is the name of a host and of a group; --limit {name} means both"


def _same_machines(hosts: Sequence[Host], tree: Tree) -> Iterator[Problem]:
    """Yield a problem for every host that is another one by another name: two would change it at once."""
    names: dict[object, str] = {}
    for host in hosts:
        found = host.connection
        other = names.setdefault((found.address, found.port, found.jumps), host.name)
        if other != host.name:
            message = f"{host.name} is the same machine as {other}: both are {found.address} port {found.port}"
            yield tree.places[host.name].problem(message)
