"""How the difference between two states of a step is told to an operator. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

LONGEST = 160  # characters of a value
NAMED = 3  # entries of a mapping that a reason names
CONTEXT = 20  # characters that long values have in common and that are shown before their first difference

ANY = "*"


class Words(NamedTuple):
    """What one key of a state is called.

    Args:
        reason: why the step changes, where the key differs; `{names}` stands for the entries of a mapping that differ,
            `{have}` for what was found.
        name: stands before the two values; empty where the reason says it all.
        unless: keys whose difference explains this one, which is left out then; `*` stands for any other key.
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
        words: of the step's kind.
        have: what was found.
        want: what is wanted; keys that it does not name are evidence.
    """
    keys = _differing(have, want)
    told = [key for key in keys if not _is_explained(words, key, keys)] or keys
    texts = [_reason(words, key, have.get(key), want[key]) for key in told]
    return ", ".join(dict.fromkeys(filter(None, texts)))


def lines(words: Vocabulary, have: State, want: State) -> list[str]:
    """Both values of every key that differs, one line each; of a mapping a line for each entry.

    Args:
        words: of the step's kind.
        have: what was found; None for nothing.
        want: what is wanted; None for nothing.
    """
    keys = [key for key in _differing(have, want or {}) if not _is_explained(words, key, _differing(have, want or {}))]
    named = [(_name(words, key), (have or {}).get(key), (want or {})[key]) for key in keys]
    return [text for name, old, new in named if name for text in _values(name, old, new, is_new=have is None)]


def _differing(have: State, want: Mapping[str, Any]) -> list[str]:
    return [key for key, value in want.items() if have is None or have.get(key) != value]


def _is_explained(words: Vocabulary, key: str, keys: Sequence[str]) -> bool:
    unless = words[key].unless if key in words else ()
    others = {other for other in keys if other != key}
    return bool(others) if ANY in unless else bool(others & set(unless))


def _reason(words: Vocabulary, key: str, have: Any, want: Any) -> str:
    known = words.get(key) or Words(f"{key} differs")
    text = (want is False and known.otherwise) or known.reason
    if "{names}" in text:
        text = text.replace("{names}", _names(have, want))
    return text.replace("{have}", shown(have))


def _name(words: Vocabulary, key: str) -> str:
    return words[key].name if key in words else key


def _names(have: Any, want: Any) -> str:
    names = changed_entries(have, want)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def changed_entries(have: Any, want: Any) -> list[str]:
    """The names of the entries in which two mappings differ, in order."""
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
    """Two values, short enough for a line, with the place in sight where they begin to differ."""
    if max(len(have), len(want)) <= LONGEST:
        return have, want
    same = next((at for at, pair in enumerate(zip(have, want, strict=False)) if pair[0] != pair[1]), LONGEST)
    begin = max(0, same - CONTEXT) if same > LONGEST - 2 * CONTEXT else 0
    return _cut(have, begin), _cut(want, begin)


def _cut(text: str, begin: int) -> str:
    kept = ("…" if begin else "") + text[begin:]
    return kept if len(kept) <= LONGEST else kept[: LONGEST - 1] + "…"
