"""`-e`: settings that win over every file."""

import re
from collections.abc import Collection, Mapping, Sequence

from provision.errors import Problem
from provision.inventory.document import parse, read
from provision.inventory.near import clip, did_you_mean
from provision.inventory.paths import expanded
from provision.inventory.value import Value, unlined, usable

FILE = "-e"
UNSAID = "..."  # stands for a value that was not printed; as YAML it is nothing, so nobody means it
_HARMLESS = ("not YAML", "!env", "!file")  # such a problem quotes only the place of a setting or of a secret


def unsaid(word: str) -> str:
    """Return the setting of an `-e` word without its value, which may be a secret.

    Args:
        word: as for `read_extra`. The name of a file stays.
    """
    if word.startswith("@"):
        return word
    return f"{{{UNSAID}}}" if word.lstrip().startswith("{") else f"{word.partition('=')[0]}={UNSAID}"


def read_extra(words: Sequence[str], roles: Collection[str], problems: list[Problem]) -> list[Mapping[str, Value]]:
    """Return the variables of every `-e`, in the order given.

    Args:
        words: `key=value` (the value is YAML), `role.key=value`, `@FILE`, or a YAML mapping `{key: value}`.
        roles: names of roles, the only names that a dotted key may begin with.
        problems: collects every problem.
    """
    mappings = [_read(word, roles, problems) for word in words]
    return [mapping for mapping in mappings if mapping]


def _read(word: str, roles: Collection[str], problems: list[Problem]) -> Mapping[str, Value]:
    if word.startswith("@"):
        value = read(expanded(word[1:]), problems)
        return _mapping(value and usable(value, problems), problems)
    if word == unsaid(word):
        problems.append(Problem(FILE, 0, "", f"{clip(word)}: {UNSAID} stands for what was not printed: say it again"))
        return {}
    if word.lstrip().startswith("{"):
        return _mapping(_parsed(word, problems), problems)
    key, equals, text = word.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(path):
        key = key if equals else re.split(r"[\s:]", key)[0]  # the rest may be a secret
        problems.append(Problem(FILE, 0, "", f"{clip(key)}: write key=value, role.key=value or @FILE"))
        return {}
    if len(path) > 1 and path[0] not in roles:
        near = did_you_mean(path[0], roles)
        problems.append(Problem(FILE, 0, clip(key), f"{clip(path[0])} is no role{near}"))
        return {}
    value = _parsed(text, problems, path)
    return {} if value is None else {path[0]: _nested(unlined(value), path)}


def _parsed(text: str, problems: list[Problem], path: tuple[str, ...] = ()) -> Value | None:
    """Read YAML that may be a secret: a password that begins with `*` or `!` must not appear in the problem."""
    reported: list[Problem] = []
    value = parse(text, FILE, reported, path)
    value = value and usable(value, reported)
    message = "is YAML that cannot be used here: write text in quotes"
    bad = Problem(FILE, 0, ".".join(path), message)
    problems += [problem if problem.message.startswith(_HARMLESS) else bad for problem in reported]
    return value


def _nested(value: Value, path: tuple[str, ...]) -> Value:
    """Return the mapping with a value at the rest of a path."""
    for depth in range(len(path) - 1, 0, -1):
        value = Value({path[depth]: value}, FILE, 0, path[:depth])
    return value


def _mapping(value: Value | None, problems: list[Problem]) -> Mapping[str, Value]:
    if value is None or value.data is None:
        return {}
    if isinstance(value.data, dict):
        return value.data
    problems.append(value.problem("must be a mapping of variables"))
    return {}
