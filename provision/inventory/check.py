"""Settings from merged values. Errors of pydantic become Problems with file, line, path and the nearest name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provision.errors import Problem
from provision.inventory.near import clip, did_you_mean
from provision.inventory.settings import KeyPath, Settings
from provision.inventory.value import Value, is_secret, locate, plain, step_into

S = TypeVar("S", bound=Settings)

_WANTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must be at least {min_length} characters long",
    "string_too_long": "must be at most {max_length} characters long",
    "value_error": "{error}",
}
ROUNDS = 5  # a mapping without its wrong fields may lack a required field: then the mapping is left out too
_LISTS = frozenset({"tuple_type", "list_type", "set_type", "frozen_set_type"})
_MAPPINGS = frozenset({"model_type", "model_attributes_type", "dict_type", "mapping_type"})


def validated(cls: type[S], value: Value, problems: list[Problem]) -> S | None:
    """Return the settings in a merged mapping, or None.

    Args:
        cls: the Settings class of the role.
        value: the mapping, with the place of every value.
        problems: collects every problem.
    """
    try:
        settings = cls.model_validate(plain(value))
    except ValidationError as error:
        reported = {(problem.file, problem.line, problem.path) for problem in problems}
        translated = _translated(cls, value, error.errors(include_url=False))
        problems += [problem for problem in translated if (problem.file, problem.line, problem.path) not in reported]
        problems += _between_the_right_ones(cls, value)
        return None
    crossing = [locate(value, path).problem(message) for path, message in all_problems(settings)]
    problems.extend(crossing)
    return None if crossing else settings


def _between_the_right_ones(cls: type[Settings], value: Value) -> Iterator[Problem]:
    """Yield cross-field problems of the right fields, so that all problems are reported at once.

    A field with the same name as a wrong field is not judged: its partner might be a default that nobody meant.
    """
    data, left_out, filled = plain(value), set[KeyPath](), set[KeyPath]()
    for _ in range(ROUNDS):
        try:
            settings = cls.model_validate(data)
        except ValidationError as error:
            for wrong in error.errors(include_url=False):
                _mend(data, wrong, left_out, filled)
            continue
        names = {path[-1] for path in left_out if path}
        for path, message in all_problems(settings):
            if not names & set(path) and path not in filled:
                yield locate(value, path).problem(message)
        return


def _mend(data: Any, error: ErrorDetails, left_out: set[KeyPath], filled: set[KeyPath]) -> None:
    """Fill a missing field with nothing, which equals no name, port or card. Delete a wrong field."""
    place, path = data, list[str | int]()
    for part in error["loc"]:
        inside = range(len(place)) if isinstance(place, tuple) else place if isinstance(place, dict) else ()
        if part in inside:
            place = place[part]
            path.append(part)
    missing = (*path, *error["loc"][-1:])
    if error["type"] == "missing" and isinstance(place, dict) and missing not in left_out | filled:
        place[missing[-1]] = ()
        filled.add(missing)
    # each member of a union reports the same place
    elif not any(gone and error["loc"][: len(gone)] == gone for gone in left_out):
        left_out.add(_leave_out(data, path))


def _leave_out(data: Any, path: Sequence[str | int]) -> KeyPath:
    """Delete the innermost key on a path, and return its path. Items of lists stay, because later items would move."""
    holders = [data]
    for part in path:
        holders.append(holders[-1][part])
    innermost = max((n for n, holder in enumerate(holders[:-1]) if isinstance(holder, dict)), default=None)
    if innermost is None:
        return ()
    del holders[innermost][path[innermost]]
    return tuple(path[: innermost + 1])


def all_problems(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path and message of every cross-field problem, inner mappings first."""
    for name in type(settings).model_fields:
        for path, inner in _inside((name,), getattr(settings, name)):
            yield from (((*path, *rest), message) for rest, message in all_problems(inner))
    yield from settings.problems()


def _inside(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Settings]]:
    """Yield every Settings inside a field, with its path."""
    if isinstance(value, Settings):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _inside((*path, key), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _inside((*path, index), item)


def _translated(cls: type[Settings], value: Value, errors: Iterable[ErrorDetails]) -> Iterator[Problem]:
    """Yield a single Problem per place: the members of a union each report an error there."""
    places: dict[KeyPath, list[ErrorDetails]] = {}
    for error in errors:
        places.setdefault(_path(value, error), []).append(error)
    for path, reported in places.items():
        yield locate(value, path).problem(_message(cls, value, path, reported))


def _path(value: Value, error: ErrorDetails) -> KeyPath:
    """Return an error's path without the names of union members, which pydantic puts among the keys."""
    path: list[str | int] = []
    for part in error["loc"]:
        inner = step_into(value, part)
        if inner is not None:
            value = inner
            path.append(part)
    return (*path, error["loc"][-1]) if error["type"] == "missing" else tuple(path)


def _message(cls: type[Settings], root: Value, path: KeyPath, errors: list[ErrorDetails]) -> str:
    kinds = {error["type"] for error in errors}
    if "extra_forbidden" in kinds:
        return _unknown(cls, path)
    if "missing" in kinds:
        return "is required"
    value = locate(root, path)
    wanted = " or ".join(dict.fromkeys(_wanted(error) for error in errors))
    if "secret_type" in kinds or is_secret(value):
        return wanted
    return f"{wanted}{_actual(value)}{_hint(value, kinds)}{_near(value, errors)}"


def _wanted(error: ErrorDetails) -> str:
    if error["type"] in _LISTS:
        return "must be a list"
    if error["type"] in _MAPPINGS:
        return "must be a mapping"
    known = _WANTED.get(error["type"])
    if known is None:
        return error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if error["type"] == "literal_error" and " or " not in error["ctx"]["expected"]:
        known = "must be {expected}"
    return known.format_map(error.get("ctx", {}))


def _actual(value: Value) -> str:
    """Return `, not VALUE`, short, so that text and number look different."""
    data = value.data
    if data is None:
        return ", not empty"
    if isinstance(data, dict):
        return ", not a mapping"
    if isinstance(data, tuple):
        return ", not a list"
    return f', not "{clip(data)}"' if isinstance(data, str) else f", not {clip(value.text or str(data))}"


def _hint(value: Value, kinds: set[str]) -> str:
    """Return a hint if YAML read a value with another type than meant."""
    if "string_type" in kinds and isinstance(value.data, bool | int | float):
        kind = "true or false" if isinstance(value.data, bool) else "a number"
        return f', which YAML reads as {kind}: write it in quotes, "{clip(value.text)}"'
    if kinds & {"int_type", "float_type"} and isinstance(value.data, str) and _is_number(value.data):
        return ": write it without quotes"
    return ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _near(value: Value, errors: list[ErrorDetails]) -> str:
    """Return the nearest of the allowed values."""
    expected = [str(error.get("ctx", {}).get("expected", "")) for error in errors]
    choices = [word.strip("'") for text in expected for word in text.replace(" or ", ", ").split(", ") if word]
    return did_you_mean(value.data, choices) if isinstance(value.data, str) and choices else ""


def _unknown(cls: type[Settings], path: KeyPath) -> str:
    known = _known(cls, path[:-1])
    near = did_you_mean(str(path[-1]), known)
    return f"unknown{near}" if near else f"unknown; known are {', '.join(sorted(known))}"


def _known(cls: type[Settings], path: KeyPath) -> list[str]:
    """Return the field names of the mapping at a path."""
    models: list[type[BaseModel]] = [cls]
    for part in path:
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        if annotations:
            models = [model for annotation in annotations for model in _models(annotation)]
    return [name for model in models for name in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in an annotation, such as `X` in `tuple[X, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
