"""Words for an operator about the difference between two states of a step. Pure."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

LONGEST = 160  # characters of a value
NAMED = 3  # entries of a mapping in a reason
CONTEXT = 20  # common characters of long values, shown before the first difference

ANY = "*"


class Words(NamedTuple):
    """The words for one key of a state.

    Args:
        reason: why the step changes, where the key differs; `{names}` stands for the differing entries of a mapping,
            `{s}` for the plural of the noun before, `{have}` for the value found.
        name: stands before the two values; empty where the reason is enough.
        unless: keys whose difference explains this key's and replaces its reason; `*` stands for any key.
        otherwise: the reason where False is wanted.
    """

    reason: str
    name: str = ""
    unless: Collection[str] = ()
    otherwise: str = ""


Vocabulary = Mapping[str, Words]
State = Mapping[str, Any] | None


def reason(words: Vocabulary, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """Why a step changes, on one line.

    Args:
        words: vocabulary of the step's kind.
        have: the state found.
        want: the state wanted; further keys of `have` are evidence.
    """
    keys = _differing(have, want)
    unexplained = [key for key in keys if not _is_explained(words, key, keys)] or keys
    texts = [_reason(words, key, have.get(key), want[key]) for key in unexplained]
    return ", ".join(dict.fromkeys(filter(None, texts)))


def lines(words: Vocabulary, have: State, want: State) -> list[str]:
    """Both values of every differing key, one line each; a line for each entry of a mapping.

    Args:
        words: vocabulary of the step's kind.
        have: the state found; None for absent.
        want: the state wanted; None for absent.
    """
    keys = [key for key in _differing(have, want or {}) if not _is_explained(words, key, _differing(have, want or {}))]
    named = [(_name(words, key), (have or {}).get(key), (want or {})[key]) for key in keys]
    return [text for name, old, new in named if name for text in _values(name, old, new, is_new=have is None)]


def _differing(have: State, want: Mapping[str, Any]) -> list[str]:
    return [key for key, value in want.items() if have is None or have.get(key) != value]


def _is_explained(words: Vocabulary, key: str, keys: Sequence[str]) -> bool:
    unless = words[key].unless if key in words else ()
    rest = {each for each in keys if each != key}
    return bool(rest) if ANY in unless else bool(rest & set(unless))


def _reason(words: Vocabulary, key: str, have: Any, want: Any) -> str:
    known = words.get(key) or Words(f"{key} differs")
    text = (want is False and known.otherwise) or known.reason
    if "{names}" in text:
        plural = "s" if len(changed_entries(have, want)) > 1 else ""
        text = text.replace("{s}", plural).replace("{names}", _names(have, want))
    return text.replace("{have}", shown(have))


def _name(words: Vocabulary, key: str) -> str:
    return words[key].name if key in words else key


def _names(have: Any, want: Any) -> str:
    names = changed_entries(have, want)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def changed_entries(have: Any, want: Any) -> list[str]:
    """The names of the differing entries of two mappings, in order."""
    old, new = (value if isinstance(value, Mapping) else {} for value in (have, want))
    absent = object()
    return sorted(str(name) for name in {**old, **new} if old.get(name, absent) != new.get(name, absent))


def _values(name: str, have: Any, want: Any, *, is_new: bool) -> list[str]:
    if isinstance(want, Mapping) and (have is None or isinstance(have, Mapping)):
        old = have or {}
        return [
            text
            for entry in changed_entries(old, want)
            for text in _values(f"{name} {entry}", old.get(entry), want.get(entry), is_new=is_new)
        ]
    if is_new:
        return [f"{name}: {shown(want)}"] if want not in ("", [], ()) else []
    before, after = _apart(shown(have), shown(want))
    return [f"{name}: {before} -> {after}"]


def shown(value: Any) -> str:
    """A value as an operator reads it."""
    match value:
        case None:
            return "not set"
        case True | False:
            return "yes" if value else "no"
        case Mapping():
            return ", ".join(f"{key} {shown(entry)}" for key, entry in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(shown, value)) or "none"
    return str(value) or "none"


def _apart(have: str, want: str) -> tuple[str, str]:
    """Two values, each short enough for a line, with the first difference in sight."""
    if max(len(have), len(want)) <= LONGEST:
        return have, want
    same = next((at for at, pair in enumerate(zip(have, want, strict=False)) if pair[0] != pair[1]), LONGEST)
    begin = max(0, same - CONTEXT) if same > LONGEST - 2 * CONTEXT else 0
    return _cut(have, begin), _cut(want, begin)


def _cut(text: str, begin: int) -> str:
    kept = ("…" if begin else "") + text[begin:]
    return kept if len(kept) <= LONGEST else kept[: LONGEST - 1] + "…"


def text_diff(have: str, want: str, path: str) -> list[str]:
    """A unified diff of two texts, without the dates in its two header lines."""
    lines = difflib.unified_diff(have.splitlines(), want.splitlines(), path, path, lineterm="", n=2)
    return list(lines)
