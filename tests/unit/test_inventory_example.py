"""The files of inventory/ fit the real roles."""

from pathlib import Path

import pytest

from provision import sequence
from provision.inventory import load
from tests import example

FILES = Path(__file__).parents[2] / "inventory"


def test_the_example_is_up_to_date() -> None:
    assert (FILES / "example.yaml").read_text(encoding="utf-8") == example.text(), "run `make example`"


def test_every_setting_has_a_meaning() -> None:
    bare = [
        f"{name}.{setting}"
        for name in sequence.order()
        for setting, field in sequence.role(name).Settings.model_fields.items()
        if not field.description
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["example.yaml", "starter.yaml"])
def test_the_files_load(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    roles = {role: sequence.role(role).Settings for role in sequence.order()}
    assert load(FILES / name, roles=roles).hosts
    assert sequence.load(str(FILES / name)).warnings is not None
