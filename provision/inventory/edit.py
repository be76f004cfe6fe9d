"""Settings of a role, written into an inventory's text: the least edit, with comments and layout kept.

PyYAML tells where each key and value stands in the text. So an edit replaces or inserts a few characters, and nothing
is written anew.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from provision.errors import UsageError

_PLAIN = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_COLON = re.compile(r"\s*:\s*(?:#[^\n]*\n\s*)*")
_HINT = "write the settings by hand"


@dataclass(frozen=True)
class Edit:
    """An edited inventory.

    Args:
        text: the new text.
        place: the path of the role's settings, such as `all.vars.nginx`.
    """

    text: str
    place: str


def with_settings(text: str, role: str, values: Mapping[str, Any]) -> Edit:
    """Write settings of a role where the inventory has settings of the role already; else under `all.vars`.

    Args:
        text: the text of an inventory in YAML.
        role: name of the role.
        values: setting -> the new value: text, or a list of mappings of text.

    Returns:
        the new text; equal to the old text where every setting has its value.

    Raises:
        UsageError: the text is no such inventory, or has settings of the role at several places.
    """
    root = _composed(text)
    places = [path for path in _places(root, role, ()) if len(path) > 1]
    if len(places) > 1:
        named = ", ".join(".".join(path) for path in places)
        raise UsageError(f"the inventory has settings of {role} at several places: {named}", _HINT)
    place = places[0] if places else ("all", "vars", role)
    for key, value in values.items():
        text = _with_value(text, (*place, key), value)
    _compare(root, _composed(text), place, values)
    return Edit(text, ".".join(place))


def _composed(text: str) -> yaml.MappingNode:
    """Return the tree of a text."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"the inventory is no YAML: {' '.join(str(error).split())[:300]}", _HINT) from None
    if not isinstance(root, yaml.MappingNode):
        raise UsageError("the inventory is no YAML mapping", _HINT)
    return root


def _entries(node: yaml.Node) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Yield each key of a mapping with the nodes of key and value."""
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode))


def _places(node: yaml.Node, role: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the path of every settings of a role, in groups (`vars`) and hosts."""
    for group, _, value in _entries(node):
        for part, _, inner in _entries(value):
            if part == "vars":
                yield from ((*path, group, part, name) for name, _, _ in _entries(inner) if name == role)
            elif part == "hosts":
                yield from (
                    (*path, group, part, host, name)
                    for host, _, settings in _entries(inner)
                    for name, _, _ in _entries(settings)
                    if name == role
                )
            elif part == "children":
                yield from _places(inner, role, (*path, group, part))


def _with_value(text: str, path: tuple[str, ...], value: Any) -> str:
    """Return the text with a value at a path; missing mappings on the way are made."""
    node: yaml.Node = _composed(text)
    for depth, name in enumerate(path):
        found = next(((key, inner) for key_name, key, inner in _entries(node) if key_name == name), None)
        rest = path[depth + 1 :]
        if found is None:
            _not_merged(node, rest)
            return _inserted(text, node, f"{_key(name)}: {_flow(value, rest)}")
        key, inner = found
        if not rest or not isinstance(inner, yaml.MappingNode):
            return _replaced(text, key, inner, _flow(value, rest))
        _not_an_alias(text, key, inner)
        node = inner
    raise AssertionError(path)


def _replaced(text: str, key: yaml.Node, value: yaml.Node, new: str) -> str:
    """Return the text with another value of a key."""
    _not_an_alias(text, key, value)
    begin, end = key.end_mark.index, _end(text, value)
    if text[begin:end].lstrip().startswith(":") and text[begin:end].partition(":")[2].strip() == new:
        return text
    return f"{text[:begin]}: {new}{text[max(end, _after_colon(text, begin)) :]}"


def _after_colon(text: str, begin: int) -> int:
    """Return the position after the colon of a key; the key's end for a key without colon."""
    match = re.compile(r"\s*:").match(text, begin)
    return match.end() if match else begin


def _not_an_alias(text: str, key: yaml.Node, value: yaml.Node) -> None:
    """Refuse a value that stands elsewhere in the text."""
    between = text[key.end_mark.index : value.start_mark.index]
    if value.start_mark.index < key.end_mark.index or (between and not _COLON.fullmatch(between)):
        where = f"line {key.start_mark.line + 1}"
        raise UsageError(f"the value at {where} of the inventory is an alias or has an anchor", _HINT)


def _not_merged(node: yaml.Node, rest: tuple[str, ...]) -> None:
    """Refuse a new mapping beside `<<`: the mapping would hide the whole mapping of that name from elsewhere."""
    merge = next((key for name, key, _ in _entries(node) if name == "<<"), None)
    if rest and merge is not None:
        where = f"line {merge.start_mark.line + 1}"
        raise UsageError(f"`<<` at {where} of the inventory may bring settings that an edit would hide", _HINT)


def _inserted(text: str, node: yaml.Node, entry: str) -> str:
    """Return the text with one more entry in a mapping."""
    assert isinstance(node, yaml.MappingNode)  # noqa: S101 - narrows the type
    if node.flow_style:
        end = _end(text, node.value[-1][1]) if node.value else node.start_mark.index + 1
        return f"{text[:end]}{', ' if node.value else ''}{entry}{text[end:]}"
    key, value = node.value[-1]
    line = "\r\n" if "\r\n" in text else "\n"
    end = text.find(line, len(text[: max(_end(text, value), key.end_mark.index)].rstrip()))
    if end < 0:
        text, end = f"{text}{line}", len(text)
    return f"{text[:end]}{line}{' ' * node.value[0][0].start_mark.column}{entry}{text[end:]}"


def _end(text: str, node: yaml.Node) -> int:
    """Return the position after a value, without the blank lines and comments that follow a block."""
    inner: yaml.Node | None = None
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        inner = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):  # PyYAML ends such a text at the next entry
        return len(text[: node.end_mark.index].rstrip())
    return _end(text, inner) if inner is not None else int(node.end_mark.index)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else json.dumps(name)


def _flow(value: Any, path: tuple[str, ...] = ()) -> str:
    """Return a value on one line, inside the mappings of a path."""
    if path:
        return f"{{{_key(path[0])}: {_flow(value, path[1:])}}}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def _compare(old: yaml.Node, new: yaml.Node, place: tuple[str, ...], values: Mapping[str, Any]) -> None:
    """Refuse an edit that changed anything beside the settings."""
    kept = [_without(node, place, frozenset(values)) for node in (old, new)]
    written: Any = _plain(new)
    for name in place:
        written = written[name]
    wrong = [key for key, value in values.items() if written.get(key) != _texts(value)]
    if wrong or kept[0] != kept[1]:
        raise UsageError("the layout of the inventory is beyond an edit by program", _HINT)


def _texts(value: Any) -> Any:
    """Return a value as `_plain` gives the value back."""
    return [dict(item) for item in value] if isinstance(value, list | tuple) else value


def _plain(node: yaml.Node) -> Any:
    """Return a tree as plain data: every scalar as its text."""
    if isinstance(node, yaml.MappingNode):
        return {_plain(key) if isinstance(key, yaml.ScalarNode) else str(key): _plain(item) for key, item in node.value}
    return [_plain(item) for item in node.value] if isinstance(node, yaml.SequenceNode) else node.value


def _without(node: yaml.Node, place: tuple[str, ...], keys: frozenset[str]) -> Any:
    """Return a tree as plain data without some settings, and without mappings that become empty by that."""
    data = _plain(node)
    chain = [data]
    for name in place:
        inner = chain[-1].get(name) if isinstance(chain[-1], dict) else None
        if not isinstance(inner, dict):
            break
        chain.append(inner)
    if len(chain) == len(place) + 1:
        for key in keys:
            chain[-1].pop(key, None)
    for depth in range(min(len(chain), len(place)) - 1, -1, -1):
        if not chain[depth].get(place[depth]):
            chain[depth].pop(place[depth], None)
    return data
