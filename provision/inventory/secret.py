"""A value that never shows itself."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

SHOWN = "[secret]"
SHORTEST = 6  # characters; a shorter secret would match in every other word


class Secret:
    """Text that prints, formats and serialises as `[secret]`; only `reveal` returns the text.

    A setting of this type takes `!env NAME`, `!file PATH` and plain text.

    Args:
        value: the text to keep.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself, only for a host's standard input or for a file of mode 0600."""
        return self._value

    def hidden(self) -> Iterable[str]:
        """Return the texts that no output may have: the secret, and every line of a secret with several lines."""
        return (self._value, *self._value.splitlines())

    def __str__(self) -> str:
        return SHOWN

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return format(SHOWN, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.no_info_plain_validator_function(_secret, serialization=shown)


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    if isinstance(value, str):
        return Secret(value)
    raise PydanticCustomError("secret_type", "must be text in quotes, !env NAME or !file PATH")


class Mask:
    """Masks secrets in output: a program on a host may print its input.

    Args:
        secrets: the secrets. `Secret.hidden` has the texts to mask.
    """

    def __init__(self, secrets: Iterable[Secret]) -> None:
        texts = {text for secret in secrets for text in secret.hidden()}
        longest_first = sorted((text for text in texts if len(text) >= SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, value: Any) -> Any:
        """Return the same value, with `[secret]` for every secret in its texts."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(SHOWN, value)
        if isinstance(value, Mapping):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self(item) for item in value)
        return value


def secrets_in(value: Any) -> Iterable[Secret]:
    """Yield every Secret inside mappings, sequences and objects with fields."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secrets_in(item)
    elif hasattr(value, "__dict__"):
        yield from secrets_in(vars(value))
    elif hasattr(value, "__slots__"):
        yield from secrets_in([getattr(value, name) for name in value.__slots__])
