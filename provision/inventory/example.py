"""A complete inventory, made from the declarations of the roles: every setting with its default and its meaning.

python -m provision.inventory.example > inventory/example.yaml
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from provision.inventory.masked import jsonable
from provision.inventory.settings import Settings

WIDTH = 108

_HEAD = """\
# Every setting of every role, with its default and its meaning. Made by `make example`: copy from it
# rather than edit it. What is left out of an inventory has the value shown here.
#
# Where settings go: under `vars` of any group, under a host, or in group_vars/NAME.yml and host_vars/NAME.yml beside
# this file. They win in Ansible's order: all, outer groups, inner groups, group_vars/, hosts, host_vars/, `-e`.
# A role's mapping merges over these levels key by key; lists and single values replace what is below them.
# Secrets are written `!env NAME` or `!file PATH` (beside the file that says it).
#
# Connection variables, for groups and hosts alike (what they leave out comes from ~/.ssh/config):
#   ansible_host, ansible_port, ansible_user, ansible_password, ansible_ssh_private_key_file, ansible_timeout
#   ansible_ssh_common_args: -o ProxyJump=USER@HOST:PORT -o UserKnownHostsFile=PATH -o ConnectTimeout=SECONDS
#   ansible_become (default: yes unless the user is root), ansible_become_password
#   timeout_factor (default: 1, at most 100): a whole number by which every time limit of a command is longer, for a
#     host that is slow: under heavy load, behind a long link, or emulated
all:
  vars:
    ansible_user: ops
"""

_TAIL = """
  children:
    gpu:       # the machines with the cards
      hosts:
        gpu-01: {ansible_host: 10.0.0.11, ollama: {instances: [{gpus: [0]}, {gpus: [1]}]}}
        gpu-02: {ansible_host: 10.0.0.12, ollama: {instances: [{gpus: [0, 1]}]}}
        gpu-[03:04]: {ollama: {instances: [{gpus: [0]}]}}  # gpu-03 and gpu-04, by their DNS names
    balancer:  # without this group, every gpu host balances over its own instances
      hosts:
        lb-01: {ansible_host: 10.0.0.5}
"""


def render(roles: Mapping[str, type[Settings]]) -> str:
    """Return the example inventory.

    Args:
        roles: role names with their Settings classes, in the order of the page.
    """
    body = [line for name, cls in roles.items() for line in _role(name, cls)]
    return _HEAD + "\n".join(body) + "\n" + _TAIL


def _role(name: str, cls: type[Settings]) -> Iterator[str]:
    yield ""
    yield from _comment(cls.__doc__ or "", 4)
    yield f"    {name}:" if cls.model_fields else f"    {name}: {{}}"
    yield from _fields(cls, 6)


def _fields(cls: type[Settings], indent: int, given: Settings | None = None) -> Iterator[str]:
    """Yield the lines of every field.

    Args:
        cls: the class of the fields.
        indent: blanks before each line.
        given: the default of the whole mapping, if there is a default.
    """
    for name, field in cls.model_fields.items():
        choices = _choices(field.annotation)
        one_of = f" One of: {', '.join(choices)}." if choices else ""
        yield from _comment(meaning(cls, name) + one_of, indent)
        if field.is_required() and given is None:
            yield f"{' ' * indent}# {name} is required"
            continue
        default = getattr(given, name) if given else field.get_default(call_default_factory=True)
        if isinstance(default, Settings):
            yield f"{' ' * indent}{name}:"
            yield from _fields(type(default), indent + 2, default)
        else:
            yield f"{' ' * indent}{name}: {_shown(field, default)}"
            yield from _shape(name, field, indent)


def _shape(name: str, field: FieldInfo, indent: int) -> Iterator[str]:
    """Yield, as comments, the fields of the mappings inside a list or an optional mapping."""
    for cls in settings_in(field.annotation):
        yield f"{' ' * indent}# {'Each of' if _is_plural(field) else 'In'} {name}:"
        for line in _fields(cls, 3):
            yield f"{' ' * indent}#{line}"


def _is_plural(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, list, dict)


def settings_in(annotation: Any) -> Iterator[type[Settings]]:
    """Yield the Settings classes in an annotation, such as `X` in `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from settings_in(part)


def meaning(cls: type[Settings], name: str) -> str:
    """Return the meaning of a setting. A field that only changes an inherited default keeps the inherited meaning."""
    bases = [base for base in cls.__mro__ if issubclass(base, Settings)]
    return next((" ".join(text.split()) for base in bases for text in _under(base, name)), "")


def _under(cls: type[Settings], name: str) -> Iterator[str]:
    """Yield the string under a field, from the source. pydantic could do the same, but would at every start."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    for field, below in pairwise(getattr(body, "body", ())):
        named = isinstance(field, ast.AnnAssign) and getattr(field.target, "id", "") == name
        if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield str(below.value.value)


def _choices(annotation: Any) -> list[str]:
    """Return the allowed words of a setting; none if other values are allowed too."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    parts = [_choices(part) for part in get_args(annotation) if part is not type(None)]
    single = get_origin(annotation) in (Union, UnionType) and all(parts)
    return [choice for part in parts for choice in part] if single else []


def _comment(text: str, indent: int) -> list[str]:
    prefix = f"{' ' * indent}# "
    first = text.partition("\n\n")[0]
    return textwrap.wrap(
        " ".join(first.split()), WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False
    )


def _shown(field: FieldInfo, default: Any) -> str:
    """Return the value of a setting for the page: the default, or the example that the setting names instead."""
    return f"{_flow(field.examples[0])}  # by default {_flow(default)}" if field.examples else _flow(default)


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(
        jsonable(value), default_flow_style=True, width=sys.maxsize, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("...\n").strip()
