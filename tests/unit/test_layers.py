"""The layer rule: a module imports only from rows below its own, and third parties have one home each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Highest first. Modules of one row do not import each other, except inside `steps` and inside packages.
ROWS = [
    {"fabfile"},
    {"cli", "lab"},
    {"report_past", "report_drain", "report_lock", "report_live"},
    {"report"},
    {"verify"},
    {"rollout", "loadtest", "each", "drain"},
    {"readmit", "standing"},
    {"apply", "rollback"},
    {"turn"},
    {"rolling"},
    {"holding"},
    {"marker"},
    {"perform", "past", "ending"},
    {"context", "lease"},
    {"journal"},
    {"runs"},
    {"ssh", "artifacts", "lock", "trust", "evidence"},
    {"connect", "jobs", "channels"},
    {"cards"},
    {"grouping", "alike"},
    {"plan"},
    {"sequence"},
    {"roles"},
    {"steps"},
    {"render", "script"},
    {"inventory", "command", "events", "printable", "hooks", "clock"},
    {"errors"},
]
HOMES = {
    "fabric": {"connect", "ssh", "fabfile"},
    "paramiko": {"connect", "ssh", "channels", "trust", "inventory"},
    "gevent": {"loadtest"},
    "jinja2": {"render"},
    "locust": {"loadtest"},
    "yaml": {"inventory", "lab"},
    "pydantic": {"inventory", "roles"},
    "pydantic_core": {"inventory", "roles"},
    "click": {"cli", "lab"},
    "rich": {"report_live", "lab"},
    "testinfra": {"verify"},
    "pytest": {"verify"},
}


def modules() -> list:
    return list(_modules())


def _modules():
    for folder, unit in (("provision", None), ("roles", "roles")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = unit or parts[0]
            if name not in ("__init__", "__main__") and "simulated" not in parts:
                yield pytest.param(name, path, id=str(path.relative_to(ROOT)))


def row_of(name):
    return next(number for number, row in enumerate(ROWS) if name in row)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in {path}"
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize(("name", "path"), modules())
def test_imports_go_down(name, path):
    for module, member in imported(path):
        top, _, rest = module.partition(".")
        if top == "provision":
            target = rest.split(".")[0] or member
            same = target == name and name != "roles"
            fine = same or row_of(name) < row_of(target)
            assert fine, f"{path.name} ({name}) must not import {module} {member or ''}"
        elif top in HOMES:
            assert name in HOMES[top], f"{top} belongs to {HOMES[top]}, not to {path.name}"


def test_every_module_has_a_row():
    assert all(any(param.values[0] in row for row in ROWS) for param in modules())
