"""Hold a case against an answer: what differs, and where."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.contract.ollama import documents
from tests.contract.ollama.cases import Case


@dataclass(frozen=True)
class Answer:
    """An answer to the request of a case.

    Attributes:
        status: the HTTP status; 0 where no answer came.
        headers: the headers, as sent.
        ends: how the body ended: length, chunked, head, eof or cut.
        body: the body, or the recorded begin of the body.
        now: the time of the answer on the clock of the server, as far as known.
        cut: whether the recording lacks the end of the body.
        chunks: the number of chunks.
        statuses: the statuses of a case with several requests.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    ends: str
    body: str
    now: datetime | None = None
    cut: bool = False
    chunks: int = 0
    statuses: tuple[int, ...] = ()


@dataclass(frozen=True)
class Difference:
    """A fact that does not hold: the place in the answer, the fact and the answer."""

    where: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: wanted {self.wanted}, found {self.found}"


def judge(case: Case, answer: Answer, version: str) -> list[Difference]:
    """Return the facts of a case that do not hold of an answer of a version; empty where the case holds."""
    facts = case.expected(version)
    if isinstance(facts, str):
        return []
    return [difference for fact, wanted in facts.items() for difference in _FACTS[fact](wanted, answer)]


Found = Iterator[Difference]


def _status(wanted: int, answer: Answer) -> Found:
    if answer.status != wanted:
        said = f"{answer.status} {answer.ends}" if not answer.body else f"{answer.status} {answer.body[:300]}"
        yield Difference("status", str(wanted), said)


def _headers(wanted: dict[str, Any], answer: Answer) -> Found:
    for name, pattern in wanted.items():
        values = [value for key, value in answer.headers if key.lower() == name.lower()]
        found = ", ".join(values) if values else None
        if pattern is None:
            if found is not None:
                yield Difference(f"headers.{name}", "no such header", found)
        elif found is None:
            yield Difference(f"headers.{name}", str(pattern), "no such header")
        else:
            yield from _text(f"headers.{name}", str(pattern), found)


def _ends(wanted: str, answer: Answer) -> Found:
    if answer.ends != wanted:
        yield Difference("ends", wanted, answer.ends)


def _chunks(wanted: str, answer: Answer) -> Found:
    """`frames`: every line or event of the body has a chunk of its own."""
    if answer.cut:
        return
    events = any(value.startswith("text/event-stream") for _, value in answer.headers)
    count = answer.body.count("\n\n" if events else "\n")
    if answer.chunks != count:
        yield Difference("chunks", f"{count} chunks, one for each of the {wanted}", f"{answer.chunks} chunks")


def _statuses(wanted: list[int], answer: Answer) -> Found:
    if list(answer.statuses) != wanted:
        yield Difference("statuses", str(wanted), str(list(answer.statuses)))


def _body(wanted: str, answer: Answer) -> Found:
    yield from _text("text", wanted, answer.body)


def _parsed(kind: str, read: Callable[..., Any]) -> Callable[[Any, Answer], Found]:
    def facts(wanted: Any, answer: Answer) -> Found:
        try:
            found = read(answer.body, cut=answer.cut)
        except (ValueError, KeyError) as error:
            yield Difference(kind, "a body that can be read", f"{error}: {answer.body[:300]!r}")
            return
        yield from _match(kind, wanted, found, answer.now)

    return facts


_FACTS: dict[str, Callable[[Any, Answer], Found]] = {
    "status": _status,
    "headers": _headers,
    "ends": _ends,
    "chunks": _chunks,
    "statuses": _statuses,
    "text": _body,
    "json": _parsed("json", documents.document),
    "frames": _parsed("frames", documents.lines),
    "events": _parsed("events", documents.events),
}


# -- documents


def _match(where: str, wanted: Any, found: Any, now: datetime | None) -> Found:
    if isinstance(wanted, dict):
        yield from _object(where, wanted, found, now)
    elif isinstance(wanted, list):
        yield from _list(where, wanted, found, now)
    elif isinstance(wanted, str):
        yield from _scalar(where, wanted, found, now)
    elif wanted != found or isinstance(wanted, bool) != isinstance(found, bool):
        yield Difference(where, repr(wanted), _short(found))


def _object(where: str, wanted: dict[str, Any], found: Any, now: datetime | None) -> Found:
    if not isinstance(found, dict):
        yield Difference(where, "an object", _short(found))
        return
    cut = isinstance(found, documents.CutObject)
    names = {key.removesuffix("?") for key in wanted}
    for key, pattern in wanted.items():
        name = key.removesuffix("?")
        if name == "..." or f"{key}?" in wanted:
            continue
        if name in found:
            yield from _match(f"{where}.{name}", pattern, found[name], now)
        elif not cut and not key.endswith("?"):
            yield Difference(f"{where}.{name}", _short(pattern), "no such key")
    if "..." not in names:
        for name in found.keys() - names:
            yield Difference(f"{where}.{name}", "no such key", _short(found[name]))


def _list(where: str, wanted: list[Any], found: Any, now: datetime | None) -> Found:
    """Match items in order; `...` behind an item of the case means one or more such items, `...?` any number."""
    if not isinstance(found, list):
        yield Difference(where, "a list", _short(found))
        return
    at = 0
    pairs = _with_marks(wanted)
    for index, (pattern, more) in enumerate(pairs):
        if more != "...?":
            if at == len(found):
                if not isinstance(found, documents.CutList):
                    yield Difference(f"{where}[{at}]", _short(pattern), "the end of the list")
                return
            yield from _match(f"{where}[{at}]", pattern, found[at], now)
            at += 1
        after = pairs[index + 1][0] if index + 1 < len(pairs) else None
        while more and at < len(found):
            own = [*_match(f"{where}[{at}]", pattern, found[at], now)]
            if own and (after is None or len(own) >= len([*_match(where, after, found[at], now)])):
                break
            yield from own
            at += 1
    if at < len(found):
        yield Difference(f"{where}[{at}]", "the end of the list", _short(found[at]))


def _with_marks(wanted: list[Any]) -> list[tuple[Any, str]]:
    """Return the items of a list, each with the mark behind the item."""
    marks = ("...", "...?")
    pairs = itertools.zip_longest(wanted, wanted[1:])
    return [(item, after if after in marks else "") for item, after in pairs if item not in marks]


_FORMS = {
    "text": r"(?s:.*)",
    "some text": r"(?s:.+)",
    "int": r"-?\d+",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)",
    "digest": r"[0-9a-f]{64}",
    "hex": r"[0-9a-f]+",
}
_TYPES: dict[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "nanoseconds": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**14,
    "bool": lambda value: isinstance(value, bool),
    "any": lambda value: True,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
}
_PLACEHOLDER = re.compile(r"<(" + "|".join(_FORMS) + r")>")
_TIME = re.compile(r"<time (?:in (\d+(?:\.\d+)?) s|far away)>")
_WORDS = re.compile(r"<\w+(?:\|\w+)+>")


def _scalar(where: str, wanted: str, found: Any, now: datetime | None) -> Found:
    name = wanted[1:-1] if wanted.startswith("<") and wanted.endswith(">") else ""
    if name in _TYPES:
        holds = _TYPES[name](found)
    elif time := _TIME.fullmatch(wanted):
        holds = _time(time[1], found, now)
    elif _WORDS.fullmatch(wanted):
        holds = found in wanted[1:-1].split("|")
    else:
        holds = isinstance(found, str) and not any(_text(where, wanted, found))
    if not holds:
        yield Difference(where, wanted if name else repr(wanted), _short(found))


def _text(where: str, wanted: str, found: str) -> Found:
    parts = _PLACEHOLDER.split(wanted)
    pattern = "".join(_FORMS[part] if index % 2 else re.escape(part) for index, part in enumerate(parts))
    if not re.fullmatch(pattern, found):
        yield Difference(where, repr(wanted), _short(found))


def _time(seconds: str | None, found: Any, now: datetime | None) -> bool:
    if not isinstance(found, str) or not re.fullmatch(_FORMS["time"], found):
        return False
    if now is None:
        return True
    # Python reads six digits of a second
    away = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", found)) - now
    if seconds is None:
        return away > timedelta(days=36500)
    return abs(away - timedelta(seconds=float(seconds))) < timedelta(seconds=30)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
