"""JSON as Go reads and writes JSON: Go's escapes, and the texts of Go's errors (recorded from 0.33)."""

import json
from typing import Any, NoReturn

_ESCAPES = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"})
_EXPECTED = {
    "Expecting property name": "looking for beginning of object key string",
    "Illegal trailing comma": "looking for beginning of object key string",
    "Expecting ':'": "after object key",
    "Expecting ','": "after object key:value pair",
    "Invalid control character": "in string literal",
    "Invalid \\": "in string escape code",
}
_BLANKS = " \t\r\n"


class NoBodyError(Exception):
    """There is nothing to decode."""


def encode(document: Any) -> bytes:
    """Return a document as Go's encoder writes it, without blanks; half of a surrogate pair becomes a question mark."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_ESCAPES).encode(errors="replace")


def decode(data: bytes) -> Any:
    """Return the first JSON value of a request body; the rest of the body is ignored, as in the real server.

    Raises:
        NoBodyError: the body is empty.
        ValueError: the body does not begin with a JSON value; the text is the text of Go's error.
    """
    text = data.decode(errors="replace").lstrip(_BLANKS)
    if not text:
        raise NoBodyError
    try:
        return json.JSONDecoder(parse_constant=_refuse).raw_decode(text)[0]
    except json.JSONDecodeError as error:
        raise ValueError(_words(text, error)) from error
    except RecursionError as error:
        raise ValueError("exceeded max depth") from error


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"invalid character '{word[0]}' looking for beginning of value")


def _words(text: str, error: json.JSONDecodeError) -> str:
    if error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip(_BLANKS)):
        return "unexpected EOF"
    letter = json.dumps(text[error.pos])[1:-1] if text[error.pos] != '"' else '"'
    where = next((said for words, said in _EXPECTED.items() if error.msg.startswith(words)), "")
    return f"invalid character '{letter}' {where or 'looking for beginning of value'}"
