"""The files of inventory/ fit the real roles."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from provision.inventory import Settings, load
from provision.inventory.example import meaning, settings_in
from provision.plan import role_interface
from tests import example

FILES = Path(__file__).parents[2] / "inventory"


def test_the_example_is_up_to_date() -> None:
    assert (FILES / "example.yaml").read_text(encoding="utf-8") == example.text(), "run `make example`"


def test_every_setting_has_a_meaning() -> None:
    roles = [role_interface.role(name).Settings for name in role_interface.order()]
    assert [f"{cls.__qualname__}.{name}" for cls, name in settings_of(roles) if not meaning(cls, name)] == []


def settings_of(classes: Iterable[type[Settings]]) -> Iterator[tuple[type[Settings], str]]:
    """Return every field of some classes and of the mappings inside."""
    for cls in classes:
        for name, field in cls.model_fields.items():
            yield cls, name
            yield from settings_of(settings_in(field.annotation))


@pytest.mark.parametrize("name", ["example.yaml", "starter.yaml"])
def test_the_files_load(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    roles = {role: role_interface.role(role).Settings for role in role_interface.order()}
    assert load(FILES / name, roles=roles).hosts
    assert role_interface.load(str(FILES / name)).warnings is not None
