"""Cases as data files: find the files, and build the step of a case."""

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from pydantic import TypeAdapter

import provision.steps
from provision.steps.base import Owned, Step
from provision.steps.ollama.engine import OLLAMA

TESTS = Path(__file__).parents[1]


def cases(kind: str) -> list[Any]:
    """Return the case files of a kind, as test parameters."""
    paths = sorted((TESTS / kind).glob("*/*.yaml"))
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in paths]


def load(path: Path) -> dict[str, Any]:
    """Return a case."""
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    return case


def write_commands(path: Path, described: dict[str, list[str]]) -> None:
    """Replace lists of commands in a case file, and keep all other lines.

    Args:
        path: the case file.
        described: the commands in the words of `describe`, by key of the case.
    """
    lines = path.read_text().splitlines()
    for key, commands in described.items():
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        end = next((n for n in range(start + 1, len(lines)) if lines[n][:1] not in "- "), len(lines))
        text = yaml.dump({key: commands}, Dumper=_Dumper, allow_unicode=True, width=118)
        lines[start:end] = text.splitlines()
    path.write_text("\n".join(lines) + "\n")


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


OF_ENGINE = {"engine": OLLAMA, "inside": OLLAMA.probe.port, "unusable": OLLAMA.unusable}
"""Arguments that a role takes from the engine of its instances; case files leave them out."""


def step_of(path: Path, case: dict[str, Any]) -> Any:
    """Return the step or finder of a case; the folder has the name of the class."""
    kind = classes()[path.parent.name]
    given = {name: value for name, value in OF_ENGINE.items() if name in kind.__dataclass_fields__}
    types = get_type_hints(kind)
    said = {name: TypeAdapter(types[name]).validate_python(value) for name, value in case.get("step", {}).items()}
    return kind(**{**given, **said})


@cache
def classes() -> dict[str, type[Step] | type[Owned]]:
    """Return every class of steps and finders, by name."""
    names = [module.name for module in pkgutil.walk_packages(provision.steps.__path__, "provision.steps.")]
    modules = [importlib.import_module(name) for name in names]
    found = (thing for module in modules for thing in vars(module).values() if inspect.isclass(thing))
    return {thing.__name__: thing for thing in found if issubclass(thing, Step | Owned)}
