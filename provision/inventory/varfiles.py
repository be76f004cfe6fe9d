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
    """Return the variables that a directory holds for each group or host, in the order in which they win.

    Args:
        directory: `group_vars` or `host_vars`; need not exist.
        known: the names that files may be called by.
        wanted: those of them whose files are read.
        problems: takes what is wrong.
        warnings: takes files that belong to nobody.
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
        found = [mapping for file in _files(entry, problems) for mapping in _variables(file, problems)]
        levels.setdefault(name, []).extend(found)
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
    """Return whose variables a file or directory holds, or None for what editors and systems leave behind."""
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
    found: list[Path] = []
    for directory, inner, files in os.walk(entry):
        inner[:] = sorted(name for name in inner if not _is_litter(name))
        wanted = [name for name in files if not _is_litter(name) and Path(name).suffix in _ENDINGS]
        found += [Path(directory) / name for name in sorted(wanted)]
        if len(found) > MAX_FILES:
            problems.append(Problem(str(entry), 0, "", f"holds more than {MAX_FILES} files"))
            return []
    return sorted(found)


def _variables(file: Path, problems: list[Problem]) -> Iterator[Mapping[str, Value]]:
    value = read(file, problems)
    if value is None or value.data is None:
        return
    if isinstance(value.data, dict):
        yield value.data
    else:
        problems.append(value.problem("must be a mapping of variables"))
