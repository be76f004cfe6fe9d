"""Single values of YAML, and the tags `!env` and `!file`."""

import os
import re
from collections.abc import Callable
from typing import Any

from provision.inventory.near import clip
from provision.inventory.paths import beside
from provision.inventory.secret import Secret

MAX_SECRET = 64 * 2**10  # bytes; keys and certificates have a few thousand

_PREFIX = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_AS_WRITTEN = frozenset({"str", "timestamp", "value", "merge"})


class UnusableError(Exception):
    """A value in a file cannot be used; `line` is 0 if only the caller knows the line."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def scalar(tag: str, text: str, file: str, *, explicit: bool) -> Any:
    """Return the value of a scalar.

    Args:
        tag: the resolved YAML tag, or `!env`, `!file`.
        text: the scalar as written.
        file: the file with the scalar; `!file` is relative to its directory.
        explicit: whether the tag was written, so that a value that does not fit is a mistake.

    Raises:
        UnusableError: an unknown tag, a value that does not fit its tag, or an unreadable secret.
    """
    if tag == "!env":
        return _from_environment(text)
    if tag == "!file":
        return _from_file(text, file)
    kind = tag.removeprefix(_PREFIX)
    if kind in _AS_WRITTEN and not (explicit and kind == "timestamp"):
        return text
    if tag == kind or kind not in _READERS:
        hint = "; ansible-vault is not read, use !env or !file" if tag == "!vault" else ""
        message = f"unknown YAML tag {clip(tag)}; known are !env and !file{hint}"
        raise UnusableError(message)
    try:
        return _READERS[kind](text)
    except (ValueError, KeyError):
        message = f"{clip(text)} is not what {clip(tag)} says"
        raise UnusableError(message) from None


def _whole(text: str) -> int | str:
    """Read a whole number. An octal or base 60 number of YAML 1.1 stays text, as any reader expects."""
    digits = text.replace("_", "").lower()
    if ":" in digits or len(digits) > 40 or re.fullmatch(r"[+-]?0[0-9]+", digits):
        return text
    return int(digits, 0)


def _number(text: str) -> float | str:
    digits = text.replace("_", "").lower()
    return text if ":" in digits else float(re.sub(r"\.(inf|nan)$", r"\1", digits))


def _truth(text: str) -> bool:
    return {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}[text.lower()]


_READERS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": _truth,
    "int": _whole,
    "float": _number,
}


def _from_environment(name: str) -> Secret:
    if not _VARIABLE.fullmatch(name):
        message = f"!env {clip(name)}: not the name of an environment variable"
        raise UnusableError(message)
    value = os.environ.get(name, "")
    if not value:
        message = f"!env {name}: the environment variable is {'empty' if name in os.environ else 'not set'}"
        raise UnusableError(message)
    return _checked(value.encode("utf-8", "surrogateescape"), f"!env {name}")


def _from_file(name: str, written_in: str) -> Secret:
    label = f"!file {clip(name)}"
    if not name:
        raise UnusableError("!file needs a path")
    try:
        path = beside(name, written_in)
        if not path.is_file():
            message = f"{label}: there is no such file"
            raise UnusableError(message)
        with path.open("rb") as file:
            data = file.read(MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        message = f"{label}: cannot be read: {clip(str(error))}"
        raise UnusableError(message) from None
    return _checked(data.removesuffix(b"\n").removesuffix(b"\r"), label)


def _checked(data: bytes, label: str) -> Secret:
    if len(data) > MAX_SECRET:
        message = f"{label}: is larger than {MAX_SECRET // 1024} KiB"
        raise UnusableError(message)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        message = f"{label}: is not UTF-8 text"
        raise UnusableError(message) from None
    if not text or "\0" in text:
        message = f"{label}: {'holds a NUL byte' if text else 'is empty'}"
        raise UnusableError(message)
    return Secret(text)
