"""The base class of every role's settings.

pydantic validates, because it reports every error with its path and imports in 0.10 s of CPU, less than fabric.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, field_validator
from pydantic_core import CoreSchema
from pydantic_core.core_schema import ValidationInfo

from provision.inventory.secret import Secret

KeyPath = tuple[str | int, ...]

_SCALARS = frozenset({"bool", "float", "int", "str"})
_NOT_SCHEMAS = frozenset({"default", "expected", "metadata", "members", "serialization"})


def _keeps_secrets(annotation: Any) -> bool:
    """Return whether a field's type includes Secret."""
    is_secret = isinstance(annotation, type) and issubclass(annotation, Secret)
    return is_secret or any(_keeps_secrets(part) for part in get_args(annotation))


def _holds_secret(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(_holds_secret(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, Secret)


def _revealed(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, dict):
        return {key: _revealed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_revealed(item) for item in value)
    return value


def _be_strict(schema: Any) -> None:
    """Make every scalar strict and leave containers lax.

    pydantic's own strict mode would also refuse a list for a declared tuple, and YAML has no tuples.
    """
    if isinstance(schema, dict):
        if schema.get("type") in _SCALARS:
            schema["strict"] = True
        for key, item in schema.items():
            if key not in _NOT_SCHEMAS:
                _be_strict(item)
    elif isinstance(schema, list | tuple):
        for item in schema:
            _be_strict(item)


class Settings(BaseModel):
    """The settings of one role, or one mapping inside.

    A subclass declares typed fields. The string under a field is its meaning, shown in `example.yaml`. Values are
    frozen, and unknown keys are refused; `"3001"` is no number, `1` no boolean, `1.26` no text. Sequences are `tuple[X,
    ...]` (YAML lists are taken). Mappings inside are `Settings` themselves or `dict[str, X]`.

    A `Secret` field keeps a secret secret. `!env` and `!file` also work in plain text fields; the setting is an
    ordinary `str` then, masked only by `inventory show` and in error messages.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,  # a mapping inside is never validated alone, so it is never built alone
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    SHORT: ClassVar[str] = ""
    """The key for which a bare text in the place of the whole mapping stands; empty for none."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Find problems between fields that are each right.

        Yields:
            the path inside these settings, such as `("instances", 0, "port")`, and the problem there. Mappings inside
            are checked too, with their paths put in front.
        """
        yield from ()

    @field_validator("*", mode="before")
    @classmethod
    def _open_secrets(cls, value: Any, info: ValidationInfo) -> Any:
        if not _holds_secret(value) or _keeps_secrets(cls.model_fields[info.field_name or ""].annotation):
            return value
        return _revealed(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _be_strict(schema)
        return schema
