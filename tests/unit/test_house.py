"""Tests hand in fakes: few tests replace a part of a module, and their number is bounded here."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST = 30
"""The bound on patches in all tests: one fewer is allowed."""
METHODS = ("setattr", "setitem")
"""No object of the tests has such a method but pytest's `monkeypatch`, whatever its name."""

MOCK = [f"{where}patch{how}" for where in ("", "mock.", "unittest.mock.") for how in ("", ".object", ".dict")]
FUNCTIONS = {"setattr", *MOCK}


def patches(tree: ast.AST) -> list[int]:
    """Return the lines that replace a part of a module or of a class while a test runs.

    Counted are `setattr` and `setitem` of a `monkeypatch`, `mock.patch` and its like, the function `setattr`, and an
    assignment to an attribute of a module.
    """
    modules = {name for node in ast.walk(tree) for name in imported(node)}
    return sorted(node.lineno for node in ast.walk(tree) if is_patch(node, modules))


def is_patch(node: ast.AST, modules: set[str]) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
            return True
        case ast.Call(func=function):
            return ast.unparse(function) in FUNCTIONS
        case ast.Assign(targets=targets):
            return any(is_part(target, modules) for target in targets)
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            return is_part(target, modules)
    return False


def is_part(target: ast.expr, modules: set[str]) -> bool:
    """Whether an assignment goes to an attribute of a module."""
    return isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in modules


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the names that an import gives to modules."""
    match node:
        case ast.Import(names=names):
            yield from (alias.asname or alias.name.split(".")[0] for alias in names)
        case ast.ImportFrom(module=str(parent), names=names, level=0):
            yield from (alias.asname or alias.name for alias in names if is_module(f"{parent}.{alias.name}"))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module, and not a class or function in one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_few_tests_replace_a_part_of_a_module() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in patches(ast.parse(path.read_text()))
    ]
    assert len(found) < MOST, found


def test_every_way_to_replace_a_part_of_a_module_is_counted() -> None:
    text = """
import sys
from unittest import mock
from provision.runs import lock
monkeypatch.setattr(lock, "FOLDER", "x")
another.setattr("sys.stdin.isatty", print)
monkeypatch.setitem(sys.modules, "x", None)
mock.patch("provision.runs.lock.FOLDER", "x")
mock.patch.object(lock, "FOLDER", "x")
setattr(lock, "FOLDER", "x")
lock.FOLDER = "x"
monkeypatch.setenv("A", "b")
fake.members = print
self.path = "x"
"""
    assert list(patches(ast.parse(text))) == [5, 6, 7, 8, 9, 10, 11]
