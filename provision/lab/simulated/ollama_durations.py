"""Go's notation of durations, and the two places where Ollama reads a keep-alive."""

import re
from typing import Any

FOREVER = (2**63 - 1) / 1e9
"""The longest duration of Go, in seconds: some 292 years. A negative keep-alive becomes this one."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")
_GO_NAMES: dict[type, str] = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def parse(text: str) -> float:
    """Return a duration in seconds, such as -1.5 for `-1s500ms`.

    Raises:
        ValueError: the text is no duration; the text of the error is Go's own.
    """
    rest = text[1:] if text[:1] in {"+", "-"} else text
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if rest == "0":
        return 0.0
    total = 0.0
    while rest or not text:
        part = _PART.match(rest)
        if not part:
            raise ValueError(f"time: invalid duration {quoted}")
        number, unit = part.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration {quoted}')
        total += float(number) * _UNITS[unit]
        rest = rest[part.end() :]
    if text in {"+", "-"}:
        raise ValueError(f"time: invalid duration {quoted}")
    return -total if text.startswith("-") else total


def of_request(value: Any) -> float:
    """Return the keep-alive of a request in seconds: a number, or a text with units; a negative one is FOREVER.

    Raises:
        ValueError: the value is no keep-alive; the text of the error is Go's own.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"Unsupported type: '{_GO_NAMES[type(value)]}'")
    length = parse(value) if isinstance(value, str) else float(value)
    return FOREVER if length < 0 else min(length, FOREVER)


def of_environment(text: str) -> float:
    """Return OLLAMA_KEEP_ALIVE in seconds: with units, or a whole number of seconds; five minutes where it is neither.

    A negative one is FOREVER.
    """
    try:
        length = int(text) if re.fullmatch(r"[+-]?\d+", text) else parse(text)
    except ValueError:
        length = 300
    return FOREVER if length < 0 else min(float(length), FOREVER)
