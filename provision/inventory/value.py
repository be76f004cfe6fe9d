"""Values with the place where they were written."""

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from provision.errors import Problem
from provision.inventory.near import clip
from provision.inventory.secret import Secret
from provision.inventory.settings import KeyPath


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands for a scalar without a value: `!vault`, or `!env` of a variable that is not set.

    A problem only of the hosts with the scalar.

    Args:
        message: why there is no value.
        instead: the data for the rest of the load, which goes on to find further problems.
    """

    message: str
    instead: Any


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a YAML file, or of the merged result.

    Args:
        data: a scalar (str, int, float, bool, None, Secret, Unusable), a tuple of Values, or a dict of str to Value.
        file: the file with the value.
        line: the line of the key or item, from 1; 0 if there is none.
        path: the place in the file, such as `("all", "vars", "ollama", "instances", 0)`.
        text: a scalar as written, before YAML made a number or a boolean of the text.
    """

    data: Any
    file: str = ""
    line: int = 0
    path: KeyPath = ()
    text: str = ""

    def problem(self, message: str) -> Problem:
        """Return a Problem at this place."""
        return Problem(self.file, self.line, dotted(self.path), message)


def dotted(path: KeyPath) -> str:
    """Return a path as people write it: `all.hosts."a.b".instances[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in path]
    return "".join(parts).removeprefix(".")


def _quoted(part: str) -> str:
    plain = part.replace("-", "").replace("_", "").isalnum()
    return part if plain and len(part) <= 80 else f'"{clip(part)}"'


def plain(value: Value) -> Any:
    """Return the bare data: dicts, tuples and scalars; a Secret stays a Secret."""
    if isinstance(value.data, dict):
        return {key: plain(item) for key, item in value.data.items()}
    if isinstance(value.data, tuple):
        return tuple(plain(item) for item in value.data)
    return value.data


def step_into(value: Value, part: str | int) -> Value | None:
    """Return the value under a key or index, or None."""
    if isinstance(value.data, dict) and isinstance(part, str):
        return value.data.get(part)
    if isinstance(value.data, tuple) and isinstance(part, int) and part < len(value.data):
        item: Value = value.data[part]
        return item
    return None


def locate(value: Value, path: KeyPath) -> Value:
    """Return the value at a path, or its nearest written parent, with the full path to report."""
    for index, part in enumerate(path):
        inner = step_into(value, part)
        if inner is None:
            return replace(value, path=(*value.path, *path[index:]))
        value = inner
    return value


def usable(value: Value, problems: list[Problem]) -> Value:
    """Return a value without anything Unusable inside.

    Args:
        value: as read.
        problems: collects a Problem for everything Unusable.
    """
    data = value.data
    if isinstance(data, Unusable):
        problems.append(value.problem(data.message))
        return replace(value, data=data.instead)
    if isinstance(data, dict):
        entries = {key: usable(item, problems) for key, item in data.items()}
        return value if all(entries[key] is data[key] for key in data) else replace(value, data=entries)
    if isinstance(data, tuple):
        items = tuple(usable(item, problems) for item in data)
        return value if all(map(operator.is_, items, data)) else replace(value, data=items)
    return value


def merge(below: Value, above: Value) -> Value:
    """Return `above` over `below`: mappings merge key by key, everything else is replaced.

    A merged mapping has the place of `above`; each entry keeps its own place.
    """
    if not (isinstance(below.data, dict) and isinstance(above.data, dict)):
        return above
    data: dict[str, Value] = dict(below.data)
    for key, item in above.data.items():
        data[key] = merge(data[key], item) if key in data else item
    return replace(above, data=data)


def relocated(value: Value, path: KeyPath) -> Value:
    """Return a copy whose paths begin with another path; file and line stay."""
    data = value.data
    if isinstance(data, dict):
        data = {key: relocated(item, (*path, key)) for key, item in data.items()}
    elif isinstance(data, tuple):
        data = tuple(relocated(item, (*path, index)) for index, item in enumerate(data))
    return replace(value, data=data, path=path)


def unlined(value: Value) -> Value:
    """Return a value without line numbers, for a text that is no file of the operator."""
    data = value.data
    if isinstance(data, dict):
        data = {key: unlined(item) for key, item in data.items()}
    elif isinstance(data, tuple):
        data = tuple(unlined(item) for item in data)
    return replace(value, data=data, line=0)


def layered(levels: Iterable[Mapping[str, Value]], roles: Collection[str]) -> dict[str, Value]:
    """Merge the variables of several levels; later levels win.

    Args:
        levels: variables by name, lowest precedence first.
        roles: names of roles. Mappings of a role merge, and an empty mapping changes nothing. A variable that is no
            role is replaced as a whole.
    """
    result: dict[str, Value] = {}
    for level in levels:
        for name, value in level.items():
            if name in roles and value.data is None:
                continue
            both = name in roles and name in result
            result[name] = merge(result[name], value) if both else value
    return result


def is_secret(value: Value) -> bool:
    """Return whether a value is a secret or holds a secret."""
    inner = value.data.values() if isinstance(value.data, dict) else value.data
    if isinstance(value.data, dict | tuple):
        return any(is_secret(item) for item in inner)
    return isinstance(value.data, Secret)
