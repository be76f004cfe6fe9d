"""`group_vars/` and `host_vars/` beside the inventory file."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from provision.errors import Problem
from provision.inventory.document import read
from provision.inventory.near import did_you_mean
from provision.inventory.value import Value

MAX_FILES = 5_000

_ENDINGS = ("", ".yml", ".yaml", ".json")
Levels = Mapping[str, list[Mapping[str, Value]]]


def read_directory(
    directory: Path,
    known: Mapping[str, object],
    wanted: Collection[str],
    problems: list[Problem],
    warnings: list[str],
) -> Levels:
    """Return the variables in a directory for each group or host, in order of precedence.

    Args:
        directory: `group_vars` or `host_vars`; need not exist.
        known: the valid names of files.
        wanted: the names to read.
        problems: collects every problem.
        warnings: collects files without a group or host.
    """
    levels: dict[str, list[Mapping[str, Value]]] = {}
    sources: dict[str, Path] = {}
    for entry in _entries(directory, problems):
        name = _name(entry)
        if name is None:
            continue
        if name not in known:
            warnings.append(f"{entry}: no {_noun(directory)} is called {name}{did_you_mean(name, known)}")
        if name not in wanted:
            continue
        if name in sources:
            problems.append(Problem(str(entry), 0, "", f"{name} has {sources[name].name} too; keep one of them"))
        sources.setdefault(name, entry)
        variables = [mapping for file in _files(entry, problems) for mapping in _variables(file, problems)]
        levels.setdefault(name, []).extend(variables)
    return levels


def _noun(directory: Path) -> str:
    return directory.name.removesuffix("_vars")


def _entries(directory: Path, problems: list[Problem]) -> list[Path]:
    if not directory.exists():
        return []
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        problems.append(Problem(str(directory), 0, "", f"cannot be read: {error.strerror}"))
        return []


def _name(entry: Path) -> str | None:
    """Return the group or host of a file or directory, or None for litter of editors and systems."""
    if _is_litter(entry.name):
        return None
    if entry.is_dir():
        return entry.name
    known_ending = entry.suffix in _ENDINGS[1:]
    return entry.stem if known_ending else entry.name


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.endswith(("~", ".bak", ".orig", ".swp", ".retry"))


def _files(entry: Path, problems: list[Problem]) -> list[Path]:
    if not entry.is_dir():
        return [entry]
    paths: list[Path] = []
    for directory, inner, files in os.walk(entry):
        inner[:] = sorted(name for name in inner if not _is_litter(name))
        wanted = [name for name in files if not _is_litter(name) and Path(name).suffix in _ENDINGS]
        paths += [Path(directory) / name for name in sorted(wanted)]
        if len(paths) > MAX_FILES:
            problems.append(Problem(str(entry), 0, "", f"holds more than {MAX_FILES} files"))
            return []
    return sorted(paths)


def _variables(file: Path, problems: list[Problem]) -> Iterator[Mapping[str, Value]]:
    value = read(file, problems)
    if value is None or value.data is None:
        return
    if isinstance(value.data, dict):
        yield value.data
    else:
        problems.append(value.problem("must be a mapping of variables"))
