"""Cases as data files: finding them, and building the step they are about."""

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

import provision.steps
from provision.steps.base import Owned, Step

TESTS = Path(__file__).parents[1]


def cases(kind: str) -> list[Any]:
    """The case files of a kind, as test parameters."""
    paths = sorted((TESTS / kind).glob("*/*.yaml"))
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in paths]


def load(path: Path) -> dict[str, Any]:
    """One case."""
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    return case


def step_of(path: Path, case: dict[str, Any]) -> Any:
    """The step or finder of a case: its class is the folder's name."""
    return TypeAdapter(classes()[path.parent.name]).validate_python(case.get("step", {}))


@cache
def classes() -> dict[str, type[Step] | type[Owned]]:
    """Every class of steps and finders, by name."""
    names = [module.name for module in pkgutil.walk_packages(provision.steps.__path__, "provision.steps.")]
    modules = [importlib.import_module(name) for name in names]
    found = (thing for module in modules for thing in vars(module).values() if inspect.isclass(thing))
    return {thing.__name__: thing for thing in found if issubclass(thing, Step | Owned)}
