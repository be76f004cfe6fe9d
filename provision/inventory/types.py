"""Types of settings that several roles need. Each type has words for its wanted form.

All are text (`Port` is a number). Each has a greatest length and refuses control characters, so that a value may be
printed, written into a file or handed over as one word of a command. No type makes quoting unnecessary.

A message has the wanted form; the value itself is added, clipped, when the message becomes a Problem.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_CARD = re.compile(r"(?:GPU|MIG)-[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_MOST_CARDS = 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}")
_VERSION = re.compile(r"(?:[0-9]+:)?[0-9]+(?:[.~+-][0-9A-Za-z]+)*")
_DURATION = re.compile(r"-?[0-9]{1,9}|(?:[0-9]{1,9}(?:\.[0-9]{1,3})?(?:ms|s|m|h|d))+")
_SHARE = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)%")
_SIZE = re.compile(r"([0-9]{1,18})([bkmgt]?)")
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!&*+,=%-]+")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBER = r"(?:0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,12})"
# Without a dot, a short number is a name, as an alias of the ssh configuration may be.
_NUMBERS = re.compile(rf"(?:{_NUMBER}(?:\.{_NUMBER}){{1,3}}|0[xX][0-9A-Fa-f]{{1,8}}|[0-9]{{8,12}})\.?")
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*)(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:(?=[^/]*[.:])|(?=localhost/)){_REGISTRY}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_MODEL_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_SPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"  # without a dot: Ollama takes `registry.example/x` for no name
_POOL = re.compile(r"(?:[a-z][a-z0-9_-]*)?")
_MODEL = re.compile(rf"(?:(?:{_REGISTRY}/)?{_SPACE}/)?{_MODEL_PART}(?::{_MODEL_PART})?")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _check(wanted: str, longest: int, test: Callable[[str], object]) -> AfterValidator:
    """Return a validator that keeps text passing `test`, and otherwise names the `wanted` form."""

    def validate(value: str) -> str:
        if len(value) > longest:
            message = f"must be {wanted}, of at most {longest} characters"
            raise ValueError(message)
        if not test(value):
            message = f"must be {wanted}"
            raise ValueError(message)
        return value

    return AfterValidator(validate)


def is_hostname(value: str) -> bool:
    """Return whether a text is a DNS name (or a short host name) without surprises."""
    return len(value) <= 253 and _HOSTNAME.fullmatch(value) is not None


def is_address(value: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address, without a zone."""
    try:
        return "%" not in value and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def looks_like_ipv4(value: str) -> bool:
    """Return whether programs may read a text as an IPv4 address: decimal, octal or hexadecimal numbers, with dots or
    as a single large number."""
    return _NUMBERS.fullmatch(value) is not None


def is_host(value: str) -> bool:
    """Return whether a text is a DNS name or an IP address with the same meaning for every program."""
    return is_address(value) or (is_hostname(value) and not looks_like_ipv4(value))


def _is_network(value: str) -> bool:
    try:
        return bool(ipaddress.IPv4Network(value))
    except ValueError:
        return False


def _is_ip_network(value: str) -> bool:
    try:
        return "%" not in value and bool(ipaddress.ip_network(value))
    except ValueError:
        return False


def is_duration(value: str) -> bool:
    """Return whether a text is a `Duration`."""
    return len(value) <= 30 and _DURATION.fullmatch(value) is not None


def is_clean(value: str) -> bool:
    """Return whether a text can be printed: no control characters, no line breaks, no lone surrogates."""
    return value.isprintable()


def _are_lines(value: str) -> bool:
    return bool(value.strip()) and all(is_clean(line.replace("\t", " ")) for line in value.split("\n"))


def is_url(value: str) -> bool:
    """Return whether a text is an http or https URL without user, password, blank or quote."""
    if not _URL.fullmatch(value):
        return False
    try:
        url = urlsplit(value)
        host, port = url.hostname or "", url.port
    except ValueError:
        return False
    usable = is_host(host) and "@" not in url.netloc and port != 0
    return url.scheme in ("http", "https") and usable


def _is_absolute(value: str) -> bool:
    return value.startswith("/") and is_clean(value) and ".." not in value.split("/")


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _lowered(value: Any) -> Any:
    text = _text(value)
    return text.strip().lower() if isinstance(text, str) and len(text) < 100 else text


def _fingerprint(value: Any) -> Any:
    """Take a fingerprint as gpg prints it, in groups of four, and bring it to one form."""
    return value.replace(" ", "").upper() if isinstance(value, str) and len(value) < 100 else value


def _card(value: Any) -> Any:
    """Return the name of a card: an index, or a UUID in the letters of nvidia-smi."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_CARDS:
        return value
    text = value.strip() if isinstance(value, str) and len(value) < 100 else ""
    uuid = text[:4].upper() + text[4:].lower()
    if not _CARD.fullmatch(uuid):
        message = (
            f"must be an index from 0 to {_MOST_CARDS - 1}, or a UUID that nvidia-smi -L shows: GPU-... or MIG-..."
        )
        raise ValueError(message)
    return uuid


def duration_seconds(value: str) -> float:
    """Return the seconds of a `Duration`; negative means without end (`math.inf`)."""
    if value.lstrip("-").isdigit():
        return float(value) if int(value) >= 0 else math.inf
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))


def size_bytes(value: str) -> int:
    """Return the bytes of a `Size`; units are powers of 1024, as Docker's memory limits are."""
    match = _SIZE.fullmatch(value)
    if match is None:
        message = f"not a size: {value!r}"
        raise ValueError(message)
    return int(match[1]) * _UNITS[match[2]]


def share_of(value: str) -> float:
    """Return a `Share` as a number: 0.05 for `5%`."""
    match = _SHARE.fullmatch(value)
    if match is None:
        message = f"not a share: {value!r}"
        raise ValueError(message)
    return float(match[1]) / 100


Text = Annotated[str, _check("text on one line, without control characters", 4096, is_clean)]
Lines = Annotated[str, _check("text on lines that end in \\n, without other control characters", 2**16, _are_lines)]
Name = Annotated[
    str, _check("a name of a-z, 0-9, '_', '.' and '-' that begins with a letter or digit", 63, _NAME.fullmatch)
]
PoolName = Annotated[str, _check("a pool such as research, of a-z, 0-9, '_' and '-', or empty", 63, _POOL.fullmatch)]
SiteName = Annotated[str, _check("a site such as east, of a-z, 0-9, '_' and '-', or empty", 63, _POOL.fullmatch)]
Port = Annotated[int, Field(ge=1, le=65535)]
Url = Annotated[str, _check("an http:// or https:// URL without user, password, blank or quote", 2000, is_url)]
Sha256 = Annotated[str, BeforeValidator(_lowered), _check("a sha256: 64 hexadecimal digits", 64, _SHA256.fullmatch)]
Fingerprint = Annotated[
    str,
    BeforeValidator(_fingerprint),
    _check("a key fingerprint: 40 hexadecimal digits, blanks allowed", 40, _FINGERPRINT.fullmatch),
]
ImageRef = Annotated[str, _check("an image such as NAME:TAG or NAME@sha256:DIGEST", 500, _IMAGE.fullmatch)]
ModelName = Annotated[str, _check("a model such as deepseek-r1:32b or HOST/SPACE/NAME:TAG", 400, _MODEL.fullmatch)]
AbsolutePath = Annotated[str, _check("an absolute path without '..'", 1000, _is_absolute)]
Address = Annotated[
    str, _check("an IP address", 45, is_address), AfterValidator(lambda value: str(ipaddress.ip_address(value)))
]
"""In its short form, as `ss` and nginx show an address: fd00::1 for FD00:0::1."""
Network = Annotated[str, _check("an IPv4 address or network such as 10.0.0.0/24", 31, _is_network)]
IpNetwork = Annotated[str, _check("an IP address or network such as 10.0.0.0/24 or fd00::/64", 49, _is_ip_network)]
Version = Annotated[str, _check("a version such as 1.26.3 or 5:29.1.3-1~debian.13~trixie", 100, _VERSION.fullmatch)]
Duration = Annotated[
    str,
    BeforeValidator(_lowered),
    _check("a duration such as 30s, 5m, 24h or -1 (without end)", 30, _DURATION.fullmatch),
]
"""Kept as text for Ollama and Docker; `duration_seconds` counts the seconds."""
Size = Annotated[str, BeforeValidator(_lowered), _check("a size in bytes or such as 50m or 8g", 20, _SIZE.fullmatch)]
"""Kept as text for Docker; `size_bytes` counts the bytes."""
CardName = Annotated[int | str, BeforeValidator(_card)]
"""An index, `GPU-...` of a card, or `MIG-...` of a MIG device."""
CardUser = Annotated[
    str,
    _check(
        "the name of a container or a program as provision shows it: text on one line",
        128,
        lambda value: bool(value.strip()) and value.isprintable(),
    ),
]
"""A program's name is shown without the rest beyond 128 characters."""
Share = Annotated[str, BeforeValidator(_lowered), _check("a share such as 1% or 0.5%", 10, _SHARE.fullmatch)]
"""Kept as text; `share_of` returns the number."""
