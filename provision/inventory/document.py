"""One YAML file to Values: safe, bounded, and with a line for everything.

The composer is ours, over PyYAML's events: PyYAML's own composer recurses in C without a limit (a file of `[[[[...`
ends the process), keeps the last of two equal keys, and expands aliases without end. YAML is read as YAML 1.1, like
Ansible, without its worst traps: `0644`, `22:22` and `2024-01-01` stay text, and a key is always the written text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from provision.errors import Problem
from provision.inventory.near import clip
from provision.inventory.scalars import UnusableError, scalar
from provision.inventory.secret import Secret
from provision.inventory.settings import KeyPath
from provision.inventory.value import Unusable, Value, relocated

MAX_BYTES = 4 * 2**20
MAX_VALUES = 250_000
MAX_DEPTH = 50
ENCRYPTED = "$ANSIBLE_VAULT;"
NOT_DECRYPTED = (
    "provision reads no vault: decrypt the file with `ansible-vault decrypt`, and write its secrets as !env NAME or "
    "!file PATH"
)
TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"

_UNPRINTABLE = yaml.reader.Reader.NON_PRINTABLE
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAP, _SEQ = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"
_MERGE = "tag:yaml.org,2002:merge"


def read(path: Path, problems: list[Problem]) -> Value | None:
    """Read a YAML file.

    Args:
        path: the file, named in reports as given.
        problems: collects every problem.

    Returns:
        the only document of the file, or None if the file cannot be used at all.
    """
    text = _text_of(path, problems)
    if text is not None and text.startswith(ENCRYPTED):
        problems.append(Problem(str(path), 1, "", f"is encrypted as a whole; {NOT_DECRYPTED}"))
        return None
    return None if text is None else parse(text, str(path), problems)


def parse(
    text: str, file: str, problems: list[Problem], path: KeyPath = (), loader: type[Any] = _Loader
) -> Value | None:
    """Read YAML from a text.

    Args:
        text: the YAML.
        file: the name of the file in reports; `!file` is relative to its directory.
        problems: collects every problem.
        path: the place of the document's root, for reports.
        loader: the parser of YAML.
    """
    try:
        return _Composer(text, file, problems, loader).document(path)
    except (yaml.YAMLError, UnicodeError, ValueError, OverflowError, RecursionError) as error:
        problems.append(_refused(error, text, file))
    except UnusableError as error:
        problems.append(Problem(file, error.line, "", str(error)))
    return None


def _refused(error: Exception, text: str, file: str) -> Problem:
    """Return why the parser cannot read a text. Parsers have depth limits with their own words; our words come
    first."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    line = _too_deep(text[: mark.index] if mark else text)
    if line:
        return Problem(file, line, "", TOO_DEEP)
    unprintable = _UNPRINTABLE.search(text)
    if isinstance(error, yaml.reader.ReaderError) and unprintable:
        message = f"not YAML: holds the control character U+{ord(unprintable[0]):04X}"
        return Problem(file, text.count("\n", 0, unprintable.start()) + 1, "", message)
    if isinstance(error, yaml.MarkedYAMLError):
        return _syntax(error, text, file)
    return Problem(file, 0, "", f"not YAML: {clip(str(error))}")


def _too_deep(text: str) -> int:
    """Return the line on which the open brackets of a text pass MAX_DEPTH, or 0.

    A parser reads ahead of the events that the composer counts, so the parser can give up first. This count ignores
    quotes and comments: it only chooses the words about a text that is refused in any case.
    """
    depth = -1  # as the composer counts: the outermost value is at 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if bracket[0] in "[{" else max(-1, depth - 1)
        if depth > MAX_DEPTH:
            return text.count("\n", 0, bracket.start()) + 1
    return 0


def _syntax(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    mark, begun = error.problem_mark, error.context_mark
    lines = text.split("\n")
    if mark and mark.line < len(lines) and "\t" in re.split(r"[^ \t-]", lines[mark.line])[0]:
        return Problem(file, mark.line + 1, "", "not YAML: a tab stands where only spaces may: indent with spaces")
    reason = clip(f"{error.problem or error.context or 'cannot be read'}")
    if begun and mark and begun.line != mark.line:
        reason += f", {error.context} that begins on line {begun.line + 1}"
    return Problem(file, mark.line + 1 if mark else 0, "", f"not YAML: {reason}")


def _text_of(path: Path, problems: list[Problem]) -> str | None:
    """Return a file's text, or None with a Problem."""
    data = b""
    try:
        if path.is_dir():
            problems.append(Problem(str(path), 0, "", _folder(path)))
            return None
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return data.decode("utf-8-sig")
        problems.append(Problem(str(path), 0, "", f"is larger than {MAX_BYTES // 2**20} MiB"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(Problem(str(path), line, "", "is not UTF-8 text"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problems.append(Problem(str(path), 0, "", f"cannot be read: {reason}"))
    return None


def _folder(path: Path) -> str:
    """Return the problem of a folder in place of a file, with a file in the folder that may be meant."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".yaml", ".yml") and entry.is_file())
    except OSError:
        names = []
    named = f": name one of its files, such as {path}/{clip(names[0])}" if names else " without a YAML file"
    return f"is a folder{named}"


class _Composer:
    """Makes Values from the events of one document."""

    def __init__(self, text: str, file: str, problems: list[Problem], loader: type[Any]) -> None:
        self._loader = loader(text)
        self._file = file
        self._problems = problems
        self._anchors: dict[str, Value | None] = {}
        self._count = 0

    def document(self, path: KeyPath) -> Value | None:
        """Return the only document of the stream; None and a Problem if there is none or several."""
        self._loader.get_event()
        if isinstance(self._loader.get_event(), yaml.StreamEndEvent):
            return Value(None, self._file, 1, path)
        root = self._value(path, 0, 0)
        self._loader.get_event()
        after = self._loader.get_event()
        if not isinstance(after, yaml.StreamEndEvent):
            raise UnusableError("holds more than one YAML document", _line(after))
        return root

    def _value(self, path: KeyPath, line: int, depth: int) -> Value:
        event = self._loader.get_event()
        line = line or _line(event)
        self._spend(line, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, line, depth)
        if event.anchor:
            self._anchors[event.anchor] = None
        value = Value(self._data(event, path, line, depth), self._file, line, path, _written(event))
        if event.anchor:
            self._anchors[event.anchor] = value
        return value

    def _data(self, event: Any, path: KeyPath, line: int, depth: int) -> Any:
        if isinstance(event, yaml.SequenceStartEvent):
            self._plain_tag(event, _SEQ, path, line)
            return self._items(path, depth)
        if isinstance(event, yaml.MappingStartEvent):
            self._plain_tag(event, _MAP, path, line)
            return self._entries(path, depth)
        return self._scalar(event)

    def _scalar(self, event: Any) -> Any:
        tag = event.tag
        if tag in (None, "!"):
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        try:
            return scalar(tag, event.value, self._file, explicit=event.tag is not None)
        except UnusableError as error:
            return Unusable(str(error), Secret("") if tag in ("!env", "!file") else None)

    def _items(self, path: KeyPath, depth: int) -> tuple[Value, ...]:
        items: list[Value] = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            items.append(self._value((*path, len(items)), 0, depth + 1))
        self._loader.get_event()
        return tuple(items)

    def _entries(self, path: KeyPath, depth: int) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.peek_event()
            key, line = self._key(path), _line(event)
            value = self._value((*path, key), line, depth + 1)
            if key == "<<" and _is_merge(event, self._loader):
                merged = {**self._merged(value, path, depth), **merged}
            elif key in own:
                message = f"is written twice; the first time on line {own[key].line}"
                self._report((*path, key), line, message)
            else:
                own[key] = value
        self._loader.get_event()
        return {**merged, **own}

    def _key(self, path: KeyPath) -> str:
        event = self._loader.get_event()
        if isinstance(event, yaml.ScalarEvent):
            return str(event.value)
        if isinstance(event, yaml.AliasEvent):
            value = self._anchors.get(str(event.anchor))
            if value is not None and not isinstance(value.data, dict | tuple | Secret | Unusable):
                return value.text
        raise UnusableError("a key must be text", _line(event))

    def _merged(self, value: Value, path: KeyPath, depth: int) -> dict[str, Value]:
        """Return the entries of `<<`; the first of several mappings wins."""
        brought: dict[str, Value] = {}
        for source in value.data if isinstance(value.data, tuple) else (value,):
            if not isinstance(source.data, dict):
                self._report(value.path, value.line, "must bring in a mapping or a list of mappings")
                return {}
            for key, item in source.data.items():
                if key not in brought:
                    brought[key] = self._copied(item, (*path, key), value.line, depth + 1)
        return brought

    def _alias(self, event: Any, path: KeyPath, line: int, depth: int) -> Value:
        if event.anchor not in self._anchors:
            message = f"no anchor &{clip(event.anchor)} before this line"
            raise UnusableError(message, line)
        value = self._anchors[event.anchor]
        if value is None:
            message = f"the anchor &{clip(event.anchor)} contains itself"
            raise UnusableError(message, line)
        return self._copied(value, path, line, depth)

    def _copied(self, value: Value, path: KeyPath, line: int, depth: int) -> Value:
        """Return a value under another path, at the cost of a written-out value."""
        self._spend_all(value, line, depth)
        return relocated(value, path)

    def _spend_all(self, value: Value, line: int, depth: int) -> None:
        self._spend(line, depth)
        if isinstance(value.data, dict | tuple):
            for item in value.data.values() if isinstance(value.data, dict) else value.data:
                self._spend_all(item, line, depth + 1)

    def _spend(self, line: int, depth: int) -> None:
        """Count a value, and refuse a document with too many or too deeply nested values."""
        self._count += 1
        if self._count > MAX_VALUES:
            message = f"holds more than {MAX_VALUES} values, with every alias counted in full"
            raise UnusableError(message, line)
        if depth > MAX_DEPTH:
            raise UnusableError(TOO_DEEP, line)

    def _plain_tag(self, event: Any, wanted: str, path: KeyPath, line: int) -> None:
        if event.tag not in (None, "!", wanted):
            self._report(path, line, f"the YAML tag {clip(event.tag)} cannot be used here")

    def _report(self, path: KeyPath, line: int, message: str) -> None:
        self._problems.append(Value(None, self._file, line, path).problem(message))


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _written(event: Any) -> str:
    return event.value if isinstance(event, yaml.ScalarEvent) else ""


def _is_merge(event: Any, loader: Any) -> bool:
    """Whether a key `<<` is the merge key, and not quoted text."""
    return isinstance(event, yaml.ScalarEvent) and (
        loader.resolve(yaml.ScalarNode, event.value, event.implicit) == _MERGE
    )
