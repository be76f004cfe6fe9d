"""Bodies of answers as documents: JSON, lines of JSON and server-sent events, also from a body cut by a recording."""

import json
from typing import Any


class CutList(list[Any]):
    """A list without the items behind the end of the recording."""


class CutObject(dict[str, Any]):
    """An object without the members behind the end of the recording."""


def document(text: str, *, cut: bool) -> Any:
    """Return the document of a text; of a cut text, the part before the end.

    Raises:
        ValueError: the text is no JSON.
    """
    return _cut_document(text) if cut else json.loads(text)


def lines(text: str, *, cut: bool) -> list[Any]:
    """Return the document of every line; a cut text loses the line behind the end.

    Raises:
        ValueError: a line is no JSON, or the last line has no end.
    """
    whole = text.split("\n")
    last = whole.pop()
    if last and not cut:
        raise ValueError(f"the last line has no end: {last[:80]!r}")
    found = [json.loads(line) for line in whole]
    return CutList(found) if cut else found


def events(text: str, *, cut: bool) -> list[Any]:
    """Return the server-sent events of a text; a cut text loses the event behind the end.

    Raises:
        ValueError: an event has no data, or no end.
    """
    whole = text.split("\n\n")
    last = whole.pop()
    if last and not cut:
        raise ValueError(f"the last event has no end: {last[:80]!r}")
    found = list(map(_event, whole))
    return CutList(found) if cut else found


def _event(text: str) -> Any:
    fields = dict(line.split(": ", 1) for line in text.split("\n"))
    if unknown := fields.keys() - {"event", "data"}:
        raise ValueError(f"an event has the field {min(unknown)!r}")
    data = fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])
    return {"event": fields["event"], "data": data} if "event" in fields else data


def _cut_document(text: str) -> Any:
    """Read values up to the end of the text; containers that the end cuts are a CutList or a CutObject."""
    try:
        value, _ = _value(text, _blank(text, 0))
    except _EndError as error:
        raise ValueError("no document") from error
    return value


class _EndError(Exception):
    """The text ends within a value."""


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    if at == len(text):
        raise _EndError
    return at


def _value(text: str, at: int) -> tuple[Any, int]:
    if text[at] == "{":
        return _object(text, at + 1)
    if text[at] == "[":
        return _list(text, at + 1)
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except ValueError as error:
        raise _EndError from error
    if end == len(text):
        raise _EndError  # a number may go on
    return value, end


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    try:
        while True:
            at = _blank(text, at)
            if text[at] == "}":
                return found, at + 1
            at = _blank(text, at + 1) if text[at] == "," else at
            key, at = _value(text, at)
            at = _blank(text, _blank(text, at) + 1)  # behind the colon
            found[key], at = _value(text, at)
            if isinstance(found[key], CutList | CutObject):
                raise _EndError
    except _EndError:
        return CutObject(found), len(text)


def _list(text: str, at: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    try:
        while True:
            at = _blank(text, at)
            if text[at] == "]":
                return found, at + 1
            at = _blank(text, at + 1) if text[at] == "," else at
            value, at = _value(text, at)
            found.append(value)
            if isinstance(value, CutList | CutObject):
                raise _EndError
    except _EndError:
        return CutList(found), len(text)
